"""Bounded disk cache of images on a node; evicts the image whose next use is farthest in the future.

Belady's algorithm (Belady 1966, "A study of replacement algorithms for a virtual-storage computer") is optimal, and
applicable since the plan tells when each image will be read.
"""

import errno
import heapq
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from dist_plm.files.atomic import NO_ROOM

NEVER = 2**62  # position of an unknown next use
FOLDER = 4096  # images in a folder


class ImageCache:
    """This rank's part of the cache of a split. All ranks of the node read it, only this rank writes and removes.

    After a crash files may be damaged: readers verify checksums.

    Args:
        folder: Of the split's images; the ranks of a node share it.
        limit: Size limit of this rank's part in bytes.
        part: This rank's images are those with id % parts == part.
        parts: Ranks that share the folder.
    """

    def __init__(self, folder: Path, limit: int, part: int = 0, parts: int = 1) -> None:
        self.limit, self.part, self.parts, self.size = limit, part, parts, 0
        self._folder, self._lock = folder, threading.Lock()
        self._held: dict[int, tuple[int, int]] = {}  # id -> (bytes, position of the next use)
        self._farthest: list[tuple[int, int]] = []  # heap of (-position, id), with stale entries
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, id: int) -> bool:
        return id in self._held

    def get(self, id: int) -> bytes | None:
        """The cached bytes of an image, unverified; None if not cached. Thread-safe."""
        try:
            return self._path(id).read_bytes()
        except OSError:
            return None

    def expect(self, uses: np.ndarray, positions: np.ndarray) -> None:
        """Set the future reads: image uses[i] at positions[i], ascending."""
        with self._lock:
            if not self._held:  # left by an earlier run
                self._held = {id: (size, NEVER) for id, size in self._found()}
                self.size = sum(size for size, _ in self._held.values())
            later = dict(zip(uses[::-1].tolist(), positions[::-1].tolist(), strict=True))
            self._held = {id: (size, later.get(id, NEVER)) for id, (size, _) in self._held.items()}
            self._farthest = [(-use, id) for id, (_, use) in self._held.items()]
            heapq.heapify(self._farthest)
            self._make_room(0, -1)  # the bound may have been higher

    def used(self, id: int, next_use: int) -> None:
        """Record a read of an image, and the position of its next use."""
        with self._lock:
            if id in self._held:
                self._note(id, self._held[id][0], next_use)

    def put(self, id: int, data: bytes, next_use: int) -> bool:
        """Cache an image unless that would evict one needed earlier; returns whether it is cached."""
        with self._lock:
            if id in self._held or not self._make_room(len(data), next_use):
                return id in self._held
            try:
                self._write(self._path(id), data)
            except OSError as error:
                # The cache stays smaller; images are still read remotely. ENOENT: another run cleans up.
                if error.errno in (*NO_ROOM, errno.ENOENT):
                    return False
                raise
            self.size += len(data)
            self._note(id, len(data), next_use)
            return True

    def forget(self, id: int) -> None:
        """Remove a damaged image."""
        with self._lock:
            self._remove(id)

    def _note(self, id: int, size: int, use: int) -> None:
        self._held[id] = (size, use)
        heapq.heappush(self._farthest, (-use, id))

    def _make_room(self, size: int, next_use: int) -> bool:
        """Evict images used later than `next_use`, farthest first, until `size` bytes fit."""
        while self.size + size > self.limit:
            while self._farthest and self._held.get(self._farthest[0][1], (0, None))[1] != -self._farthest[0][0]:
                heapq.heappop(self._farthest)
            if not self._farthest or -self._farthest[0][0] <= next_use:
                return False
            self._remove(heapq.heappop(self._farthest)[1])
        return True

    def _remove(self, id: int) -> None:
        self.size -= self._held.pop(id, (0, 0))[0]
        self._path(id).unlink(missing_ok=True)

    def _found(self) -> list[tuple[int, int]]:
        """(id, bytes) of this rank's images from earlier runs; removes incomplete files."""
        files = []
        for folder in os.scandir(self._folder):
            for file in os.scandir(folder) if folder.is_dir() else ():
                with suppress(FileNotFoundError):  # another run on this node removed it
                    if file.name.startswith(f".{self.part}-"):
                        os.unlink(file)
                    elif file.name.isdecimal() and int(file.name) % self.parts == self.part:
                        files.append((int(file.name), file.stat().st_size))
        return files

    def _path(self, id: int) -> Path:
        return self._folder / str(id // FOLDER) / str(id)

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{self.part}-")
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
