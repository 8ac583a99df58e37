"""From the sources into the lake: read, check, keep or quarantine."""
