"""Cache of decoded images: the pixels of a split in files that the ranks of a node memory-map.

Decoding a photograph takes longer than cropping a view, and is the same in every epoch. The price is disk space, and
detail of images larger than `side`: a crop of a tenth of the area has a third of the side.
"""

import hashlib
import os
import shutil
import socket
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dist_plm.config import DataConfig
from dist_plm.data.place import cache_folder
from dist_plm.data.store import Store, broken_sample
from dist_plm.distributed.shares import balanced
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.files.atomic import NO_ROOM, replacing
from dist_plm.telemetry.progress import Display

SAMPLE = 64  # images by which the total size is estimated


class DecodedStore(Store):
    """A Store that reads decoded images from `folder`, filled by `decode_once`, and bytes from another store."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._pixels_folder = store, folder
        self.folder, self.split, self.place, self.fingerprint = (
            store.folder,
            store.split,
            store.place,
            store.fingerprint,
        )
        self.classes, self.shards, self.offsets, self.labels = store.classes, store.shards, store.offsets, store.labels
        self._maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def close(self) -> None:
        self._maps.clear()
        self._store.close()

    def read(self, id: int) -> bytes:
        return self._store.read(id)

    def about(self, id: int) -> dict[str, Any]:
        return self._store.about(id)

    def read_image(self, id: int) -> Image.Image:
        """Image `id`, its shorter side reduced. Thread-safe."""
        shard, _, _ = self._row(id)
        if shard not in self._maps:  # a race of two threads is harmless: both maps are the same
            sizes = np.load(_sizes(self._pixels_folder, shard))
            self._maps[shard] = np.memmap(_pixels(self._pixels_folder, shard), np.uint8, "r"), sizes
        pixels, sizes = self._maps[shard]
        height, width, start = (int(value) for value in sizes[id - self.shards[shard].first_id])
        return Image.fromarray(pixels[start : start + height * width * 3].reshape(height, width, 3))

    def in_order(self, shard_index: int) -> Generator[tuple[str, int], None, None]:
        shard = self.shards[shard_index]
        for id in range(shard.first_id, shard.first_id + shard.samples):
            yield str(id), id

    def decoded(self, item: int) -> Image.Image:
        return self.read_image(item)


def decode_once(store: Store, *, config: DataConfig, world: World, display: Display) -> Store:
    """The store with its images decoded to `config.decoded_side`; missing ones are decoded now. A collective.

    The ranks of a node decode different shards, one file each, into a folder named by a hash of the images, their order
    and the side, which other runs reuse and an interrupted run completes.

    Raises:
        UserError: The disk is too small, or can't be written; an image is damaged.
        Preempted: A rank caught a signal.
    """
    folder, local = cache_folder(config) / "decoded" / _name(store, config.decoded_side), world.node_size
    missing = [number for number in range(len(store.shards)) if not _pixels(folder, number).exists()]
    _raise_first(_fault(folder, store, missing, config.decoded_side, display), world)
    # Over all shards, not the missing ones: another run may fill the folder, and ranks would see different sets.
    shares = balanced([shard.samples for shard in store.shards], local)
    assigned = [number for number in shares[world.rank % local] if number in missing]
    total = sum(store.shards[number].samples for number in assigned)
    with display.phase(f"decode {store.split}", total, "images") as phase:
        # In lockstep, shard by shard, so that no wait for another node is longer than one shard takes.
        for number in [*assigned, *[None] * (max(world.gather_objects(len(assigned))) - len(assigned))]:
            _raise_first(None if number is None else _decode_shard(folder, store, number, config, world), world)
            world.leave_if_signalled()
            phase.advance(0 if number is None else store.shards[number].samples, scale=local)
    return DecodedStore(store, folder)


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side at most `side` pixels."""
    short = min(image.size)
    if short <= side:
        return image
    return image.resize((side * image.width // short, side * image.height // short), Image.Resampling.BILINEAR)


def estimated_bytes(store: Store, side: int) -> int:
    """Estimated size of the decoded split, from a sample of its images."""
    ids = np.linspace(0, len(store) - 1, min(SAMPLE, len(store))).astype(int).tolist()
    areas = [width * height for width, height in (shrunk(store.read_image(id), side).size for id in ids)]
    return int(3 * np.mean(areas) * len(store))


def _fault(folder: Path, store: Store, missing: list[int], side: int, display: Display) -> UserError | None:
    """Why the missing files can't be written, None if they can; announces their size."""
    if not missing:
        display.say(f"decoded images of {store.split}: {folder}")
        return None
    share = sum(store.shards[number].samples for number in missing) / len(store)
    size = estimated_bytes(store, side) * share
    display.say(f"decoding {store.split} once, shorter side {side} px: about {size / 1e9:,.3g} GB in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return UserError(f"data.cache_dir {folder} can't be written ({error.strerror}): name another folder")
    if size > free:
        return UserError(
            f"data.decoded_side {side} needs about {size / 1e9:,.3g} GB in {folder}, which has {free / 1e9:,.3g} GB "
            "left: name another data.cache_dir, or set data.decoded_side to 0"
        )
    return None


def _raise_first(fault: UserError | None, world: World) -> None:
    """Raise the first rank's error on all ranks."""
    if first := next(filter(None, world.gather_objects(fault)), None):
        raise first


def _decode_shard(folder: Path, store: Store, number: int, config: DataConfig, world: World) -> UserError | None:
    """Write the two files of a shard, the pixels last, unless a signal arrives; returns an error of the disk."""
    sizes, start = [], 0
    # On a shared file system, several nodes may write this shard.
    writer = f"-{socket.gethostname()}-{os.getpid()}"
    try:
        with replacing(_pixels(folder, number), writer=writer) as file:
            for pixels in _decoded(store, number, config):
                sizes.append((*pixels.shape[:2], start))
                start += file.write(pixels.tobytes())
                if world.signal:
                    raise _Told
            with replacing(_sizes(folder, number), writer=writer) as table:
                np.save(table, np.array(sizes, np.int64))
    except _Told:
        pass
    except UserError as damaged:
        return damaged
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return UserError(f"{folder} can't be written ({error.strerror}): free space, or choose another data.cache_dir")
    return None


class _Told(Exception):
    """Exit, discarding incomplete files."""


def _decoded(store: Store, number: int, config: DataConfig) -> Iterator[np.ndarray]:
    """uint8 [h, w, 3] of each image of a shard in order, decoded by `config.workers` threads.

    Raises:
        UserError: A sample is no image, or the shard is damaged.
    """

    def work(name: str, item: Any) -> np.ndarray:
        try:
            return np.asarray(shrunk(store.decoded(item), config.decoded_side))
        except ValueError as error:
            raise UserError(broken_sample(store, number, name, error)) from error

    pending: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(config.workers, thread_name_prefix="decode") as pool:
        for name, item in store.in_order(number):
            pending.append(pool.submit(work, name, item))
            if len(pending) > 4 * config.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _name(store: Store, side: int) -> str:
    cut = f"{store.fingerprint} {store.split} {[shard.samples for shard in store.shards]}"
    return f"{hashlib.sha256(cut.encode()).hexdigest()[:16]}-{side}"


def _pixels(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:06d}.pixels"


def _sizes(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:06d}.sizes.npy"
