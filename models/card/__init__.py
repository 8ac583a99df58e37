"""The model card: its facts, its limits, its document."""
