"""Metrics of an embedding (recall@k, MAP@R, NMI, statistics without labels), their protocol, published results."""

from .cluster_agreement import nmi
from .retrieval import Counts, recall_at_k, retrieval_counts

__all__ = ["Counts", "nmi", "recall_at_k", "retrieval_counts"]
