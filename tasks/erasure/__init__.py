"""What leaves: persons who ask to be forgotten, files nothing needs any more."""
