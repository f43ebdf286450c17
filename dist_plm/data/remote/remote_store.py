"""A split at a URL: images are byte ranges of its tars, verified by checksum."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from dist_plm.config import DataConfig
from dist_plm.data.format import CHECK_DTYPE, checks_path, is_sound
from dist_plm.data.place import cache_folder
from dist_plm.data.remote.cache import ImageCache
from dist_plm.data.remote.mirror import mirror
from dist_plm.data.remote.prefetch import RemotePrefetcher
from dist_plm.data.remote.spans import BLOCK, Remote, Span
from dist_plm.data.store import Store, table
from dist_plm.distributed.environment import number
from dist_plm.errors import MachineError

GAP = 1 << 14  # images closer than this in a tar are fetched by one request: 16 KB take less time than another request


class RemoteStore(Store):
    """A Store of the shards at the URL `data.shards`. Tables are local copies, images are read over the network.

    A failed read raises StoreFailure, as `Remote.read` says.
    """

    def __init__(self, data: DataConfig, split: str) -> None:
        super().__init__(mirror(data, split), split)
        self.place = data.shards.rstrip("/")
        self.checks = table(checks_path(self.folder, split), CHECK_DTYPE, len(self))
        self.remote = Remote(data.shards, data.retry_seconds)
        part, parts = number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
        folder = cache_folder(data) / "images" / self.fingerprint[:16] / split
        try:
            self._cache = ImageCache(folder, int(data.cache_gb * 1e9) // parts, part, parts)
        except OSError as error:
            raise MachineError(
                f"{folder} can't be written ({error.strerror}): name another, data.cache_dir or XDG_CACHE_HOME"
            ) from error

    def read(self, id: int) -> bytes:
        """The verified bytes of image `id`, from the node's cache or the network. Thread-safe."""
        self._row(id)
        return self._cached(id) or self.fetch([id])[0]

    def fetch(self, ids: list[int]) -> list[bytes]:
        """The bytes of these images over the network, adjacent ones by one request.

        Raises:
            StoreFailure: They are unavailable or damaged.
        """
        groups = self._together(ids)
        spans = [self._span(group) for group in groups]
        images: dict[int, bytes] = {}

        def take(at: int, data: bytes) -> bool:
            cut = {id: self._cut(id, spans[at], data) for id in groups[at]}
            images.update((id, image) for id, image in cut.items() if self._is_sound(id, image))
            # Damaged images of a joint request are fetched once more, one by one.
            return len(groups[at]) > 1 or groups[at][0] in images

        self.remote.read(spans, take)
        if rest := [id for id in ids if id not in images]:
            self.remote.read([self._span([id]) for id in rest], lambda at, data: self._take(rest[at], data, images))
        return [images[id] for id in ids]

    def in_order(self, shard_index: int) -> Generator[tuple[str, bytes], None, None]:
        """As in Store; the next byte range is prefetched, without cached images."""
        shard = self.shards[shard_index]
        rows = self.offsets[shard.first_id : shard.first_id + shard.samples]
        first, stretches = 0, []
        while first < shard.samples:
            last = max(first + 1, int(np.searchsorted(rows["offset"], rows["offset"][first] + np.uint64(BLOCK - GAP))))
            stretches.append(range(shard.first_id + first, shard.first_id + last))
            first = last
        with ThreadPoolExecutor(1, thread_name_prefix="stretch") as pool:
            coming = [pool.submit(self._stretch, ids) for ids in stretches[:1]]
            for ids, following in zip(stretches, [*stretches[1:], None], strict=True):
                images = coming.pop().result()
                if following:
                    coming.append(pool.submit(self._stretch, following))
                for id, image in zip(ids, images, strict=True):
                    yield str(id), image

    @contextmanager
    def prefetch(self, rows: np.ndarray) -> Iterator[RemotePrefetcher]:
        """Prefetch `rows` into the node's cache."""
        prefetch = RemotePrefetcher(self._cache, rows, self.offsets["size"], self.fetch)
        try:
            yield prefetch
        finally:
            prefetch.close()

    def _check_files(self) -> None:
        pass  # there are no local shards

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        return self.remote.read([Span(self.shards[shard].path.name, offset, offset + size)])[0]

    def _stretch(self, ids: range) -> list[bytes]:
        images = {id: self._cached(id) for id in ids}
        missing = [id for id, image in images.items() if image is None]
        images |= zip(missing, self.fetch(missing), strict=True)
        return [image for image in images.values() if image is not None]

    def _cached(self, id: int) -> bytes | None:
        cache = self._cache
        image = cache.get(id)
        if image is None or self._is_sound(id, image):
            return image
        if id % cache.parts == cache.part:
            cache.forget(id)
        return None

    def _is_sound(self, id: int, image: bytes) -> bool:
        return is_sound(image, int(self.checks[id]))

    def _take(self, id: int, data: bytes, images: dict[int, bytes]) -> bool:
        if sound := self._is_sound(id, data):
            images[id] = data
        return sound

    def _together(self, ids: list[int]) -> list[list[int]]:
        """The ids in groups of one request each."""
        groups: list[list[int]] = []
        last, start, end = -1, 0, 0
        for id in sorted(set(ids)):
            shard, offset, size = self._row(id)
            if shard != last or offset - end > GAP or offset + size - start > BLOCK:
                groups.append([])
                last, start = shard, offset
            groups[-1].append(id)
            end = offset + size
        return groups

    def _span(self, group: list[int]) -> Span:
        shard, start, _ = self._row(group[0])
        _, offset, size = self._row(group[-1])
        return Span(self.shards[shard].path.name, start, offset + size)

    def _cut(self, id: int, span: Span, data: bytes) -> bytes:
        _, offset, size = self._row(id)
        return data[offset - span.start : offset - span.start + size]
