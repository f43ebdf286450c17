"""An index follows its folder: images that came are embedded, those that went are dropped, the others keep their rows.

A change is a new generation of files (index/directory.py): who reads the index meanwhile is not disturbed, and a change
that is stopped leaves the index as it was.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dist_plm.errors import UserError
from dist_plm.files.atomic import NO_ROOM
from dist_plm.files.reading import read_document
from dist_plm.index.directory import SUMMARY, UNREADABLE
from dist_plm.search_index.generation import Generation, Line, lines
from dist_plm.search_index.images import FolderImages, Stamp
from dist_plm.search_index.search_index import Catalogue
from dist_plm.telemetry.progress import Display


@dataclass(frozen=True)
class Changes:
    """What an index and its folder differ in.

    Args:
        images: The folder as it is now.
        kept: Rows whose file is as it was.
        failed: Lines of the files that could not be read, and are as they were.
        fresh: Numbers of the files that are not in the index, or have changed since.
        gone: Names of the rows whose file is not there any more.
    """

    images: FolderImages
    kept: list[int]
    failed: list[Line]
    fresh: list[int]
    gone: list[str]

    def __str__(self) -> str:
        return f"{len(self.fresh):,} files new or changed, {len(self.gone):,} gone"


def changes(catalogue: Catalogue) -> Changes:
    """Compare an index with the folder that it was made of, by name, size and time of each file.

    Raises:
        UserError: it was made of shards, or its folder is gone.
    """
    place = catalogue.images.place()
    if place["kind"] != "folder":
        raise UserError(f"{catalogue.folder} is an index of shards, which don't change: embed the new ones")
    images = FolderImages(place["folder"])
    names = [images.about(number)["name"] for number in range(len(images))]
    stamps = {name: images.stamp(number) for number, name in enumerate(names)}
    kept = [row for row, each in enumerate(catalogue.rows) if stamps.get(each["name"]) == _stamp(each)]
    failed = [each for each in lines(catalogue, UNREADABLE) if stamps.get(each["name"]) == _stamp(each)]
    known = {catalogue.rows[row]["name"] for row in kept} | {each["name"] for each in failed}
    fresh = [number for number, name in enumerate(names) if name not in known]
    gone = [each["name"] for each in catalogue.rows if each["name"] not in stamps]
    return Changes(images, kept, failed, fresh, gone)


def update(catalogue: Catalogue, workers: int, display: Display) -> str:
    """Bring an index up to date with its folder; what was done, for people.

    Raises:
        UserError: as `changes`; nothing would be left; the index can't be written.
        RunFailure: an embedding is not finite.
    """
    with _alone(catalogue):
        found = changes(catalogue)
        if not (found.fresh or found.gone):
            return "up to date"
        following = Generation.of(catalogue, found.kept)
        following.unreadable = found.failed
        following.ignored = [{"name": name, "reason": rule} for name, rule in found.images.ignored]
        done = following.take(catalogue, found.images, found.fresh, workers, display)
        following.write(catalogue)
        return f"{done}, {len(found.gone):,} gone"


def add(catalogue: Catalogue, paths: Sequence[Path], workers: int, display: Display) -> str:
    """Embed new and changed files among `paths`, files or folders below the folder of the index. As `update`."""
    with _alone(catalogue):
        found = changes(catalogue)
        inner = [_below(found.images.place()["folder"], path) for path in paths]
        names = {number: found.images.about(number)["name"] for number in found.fresh}
        fresh = [number for number, name in names.items() if any(_within(name, each) for each in inner)]
        if not fresh:
            return "nothing new there"
        again = {names[number] for number in fresh}
        following = Generation.of(catalogue, [i for i, row in enumerate(catalogue.rows) if row["name"] not in again])
        done = following.take(catalogue, found.images, fresh, workers, display)
        following.write(catalogue)
        return done


def remove(catalogue: Catalogue, names: Sequence[str]) -> str:
    """Drop the rows with these names, or below the folders of these names. As `update`."""
    with _alone(catalogue):
        known = [row["name"] for row in catalogue.rows]
        dropped = [name.rstrip("/") for name in names]
        for name in dropped:
            if not any(_within(each, name) for each in known):
                raise UserError(f"{catalogue.folder} has no image {name!a}: `list` prints their names")
        kept = [row for row, each in enumerate(known) if not any(_within(each, name) for name in dropped)]
        Generation.of(catalogue, kept).write(catalogue)
        return f"{len(known) - len(kept):,} removed; where their files still are, `update` adds them again"


@contextmanager
def _alone(catalogue: Catalogue) -> Iterator[None]:
    """One change at a time; what hinders it in words."""
    try:
        with open(catalogue.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{catalogue.folder} is being changed by another command: wait for it") from None
            if read_document(catalogue.folder / SUMMARY).get("generation", 1) != catalogue.generation:
                raise UserError(f"{catalogue.folder} was changed just now by another command: start again")
            yield
    except OSError as error:
        what = "is on a full disk" if error.errno in NO_ROOM else "can't be changed"
        raise UserError(f"{catalogue.folder} {what} ({error.strerror or error}); it is as it was") from error


def _stamp(row: Line) -> Stamp | None:
    return Stamp(row["size"], row["mtime_ns"]) if "mtime_ns" in row else None


def _within(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(f"{folder}/")


def _below(folder: str, path: Path) -> str:
    """The path relative to the folder of the index. UserError where it lies elsewhere."""
    whole = Path(os.path.realpath(path.parent)) / path.name
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder")
    if not whole.is_relative_to(folder):
        raise UserError(f"{path} lies outside of {folder}, the folder of this index: copy or link it there")
    return whole.relative_to(folder).as_posix().removeprefix(".")
