"""Trained networks ready for use: loaded from a run, an export or a configuration, and exported."""
