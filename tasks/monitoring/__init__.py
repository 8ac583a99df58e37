"""What is watched once a release serves."""
