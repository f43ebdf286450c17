"""Metrics of an embedding. They know nothing of the project: tensors in, numbers out."""

from .clustering import nmi
from .retrieval import Counts, recall_at_k, retrieval_counts

__all__ = ["Counts", "nmi", "recall_at_k", "retrieval_counts"]
