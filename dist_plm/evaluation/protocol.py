"""The field's protocol on one data set: embed the test split, count on every rank for its own queries, add up."""

from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.data.store import Store
from dist_plm.evaluation.clustering import nmi
from dist_plm.evaluation.retrieval import Counts, retrieval_counts
from dist_plm.index.sweep import Embed, sweep
from dist_plm.runtime.parts import part
from dist_plm.runtime.progress import Display
from dist_plm.runtime.world import World


@part("evaluation")
def evaluate(embed: Embed, folder: Path, *, config: Config, world: World, display: Display) -> dict[str, Any] | None:
    """Recall@K, MAP@R and NMI of `embed` on the test split; None where its labels give no query a positive. A
    collective.

    Args:
        embed: uint8 views [b, 3, s, s] -> embeddings [b, D].
        folder: For the sweeps' files; named after the weights of `embed`.
    """
    if not config.data.test_split:
        return None
    queries = open_split(config.data, config.data.test_split)
    if not (queries.labels >= 0).any():
        return None
    vectors = _embed(embed, queries, folder, config, world, display)
    gallery, gallery_vectors = queries, vectors
    apart = config.data.gallery_split not in ("", config.data.test_split)  # else a query must not find itself
    if apart:
        gallery = open_split(config.data, config.data.gallery_split)
        gallery_vectors = _embed(embed, gallery, folder, config, world, display)
    own = np.array_split(np.arange(len(queries)), world.size)[world.rank]
    counts = retrieval_counts(
        torch.from_numpy(vectors[own]).to(world.device),
        torch.from_numpy(queries.labels[own].astype(np.int64)).to(world.device),
        torch.from_numpy(gallery_vectors).to(world.device),
        torch.from_numpy(labels_as(queries, gallery)).to(world.device),
        config.evaluation.ks,
        own_rows=None if apart else torch.from_numpy(own).to(world.device),
    )
    total = reduce(add, world.gather_objects(counts))
    if not total.queries:
        return None
    return _result(total, vectors, queries.labels, config, world)


def labels_as(queries: Store, gallery: Store) -> np.ndarray:
    """Labels int64 [G] of a gallery in the numbers of the queries' classes, by name: splits number their own.

    A class that the queries do not have gets a number that they do not have.
    """
    ours = {name: number for number, name in enumerate(queries.classes)}
    numbers = [ours.get(name, len(ours) + number) for number, name in enumerate(gallery.classes)]
    return np.array([*numbers, -1], dtype=np.int64)[gallery.labels]


def _embed(embed: Embed, store: Store, folder: Path, config: Config, world: World, display: Display) -> np.ndarray:
    title = f"embed {store.split}"
    return sweep(embed, store, folder, config=config, world=world, display=display, title=title).whole()


def _result(counts: Counts, vectors: np.ndarray, labels: np.ndarray, config: Config, world: World) -> dict[str, Any]:
    metrics = counts.metrics()
    result = {
        "recall": {str(k): share for k, share in metrics["recall"].items()},
        "map_at_r": metrics["map_at_r"],
        "queries": metrics["queries"],
        "dropped": metrics["dropped"],
    }
    if config.evaluation.nmi:
        result["nmi"] = world.from_first(lambda: nmi(vectors, labels, seed=config.seed))
    return result


def raw_pixels(views: Tensor) -> Tensor:
    """Views as vectors [b, 768]: 16 x 16 colours, centred and of unit length. The floor for any embedding."""
    pixels = functional.adaptive_avg_pool2d(views.float(), 16).flatten(1)
    return functional.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)
