"""Submits training runs, hyperparameter sweeps and shard builds to Slurm, requeues them and reports their state;
behind `launch/slurm.py`.
"""
