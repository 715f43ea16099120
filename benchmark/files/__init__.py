"""Digests and names of files, and writing files safely, as CSV or JSON too."""
