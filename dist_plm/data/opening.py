"""Opens data sets in a folder or at a URL."""

import numpy as np

from dist_plm.config import DataConfig
from dist_plm.data.format import Manifest
from dist_plm.data.place import is_url
from dist_plm.data.remote.mirror import mirror
from dist_plm.data.remote.remote_store import RemoteStore
from dist_plm.data.store import Store


def open_split(data: DataConfig, split: str) -> Store:
    """The split of `data.shards`. Raises UserError if it can't be read."""
    return RemoteStore(data, split) if is_url(data.shards) else Store(data.shards, split)


def open_test(data: DataConfig) -> tuple[Store, Store]:
    """Queries and gallery: the same Store object if they are one split, where a query must not retrieve itself."""
    queries = open_split(data, data.test_split)
    return queries, queries if data.gallery_split in ("", data.test_split) else open_split(data, data.gallery_split)


def labels_as(queries: Store, gallery: Store) -> np.ndarray:
    """Labels int64 [G] of a gallery as indices of the queries' classes, matched by name, since splits number their own.

    A class that the queries do not have gets a number that they do not have.
    """
    if gallery is queries:
        return queries.labels.astype(np.int64)
    ours = {name: number for number, name in enumerate(queries.classes)}
    numbers = [ours.get(name, len(ours) + number) for number, name in enumerate(gallery.classes)]
    return np.array([*numbers, -1], dtype=np.int64)[gallery.labels]


def manifest_of(data: DataConfig) -> Manifest:
    """The manifest of `data.shards`. Raises UserError if there is none."""
    return Manifest.load(mirror(data) if is_url(data.shards) else data.shards)
