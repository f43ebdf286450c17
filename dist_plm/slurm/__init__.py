"""Runs on a cluster: what is asked of Slurm, what a task does, and what became of it. `slurm.py` is the command."""
