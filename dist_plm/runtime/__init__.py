"""Ranks, strategy, checkpoints, signals and what a person sees."""
