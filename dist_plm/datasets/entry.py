"""Input of a build: an `Entry` for each image, and the `Source` that lists them."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dist_plm.data.formats import refusal
from dist_plm.data.picture import read_file


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image to be written. Its `repr` is its identity, by which finished shards are reused.

    Args:
        split: Split it belongs to.
        source: Its name in its data set: a relative path, unique.
        label: Index of its class in the split's classes, None where it has none.
        class_name: Name of that class.
        size: Bytes, -1 where there is no regular file.
    """

    split: str
    source: str
    label: int | None
    class_name: str | None
    size: int

    @property
    def key(self) -> str:
        """The sample's name in a tar."""
        return key_of(self.source)

    def read(self) -> bytes:
        """The image file's bytes. Raises OSError or ValueError if it can't be read."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FileEntry(Entry):
    """An image in a file, or in a byte range of one (a member of a tar).

    Args:
        path: The file.
        offset: First byte.
    """

    path: Path = field(repr=False)
    offset: int = field(default=0, repr=False)

    def read(self) -> bytes:
        return self._read(refusal)

    def read_any(self) -> bytes:
        """The bytes of any file, not only an image. Raises as `read`."""
        return self._read(lambda head: "")

    def _read(self, refused: Callable[[bytes], str]) -> bytes:
        if self.size < 0:
            raise FileNotFoundError("missing, or not a regular file")
        return read_file(self.path, self.offset, self.size, refused)


@dataclass(frozen=True)
class Source:
    """A data set to be written.

    Args:
        name: For display.
        classes: Class names of each split, in the order of the splits; empty where nothing is labelled.
        entries: Returns a new iterator over all entries, split by split in the order of `classes`.
        total: Number of entries; None if unknown.
        official: Number of samples of each split of the complete data set, if known.
        ignored: Returns an iterator over (path, rule) of skipped files; None if a list names the entries, so that other
            files are not visited.
        notes: Interpretation of the layout, for display.
    """

    name: str
    classes: dict[str, list[str]]
    entries: Callable[[], Iterator[Entry]]
    total: int | None = None
    official: dict[str, int] = field(default_factory=dict)
    ignored: Callable[[], Iterator[tuple[str, str]]] | None = None
    notes: tuple[str, ...] = ()


def key_of(source: str) -> str:
    """A name that is safe in a tar: at most 65 letters, digits, - and _, ending in 64 bits of the source's hash.

    A function of the source only, so that no list of names is needed, and a key reveals a damaged source.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(source).stem)[:48]
    return f"{stem}-{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
