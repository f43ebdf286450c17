"""Checkpoints: their format, writing them beside training, which stay, and the lock of a run directory."""
