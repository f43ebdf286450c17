"""Images by number, from a split of shards or from a folder: what is embedded, and later shown beside a query."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dist_plm.config import DataConfig
from dist_plm.data.opening import open_split
from dist_plm.data.place import is_url
from dist_plm.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MOST_BYTES = 1 << 30  # of one file: a larger one is no photograph


class Images(ABC):
    """Numbered images, each with a name and perhaps a label."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, number: int) -> bytes:
        """The bytes of an image file. Thread-safe. Raises OSError or UserError where they can't be read."""

    @abstractmethod
    def about(self, number: int) -> dict[str, Any]:
        """`name`, `label` where there is one, and `id` where `reopen` needs it."""

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
    """All files below a folder with the suffix of an image, in the order of their names; a sub-folder is a label.

    Links to folders are not followed, since they may lead in a circle.
    """

    def __init__(self, folder: str | Path, names: list[str] | None = None) -> None:
        self._folder = Path(folder)
        if names is None and not self._folder.is_dir():
            raise UserError(f"--images {folder} is not a folder")
        self._names = _walk(self._folder) if names is None else names
        if not self._names:
            raise UserError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return len(self._names)

    def read(self, number: int) -> bytes:
        path = self._folder / self._names[number]
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise OSError(f"larger than {MOST_BYTES:,} bytes")
            return file.read()

    def about(self, number: int) -> dict[str, Any]:
        name = self._names[number]
        folder = str(PurePosixPath(name).parent)
        return {"name": name, **({"label": folder} if folder != "." else {})}

    def place(self) -> dict[str, Any]:
        return {"kind": "folder", "folder": str(self._folder.resolve())}


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


def _walk(folder: Path) -> list[str]:
    """Relative paths with forward slashes, folder by folder, sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        below = Path(parent).relative_to(folder)
        found += [(below / name).as_posix() for name in sorted(files) if Path(name).suffix.lower() in SUFFIXES]
    return found
