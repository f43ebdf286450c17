"""Numbered images from splits of shards or a folder, to be embedded and displayed."""

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dist_plm.config import DataConfig
from dist_plm.data.opening import open_split
from dist_plm.data.picture import read_file
from dist_plm.data.place import is_url
from dist_plm.datasets.tree import Tree
from dist_plm.errors import UserError

SHOWN_SECONDS = 10.0  # how long a read from a URL is retried for a page or a sheet, whose reader waits


class Stamp(NamedTuple):
    """Size and time of a file, to detect changes; -1 bytes if missing."""

    size: int
    mtime_ns: int


class Images(ABC):
    """Numbered images, each with a name and perhaps a label.

    Attributes:
        ignored: Path and rule of each ignored file.
    """

    ignored: Sequence[tuple[str, str]] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> bytes:
        """The bytes of an image file. Thread-safe. Raises OSError or UserError if it can't be read."""

    @abstractmethod
    def about(self, number: int) -> dict[str, Any]:
        """Record of an image: `name`, optional `label`, and `id` if `reopen` needs it."""

    def stamp(self, number: int) -> Stamp | None:
        """Stamp of an image, to detect changes; None if not supported."""
        return None

    def digest(self) -> str:
        """Digest of names, sizes and times, or the fingerprint of a data set."""
        return ""

    @abstractmethod
    def place(self) -> dict[str, Any]:
        """Location for `reopen`, as JSON."""


class ShardImages(Images):
    """The samples of some splits of a data set, in this order: all of them, or those in `rows`.

    Args:
        splits: Their names.
        rows: Split and id of each image.
        within: As for `FolderImages`.
        retry_seconds: As `data.retry_seconds`.

    Raises:
        UserError: There is no such split, or it can't be read.
    """

    def __init__(
        self,
        folder: str | Path,
        splits: Sequence[str],
        rows: Sequence[tuple[str, int]] | None = None,
        within: Path | None = None,
        retry_seconds: float = DataConfig.retry_seconds,
    ) -> None:
        data = DataConfig(shards=str(folder), retry_seconds=retry_seconds)
        self._stores = {split: open_split(data, split) for split in splits}
        self._first = next(iter(self._stores.values()))
        if within:
            for shard in (shard for store in self._stores.values() for shard in store.shards):
                refuse_outside(Path(shard.path), within)
        self._starts = list(accumulate(map(len, self._stores.values()), initial=0))
        self._rows = rows

    def __len__(self) -> int:
        return self._starts[-1] if self._rows is None else len(self._rows)

    def read(self, number: int) -> bytes:
        split, id = self._at(number)
        return self._stores[split].read(id)

    def about(self, number: int) -> dict[str, Any]:
        split, id = self._at(number)
        store = self._stores[split]
        label = int(store.labels[id])
        named = {"label": store.classes[label]} if 0 <= label < len(store.classes) else {}
        several = {"split": split} if len(self._stores) > 1 else {}
        return {"name": str(store.about(id).get("source", id)), **named, **several, "id": id}

    def place(self) -> dict[str, Any]:
        folder, names = self._first.place, list(self._stores)
        if not is_url(folder):
            folder = str(Path(folder).resolve())
        # Of one split its name, as older versions read it.
        split = names[0] if len(names) == 1 else names
        return {"kind": "shards", "folder": folder, "split": split, "fingerprint": self._first.fingerprint}

    def _at(self, number: int) -> tuple[str, int]:
        """Split and id of an image."""
        if self._rows is not None:
            return self._rows[number]
        position = bisect_right(self._starts, number) - 1
        return list(self._stores)[position], number - self._starts[position]


class FolderImages(Images):
    """The files below a folder, by the rules of the shard builder, sorted by name.

    Every file that no rule ignores is included, whatever its name. Its folder is its label.

    Args:
        folder: Root folder; links to folders are followed.
        names: Relative paths of the files to include; all if None.
        within: The folder that no file may be linked out of, for images that come with an untrusted index.
    """

    def __init__(self, folder: str | Path, names: list[str] | None = None, within: Path | None = None) -> None:
        self._folder, self._within = Path(folder), within
        self._stamps: list[Stamp] | None = None
        if names is None:
            if not self._folder.is_dir():
                raise UserError(f"--images {folder} is not a folder")
            walked = list(Tree(self._folder).walk())
            names = [path for path, rule in walked if not rule]
            self.ignored = [(path, rule) for path, rule in walked if rule]
            self._stamps = [_stamp(self._folder / name) for name in names]
            if not names:
                raise UserError(f"{folder} has no files, or only hidden ones")
        self._names = names

    def listed_again(self) -> "FolderImages":
        """All files that lie in the folder now."""
        return FolderImages(self._folder, within=self._within)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> bytes:
        path = self._folder / self._names[number]
        return read_file(refuse_outside(path, self._within) if self._within else path)

    def about(self, number: int) -> dict[str, Any]:
        name = self._names[number]
        folder = str(PurePosixPath(name).parent)
        return {"name": name, **({"label": folder} if folder != "." else {})}

    def stamp(self, number: int) -> Stamp:
        # Taken before the file is read, so that a concurrent change is detected later.
        return self._stamps[number] if self._stamps else _stamp(self._folder / self._names[number])

    def digest(self) -> str:
        whole = hashlib.sha256()
        for number, name in enumerate(self._names):
            size, changed = self.stamp(number)
            whole.update(f"{name}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def place(self) -> dict[str, Any]:
        return {"kind": "folder", "folder": str(self._folder.resolve())}


def _stamp(path: Path) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Stamp(-1, 0)
    return Stamp(status.st_size, status.st_mtime_ns)


def refuse_outside(path: Path, within: Path) -> Path:
    """The file that `path` leads to. Raises PermissionError if it does not lie in `within`."""
    whole = Path(os.path.realpath(path))
    if not whole.is_relative_to(os.path.realpath(within)):
        raise PermissionError(errno.EACCES, f"a link out of {within}, the folder of an index of another account")
    return whole


def reopen(place: Any, rows: list[dict[str, Any]], within: Path | None = None) -> Images:
    """The images of an index, by row.

    Args:
        place: Result of `Images.place`.
        rows: Results of `Images.about`.
        within: As for `FolderImages`.

    Raises:
        UserError: They are missing, or different.
    """
    try:
        if place["kind"] == "folder":
            folder, names = str(place["folder"]), [PurePosixPath(row["name"]) for row in rows]
        else:
            folder, fingerprint = (str(place[key]) for key in ("folder", "fingerprint"))
            several = place["split"] if isinstance(place["split"], list) else []
            splits = [str(split) for split in several] or [str(place["split"])]
            samples = [(str(row["split"]) if several else splits[0], int(row["id"])) for row in rows]
            if unknown := [split for split, _ in samples if split not in splits]:
                raise ValueError(f"there is no split {unknown[0]!a}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the index has no valid location of its images ({error}): embed them again") from error
    if place["kind"] == "folder":
        if not Path(folder).is_dir():
            raise UserError(
                f"the images of this index were in {folder!a}, which is missing: restore it, or name their folder with "
                "--images"
            )
        # The index is untrusted: images must lie below the folder.
        if astray := [name for name in names if name.is_absolute() or ".." in name.parts]:
            raise UserError(f"this index names {str(astray[0])!a}, outside of {folder!a}: don't trust it")
        return FolderImages(folder, [str(name) for name in names], within)
    try:
        images = ShardImages(folder, splits, samples, within, SHOWN_SECONDS)
    except PermissionError as error:
        raise UserError(f"{folder!a} holds {error.strerror}: don't trust it") from error
    if images.place()["fingerprint"] != fingerprint:
        raise UserError(f"{folder!a} is not the data set of this index: embed it again")
    return images
