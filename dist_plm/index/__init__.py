"""Nearest neighbours over the embeddings of a whole data set."""

from .flat import nearest

__all__ = ["nearest"]
