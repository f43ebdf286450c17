"""Embeddings of a split as written by an embedding pass: one memory-mapped .npy per shard."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

# Every map needs a file descriptor, of which a process may have 1,024 by default.
OPEN_MAPS = 256


class Embeddings:
    """Rows [n, D] of float16 or float32 in consecutive files.

    Args:
        files: .npy [samples, D] of each shard, in the order of the ids; must not change while in use.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        shapes = [_shape(file) for file in self._files]
        self._first = np.array([0, *accumulate(rows for rows, _ in shapes)])
        self.dim = shapes[0][1]
        self._open = lru_cache(OPEN_MAPS)(lambda number: np.load(self._files[number], mmap_mode="r"))
        self.dtype: np.dtype = self._open(0).dtype

    def __len__(self) -> int:
        return int(self._first[-1])

    def block(self, low: int, high: int) -> np.ndarray:
        """A copy of rows low..high-1."""
        out = np.empty((high - low, self.dim), self.dtype)
        for number in range(self._shard(low), self._shard(max(low, high - 1)) + 1):
            first, last = max(low, self._first[number]), min(high, self._first[number + 1])
            out[first - low : last - low] = self._open(number)[first - self._first[number] : last - self._first[number]]
        return out

    def take(self, ids: np.ndarray) -> np.ndarray:
        """A copy of rows `ids`, int64 [m], in any order -> [m, D]."""
        out = np.empty((len(ids), self.dim), self.dtype)
        order = np.argsort(ids, kind="stable")
        cuts = np.searchsorted(ids[order], self._first)
        for number in np.flatnonzero(np.diff(cuts)):
            rows = order[cuts[number] : cuts[number + 1]]
            out[rows] = self._open(int(number))[ids[rows] - self._first[number]]
        return out

    def whole(self) -> np.ndarray:
        """All rows in memory, float32 [n, D]."""
        return self.block(0, len(self)).astype(np.float32, copy=False)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._first, row, side="right")) - 1


def _shape(file: Path) -> tuple[int, int]:
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        rows, dim = read(stream)[0]
    return rows, dim
