"""Metrics of an embedding. Tensors in, numbers out: of the project they know the index's order of distances."""

from .clustering import nmi
from .retrieval import Counts, recall_at_k, retrieval_counts

__all__ = ["Counts", "nmi", "recall_at_k", "retrieval_counts"]
