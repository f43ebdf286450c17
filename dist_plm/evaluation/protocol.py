"""Standard retrieval protocol: embed the test split, evaluate each rank's queries, sum over ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.config import Config
from dist_plm.data.opening import labels_as, open_test
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.evaluation.cluster_agreement import nmi
from dist_plm.evaluation.intervals import bootstrap
from dist_plm.evaluation.retrieval import Counts, retrieval_counts
from dist_plm.index.batch_sources import Source
from dist_plm.index.embedding_pass import Embed, sweep
from dist_plm.telemetry.parts import part
from dist_plm.telemetry.progress import Display


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one network on the test split.

    Attributes:
        result: {"recall": {K: share}, "map_at_r", "queries", "dropped"}, the 95 % "interval" of recall at the smallest
            K, {"low", "high"} by a bootstrap over queries, and "nmi" where it was asked for.
        hits: int8 [Q], whether each query found its class within the smallest K; -1 where it does not count.
    """

    result: dict[str, Any]
    hits: np.ndarray


@part("evaluation")
def evaluate(
    embed: Embed, folder: Path, *, config: Config, world: World, display: Display,
    source: Callable[[Store], Source] | None = None,
) -> Evaluation | None:  # fmt: skip
    """Recall@K, MAP@R and NMI of `embed` on the test split; None if no query has a positive. A collective.

    Args:
        embed: uint8 views [b, 3, s, s] -> embeddings [b, D].
        folder: For the embeddings; named by the digest of the weights of `embed`.
        source: Provides the batches of a split, in place of its images.
    """
    if not config.data.test_split:
        return None
    queries, gallery = open_test(config.data)
    own_labels, labels = queries.labels.astype(np.int64), labels_as(queries, gallery)
    if not _has_positives(own_labels, labels, least=1 if gallery is not queries else 2):
        return None

    def embedded(store: Store) -> np.ndarray:
        title, batches = f"embed {store.split}", source(store) if source else None
        return sweep(
            embed, store, folder, config=config, world=world, display=display, title=title, source=batches
        ).whole()

    vectors = embedded(queries)
    gallery_vectors = vectors if gallery is queries else embedded(gallery)
    assigned = np.array_split(np.arange(len(queries)), world.size)[world.rank]
    counts = retrieval_counts(
        torch.from_numpy(vectors[assigned]).to(world.device),
        torch.from_numpy(own_labels[assigned]).to(world.device),
        torch.from_numpy(gallery_vectors).to(world.device),
        torch.from_numpy(labels).to(world.device),
        config.evaluation.ks,
        own_rows=torch.from_numpy(assigned).to(world.device) if gallery is queries else None,
    )
    total = reduce(add, world.gather_objects(counts))
    return _result(total, vectors, own_labels, config, world)


def _has_positives(queries: np.ndarray, gallery: np.ndarray, least: int) -> bool:
    """Whether any query's label is that of `least` images of the gallery: 2 where one of them is the query."""
    labels, counts = np.unique(gallery[gallery >= 0], return_counts=True)
    return bool(np.isin(queries, labels[counts >= least]).any())


def _result(counts: Counts, vectors: np.ndarray, labels: np.ndarray, config: Config, world: World) -> Evaluation:
    metrics, interval = counts.metrics(), bootstrap(counts.first[counts.first >= 0])
    result = {
        "recall": {str(k): share for k, share in metrics["recall"].items()},
        "interval": {"low": interval.low, "high": interval.high},
        "map_at_r": metrics["map_at_r"],
        "queries": metrics["queries"],
        "dropped": metrics["dropped"],
    }
    if config.evaluation.nmi:
        result["nmi"] = world.from_first(lambda: nmi(vectors, labels, seed=config.seed))
    return Evaluation(result, counts.first)


def raw_pixels(views: Tensor) -> Tensor:
    """Views as vectors [b, 768]: 16 x 16 colours, centred and of unit length. A lower baseline for any embedding."""
    pixels = functional.adaptive_avg_pool2d(views.float(), 16).flatten(1)
    return functional.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)
