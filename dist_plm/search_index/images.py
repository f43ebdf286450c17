"""Images by number, from a split of shards or from a folder: what is embedded, and later shown beside a query."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dist_plm.config import DataConfig
from dist_plm.data.opening import open_split
from dist_plm.data.picture import read_file
from dist_plm.data.place import is_url
from dist_plm.datasets.tree import Tree
from dist_plm.errors import UserError


class Stamp(NamedTuple):
    """What tells whether a file changed; -1 bytes where there is none."""

    size: int
    mtime_ns: int


class Images(ABC):
    """Numbered images, each with a name and perhaps a label.

    Attributes:
        ignored: Path and rule of each file that was found beside them and left out.
    """

    ignored: Sequence[tuple[str, str]] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> bytes:
        """The bytes of an image file. Thread-safe. Raises OSError or UserError where they can't be read."""

    @abstractmethod
    def about(self, number: int) -> dict[str, Any]:
        """`name`, `label` where there is one, and `id` where `reopen` needs it."""

    def stamp(self, number: int) -> Stamp | None:
        """What tells later whether an image changed; None where it can't."""
        return None

    def digest(self) -> str:
        """Of the images as they are now: names, sizes, times; the fingerprint of a data set stands in its place."""
        return ""

    @abstractmethod
    def place(self) -> dict[str, Any]:
        """What `reopen` needs, as JSON."""


class ShardImages(Images):
    """The samples of one split of a data set: all of them, or those with `ids`."""

    def __init__(self, folder: str | Path, split: str, ids: Sequence[int] | None = None) -> None:
        self._store = open_split(DataConfig(shards=str(folder)), split)
        self._ids = range(len(self._store)) if ids is None else ids

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, number: int) -> bytes:
        return self._store.read(self._ids[number])

    def about(self, number: int) -> dict[str, Any]:
        id = self._ids[number]
        label = int(self._store.labels[id])
        named = {"label": self._store.classes[label]} if 0 <= label < len(self._store.classes) else {}
        return {"name": str(self._store.about(id).get("source", id)), **named, "id": id}

    def place(self) -> dict[str, Any]:
        folder, split = self._store.place, self._store.split
        if not is_url(folder):
            folder = str(Path(folder).resolve())
        return {"kind": "shards", "folder": folder, "split": split, "fingerprint": self._store.fingerprint}


class FolderImages(Images):
    """The files below a folder, found as the builder of shards finds them, in the order of their names.

    Every file that no rule leaves out is one, whatever its name: what it holds decides. Its folder is its label.

    Args:
        folder: Where they lie; links to folders are followed.
        names: The files to take, by relative path; all where not given.
    """

    def __init__(self, folder: str | Path, names: list[str] | None = None) -> None:
        self._folder = Path(folder)
        self._stamps: list[Stamp] | None = None
        if names is None:
            if not self._folder.is_dir():
                raise UserError(f"--images {folder} is not a folder")
            found = list(Tree(self._folder).walk())
            names = [path for path, rule in found if not rule]
            self.ignored = [(path, rule) for path, rule in found if rule]
            self._stamps = [_stamp(self._folder / name) for name in names]
            if not names:
                raise UserError(f"{folder} holds no files, or hidden ones alone")
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> bytes:
        return read_file(self._folder / self._names[number])

    def about(self, number: int) -> dict[str, Any]:
        name = self._names[number]
        folder = str(PurePosixPath(name).parent)
        return {"name": name, **({"label": folder} if folder != "." else {})}

    def stamp(self, number: int) -> Stamp:
        # As found, before the file is read: one that changes meanwhile differs from it later.
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


def reopen(place: Any, rows: list[dict[str, Any]]) -> Images:
    """The images of an index, by row.

    Args:
        place: As `Images.place` told it.
        rows: As `Images.about` told of each.

    Raises:
        UserError: They are not there any more, or others are.
    """
    try:
        if place["kind"] == "folder":
            folder, names = str(place["folder"]), [PurePosixPath(row["name"]) for row in rows]
        else:
            folder, split, fingerprint = (str(place[key]) for key in ("folder", "split", "fingerprint"))
            ids = [int(row["id"]) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the index does not say where its images are ({error}): embed them again") from error
    if place["kind"] == "folder":
        if not Path(folder).is_dir():
            raise UserError(
                f"the images of this index were in {folder!a}, which is gone: put them back, or name their folder with "
                "--images"
            )
        # An index may come from a stranger: an image lies below the folder and nowhere else.
        if astray := [name for name in names if name.is_absolute() or ".." in name.parts]:
            raise UserError(f"this index names {str(astray[0])!a}, which leads out of {folder!a}: don't trust it")
        return FolderImages(folder, [str(name) for name in names])
    images = ShardImages(folder, split, ids)
    if images.place()["fingerprint"] != fingerprint:
        raise UserError(f"{folder!a} holds another data set than this index was made of: embed it again")
    return images
