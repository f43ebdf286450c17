"""Checkpoints: sharded format, saving beside training, retention, and the lock of a run directory."""
