"""Random reads from WebDataset tars: a sample's id is its row in the split's offset table, which is memory-mapped.

A tar is a container here, not a stream: one `os.pread` at (shard, offset, size) returns the bytes of an image as the
source had them. It takes no seek and holds neither a lock nor the GIL, so any number of threads reads from one Store.
"""

import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dist_plm.data.decode import decode
from dist_plm.data.format import LABEL_DTYPE, MAX_BYTES, OFFSET_DTYPE, Manifest, labels_path, offsets_path
from dist_plm.data.shard_files import ADVICE, Shard, ShardFiles
from dist_plm.errors import UserError
from dist_plm.files.reading import parse_document

ABOUT_BYTES = 1 << 20  # of an image's JSON record

_REBUILD = "rebuild the data set: dist-plm shards build"


class Prefetcher:
    """Prefetcher of a store for reads that are known in advance; a no-op for a local store."""

    def ready(self, step: int, wait: bool) -> bool:
        """Whether the data of a step are available; with `wait`, block until they are."""
        return True

    def advance(self) -> None:
        """Mark one more step as read."""


class Store:
    """The samples of one split of a data set folder.

    Args:
        folder: Folder written by `dist-plm shards build`.
        split: Name of one of its splits.

    Attributes:
        place: Folder or URL, for display and for reopening.
        offsets: OFFSET_DTYPE [n], location of each image; memory-mapped.
        classes: Names of the classes of this split.
        fingerprint: sha256 over the content of the data set, hexadecimal.
        shards: The tars of the split, in order.

    Raises:
        UserError: The folder is not a data set, lacks the split, or has other files than the manifest lists.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.place = str(folder)
        manifest = Manifest.load(self.folder)
        if split not in manifest.splits:
            raise UserError(f"{folder} has no split '{split}'; it has: {', '.join(manifest.splits)}")
        described = manifest.splits[split]
        self.fingerprint: str = manifest.fingerprint
        self.classes: list[str] = list(described.classes)
        self.shards: list[Shard] = []
        first_id = 0
        for shard in described.shards:
            self.shards.append(Shard(self.folder / shard.file, first_id, shard.samples, shard.bytes))
            first_id += shard.samples
        self.offsets = table(offsets_path(self.folder, split), OFFSET_DTYPE, described.samples)
        self._labels = table(labels_path(self.folder, split), LABEL_DTYPE, described.samples)
        self._check_files()
        self._check_bounds()
        self._files = ShardFiles([shard.path for shard in self.shards])

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 [n], indices into `classes`, -1 where unlabelled; memory-mapped, and read once to check them.

        Raises:
            UserError: One of them is no class of the split.
        """
        labels = self._labels
        if len(labels) and not -1 <= labels.min() <= labels.max() < len(self.classes):
            raise UserError(
                f"{labels_path(self.folder, self.split)} holds labels from {labels.min()} to {labels.max()}, the split "
                f"has {len(self.classes)} classes; {_REBUILD}"
            )
        return labels

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shards; running reads finish, later ones raise ValueError."""
        self._files.close()

    def read(self, id: int) -> bytes:
        """The bytes of image `id`, as they are in the tar. Thread-safe.

        Raises:
            IndexError: If `id` is not in [0, len(store)).
            UserError: If the shard cannot be read, ends before the image does, or the table says more than MAX_BYTES.
        """
        shard, offset, size = self._row(id)
        try:
            data = self._bytes(shard, offset, size)
        except (OSError, OverflowError) as error:
            raise UserError(self._broken(id, str(error))) from error
        if len(data) != size:
            raise UserError(self._broken(id, f"{len(data)} bytes read instead of {size}"))
        return data

    def about(self, id: int) -> dict[str, Any]:
        """JSON record of image `id`: label, class, split, source. Thread-safe.

        Raises:
            IndexError: If `id` is not in [0, len(store)).
            UserError: The shard can't be read or has no record.
        """
        shard, offset, size = self._row(id)
        try:
            # A tar is made of blocks of 512 bytes: the image's, padded, then the header of its JSON, then the JSON.
            at = offset + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            length = tarfile.TarInfo.frombuf(self._bytes(shard, at, tarfile.BLOCKSIZE), "utf-8", "strict").size
            return parse_document(self._bytes(shard, at + tarfile.BLOCKSIZE, min(length, ABOUT_BYTES + 1)), ABOUT_BYTES)
        except (OSError, OverflowError, ValueError, TypeError, RecursionError, tarfile.TarError) as error:
            raise UserError(self._broken(id, f"its JSON record cannot be read ({error})")) from error

    def read_image(self, id: int) -> Image.Image:
        """Image `id`, decoded to RGB and upright. Thread-safe.

        Raises:
            IndexError: If `id` is not in [0, len(store)).
            UserError: The bytes can't be read or are not an image.
        """
        data = self.read(id)
        try:
            return decode(data)
        except ValueError as error:
            raise UserError(self._broken(id, str(error))) from error

    def in_order(self, shard_index: int) -> Generator[tuple[str, Any], None, None]:
        """(name, undecoded image for `decoded`) of each image of a shard, in order.

        Raises:
            UserError: The shard is damaged, or has another number of images than the manifest says.
        """
        # Training reads by offset only, and starts without importing webdataset.
        from dist_plm.data.tar import images

        return images(self.shards[shard_index])

    def decoded(self, item: Any) -> Image.Image:
        """Decode an item of `in_order` to upright RGB. Thread-safe. Raises ValueError if it is not an image."""
        return decode(item)

    @contextmanager
    def prefetch(self, rows: np.ndarray) -> Iterator[Prefetcher]:
        """Context in which the images `rows` [steps, b] are read on this node, step by step."""
        yield Prefetcher()

    def _row(self, id: int) -> tuple[int, int, int]:
        if not 0 <= id < len(self.offsets):
            raise IndexError(f"sample {id} is not in [0, {len(self)}) of split '{self.split}'")
        row: tuple[int, int, int] = self.offsets.item(id)  # half a microsecond less than .offsets[id].item()
        shard = self.shards[row[0]] if row[0] < len(self.shards) else None
        if shard is None or not 0 <= id - shard.first_id < shard.samples:
            raise UserError(
                f"{offsets_path(self.folder, self.split)}: sample {id} is said to be in shard {row[0]}, which does not "
                f"hold it; {_REBUILD}"
            )
        if row[2] > MAX_BYTES:  # an untrusted table must not determine the size of an allocation
            raise UserError(self._broken(id, f"{row[2]:,} bytes, at most {MAX_BYTES:,}"))
        return row

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        return self._files.read(shard, offset, size)

    def _broken(self, id: int, reason: str) -> str:
        shard, offset, _ = self.offsets[id]
        name = self.shards[shard].path.name
        return f"{self.place}/{name}: sample {id} at offset {offset}: {reason}; {ADVICE} {self.place}"

    def _check_files(self) -> None:
        for shard in self.shards:
            if not shard.path.is_file():
                raise UserError(f"{shard.path} is missing; copy it again or {_REBUILD}")
            size = shard.path.stat().st_size
            if size != shard.bytes:
                raise UserError(
                    f"{shard.path} has {size} bytes, the manifest says {shard.bytes}; copy it again or {_REBUILD}"
                )

    def _check_bounds(self) -> None:
        """Check the first and last row of each shard against its tar; all rows would read the whole table."""
        for number, shard in enumerate(self.shards):
            if shard.samples == 0:
                continue
            rows = self.offsets[[shard.first_id, shard.first_id + shard.samples - 1]]
            ends = rows["offset"].astype(np.int64) + rows["size"]
            if (rows["shard"] != number).any() or (ends > shard.bytes).any():
                raise UserError(
                    f"{self.folder}/{self.split}.offsets.npy does not describe {shard.path.name}; {_REBUILD}"
                )


def broken_sample(store: Store, shard: int, name: str, error: Exception) -> str:
    """The message for a sample of `in_order` that is no image."""
    return f"{store.place}/{store.shards[shard].path.name}: sample '{name}': {error}; {ADVICE} {store.place}"


def table(path: Path, dtype: np.dtype, samples: int) -> np.ndarray:
    """A memory-mapped table of a split. Raises UserError if it has another shape or type."""
    try:
        # An empty file cannot be mapped.
        table = np.load(path, mmap_mode="r" if samples else None, allow_pickle=False)
        if not isinstance(table, np.ndarray):
            raise ValueError("it is an archive")
    # NumPy raises a dozen kinds of exception for damaged bytes (EOFError, BadZipFile, TokenError, MemoryError, ...).
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}); {_REBUILD}") from error
    if table.dtype != dtype or table.shape != (samples,):
        raise UserError(f"{path} holds {table.shape} of {table.dtype}, not ({samples},) of {dtype}; {_REBUILD}")
    return np.asarray(table)  # a row of a memmap costs a microsecond, one of the array over it a tenth
