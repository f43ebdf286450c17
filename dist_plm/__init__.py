"""Piecewise-linear manifolds for deep metric learning, on any number of ranks."""

__version__ = "0.1.0"
