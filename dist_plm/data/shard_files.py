"""The tars of a split as open files, read from any place by any number of threads."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

# Far below the default limit of 1,024 open descriptors, far above the number of shards that a batch reads from.
OPEN_SHARDS = 256

ADVICE = "check the whole data set: dist-plm shards verify"


class Shard(NamedTuple):
    """One tar of a split; its samples are the ids first_id .. first_id + samples - 1."""

    path: Path
    first_id: int
    samples: int
    bytes: int


class _Descriptor:
    """A file descriptor that closes with its last reference: eviction never closes one that a thread is reading."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class ShardFiles:
    """Files opened on demand; the OPEN_SHARDS most recently used stay open."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._evicts = len(paths) > OPEN_SHARDS

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on, fewer at the file's end. Thread-safe.

        Raises:
            OSError: The file can't be read.
            ValueError: The files are closed.
        """
        # The reference keeps the descriptor open during this call. No lock is needed if all files stay open.
        descriptor = None if self._evicts else self._open.get(shard)
        if descriptor is None:
            descriptor = self._descriptor(shard)
        return os.pread(descriptor.fd, size, offset)

    def close(self) -> None:
        """Close all files; running reads finish, later ones raise ValueError."""
        with self._lock:
            self._closed = True
            self._open.clear()

    def _descriptor(self, shard: int) -> _Descriptor:
        with self._lock:
            if self._closed:
                raise ValueError(f"the store of {self._paths[shard].parent} is closed")
            descriptor = self._open.get(shard)
            if descriptor is None:
                descriptor = _Descriptor(os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC))
                self._open[shard] = descriptor
            self._open.move_to_end(shard)
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
            return descriptor
