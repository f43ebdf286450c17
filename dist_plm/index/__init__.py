"""Nearest-neighbour search over the embeddings of a data set on all ranks, the pass that computes them, clustering."""

from .flat import nearest

__all__ = ["nearest"]
