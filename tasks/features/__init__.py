"""Snapshots, and the feature store they go to."""
