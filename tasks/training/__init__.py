"""From a training set to a model version, its record and its card."""
