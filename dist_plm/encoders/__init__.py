"""Trained networks for inference: loaded from a run, an export or a configuration, and exported."""
