"""How good scores are: metrics, intervals, curves, segments."""
