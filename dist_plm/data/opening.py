"""Data sets opened by where they lie, in a folder or at a URL."""

from dist_plm.config import DataConfig
from dist_plm.data.format import Manifest
from dist_plm.data.place import is_url
from dist_plm.data.remote.mirror import mirror
from dist_plm.data.remote.remote_store import RemoteStore
from dist_plm.data.store import Store


def open_split(data: DataConfig, split: str) -> Store:
    """The split of `data.shards`. Raises UserError where it can't be read."""
    return RemoteStore(data, split) if is_url(data.shards) else Store(data.shards, split)


def manifest_of(data: DataConfig) -> Manifest:
    """The manifest of `data.shards`. Raises UserError where there is none."""
    return Manifest.load(mirror(data) if is_url(data.shards) else data.shards)
