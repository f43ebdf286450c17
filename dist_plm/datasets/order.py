"""Order of images by clusters of their embeddings, so that images read together are stored together.

Clusters by k-means (faiss), ordered by the leaves of a Ward tree over their centres (scipy).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from dist_plm.datasets.entry import Entry, Source
from dist_plm.errors import UserError
from dist_plm.index.directory import EMBEDDINGS, ROWS, SUMMARY, file_of
from dist_plm.index.faiss_library import require_faiss

IMAGES_PER_CLUSTER = 16  # small, since a cluster that covers two true ones would mix them
MAX_CLUSTERS = 4096  # the tree needs quadratic memory
ITERATIONS = 10


def order_by(source: Source, index: Path) -> Source:
    """The source with the images of each split in cluster order; images without an embedding come last.

    Args:
        index: Written by `python -m dist_plm.embed` from the same images; all its rows take part.

    Raises:
        UserError: It is not an index, or has none of the images.
    """
    try:
        generation = int(json.loads((index / SUMMARY).read_text(encoding="utf-8")).get("generation", 1))
        vectors, rows = (index / file_of(name, generation) for name in (EMBEDDINGS, ROWS))
        embeddings = np.load(vectors, allow_pickle=False).astype(np.float32, copy=False)
        with open(rows, encoding="utf-8") as file:
            names = [str(json.loads(line)["name"]) for line in file]
        if not names:
            raise ValueError("it is empty")
        place = dict(zip(names, cluster_order(embeddings).tolist(), strict=True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RecursionError) as error:
        raise UserError(f"--order-by {index} is not an index of `python -m dist_plm.embed` ({error})") from error
    if not any(entry.source in place for entry in source.entries()):
        raise UserError(f"--order-by {index} has none of these images; it has {names[0]!r} and others")

    def entries() -> Iterator[Entry]:
        for _, split in groupby(source.entries(), key=lambda entry: entry.split):
            yield from sorted(split, key=lambda entry: place.get(entry.source, len(place)))

    return replace(source, entries=entries)


def cluster_order(embeddings: np.ndarray) -> np.ndarray:
    """The position [n] of each row of float32 [n, D] in cluster order, stable within a cluster."""
    from scipy.cluster.hierarchy import leaves_list, ward

    faiss = require_faiss("--order-by")
    clusters = min(max(1, len(embeddings) // IMAGES_PER_CLUSTER), MAX_CLUSTERS)
    if clusters < 2:
        return np.arange(len(embeddings))
    kmeans = faiss.Kmeans(embeddings.shape[1], clusters, niter=ITERATIONS, seed=0, min_points_per_centroid=1)
    kmeans.train(embeddings)
    _, cluster = kmeans.index.search(embeddings, 1)
    rank = np.empty(clusters, np.int64)
    rank[leaves_list(ward(kmeans.centroids))] = np.arange(clusters)
    position = np.empty(len(embeddings), np.int64)
    position[np.argsort(rank[cluster[:, 0]], kind="stable")] = np.arange(len(embeddings))
    return position
