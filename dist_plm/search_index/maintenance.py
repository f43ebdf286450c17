"""Updates of an index from its folder: new images are embedded, deleted ones removed, others keep their rows.

A change writes a new generation of files (index/directory.py), so that readers are not affected, and an interrupted
change leaves the index as it was.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dist_plm.errors import UserError
from dist_plm.files.atomic import NO_ROOM
from dist_plm.files.locks import try_lock
from dist_plm.files.reading import read_document
from dist_plm.index.directory import SUMMARY, UNREADABLE
from dist_plm.search_index.generation import Generation, lines
from dist_plm.search_index.images import FolderImages, Stamp
from dist_plm.search_index.records import Record
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.telemetry.progress import Display


@dataclass(frozen=True)
class Changes:
    """Differences between an index and its folder.

    Args:
        images: Current contents of the folder.
        kept: Rows whose file is unchanged.
        failed: Numbers of unchanged files that could not be read; it may be possible now.
        fresh: Numbers of new and changed files.
        gone: Names of the rows whose file was deleted.
    """

    images: FolderImages
    kept: list[int]
    failed: list[int]
    fresh: list[int]
    gone: list[str]

    def __str__(self) -> str:
        return f"{len(self.fresh):,} files new or changed, {len(self.gone):,} deleted"


def changes(search_index: SearchIndex) -> Changes:
    """Compare an index with the folder that it was made of, by name, size and time of each file.

    Raises:
        UserError: It was made from shards, or its folder is missing.
    """
    if not isinstance(search_index.images, FolderImages):
        raise UserError(f"{search_index.folder} is an index of shards, which don't change: embed the new ones")
    images = search_index.images.listed_again()
    names = [images.about(number)["name"] for number in range(len(images))]
    stamps = {name: images.stamp(number) for number, name in enumerate(names)}
    kept = [row for row, record in enumerate(search_index.rows) if stamps.get(record["name"]) == _stamp(record)]
    tried = {record["name"]: _stamp(record) for record in lines(search_index, UNREADABLE)}
    known = {search_index.rows[row]["name"] for row in kept}
    failed = [number for number, name in enumerate(names) if name not in known and stamps[name] == tried.get(name)]
    fresh = [number for number, name in enumerate(names) if name not in known and stamps[name] != tried.get(name)]
    gone = [record["name"] for record in search_index.rows if record["name"] not in stamps]
    return Changes(images, kept, failed, fresh, gone)


def update(search_index: SearchIndex, workers: int, display: Display) -> str:
    """Update an index from its folder; returns a summary.

    Raises:
        UserError: As `changes`; no image would be left; the index can't be written.
        RunFailure: an embedding is not finite.
    """
    with _alone(search_index):
        changed = changes(search_index)
        tried = sorted(changed.fresh + changed.failed)
        if not (tried or changed.gone):
            return "up to date"
        following = Generation.of(search_index, changed.kept)
        following.unreadable = []
        following.ignored = [{"name": name, "reason": rule} for name, rule in changed.images.ignored]
        done = following.take(search_index, changed.images, tried, workers, display)
        if not following.differs_from(search_index):
            return "up to date"
        following.write(search_index)
        return f"{done}, {len(changed.gone):,} deleted"


def add(search_index: SearchIndex, paths: Sequence[Path], workers: int, display: Display) -> str:
    """Embed new, changed and so far unreadable files among `paths`, files or folders below the folder of the index.

    As `update`.
    """
    with _alone(search_index):
        changed = changes(search_index)
        inner = [_below(changed.images.place()["folder"], path) for path in paths]
        names = {number: changed.images.about(number)["name"] for number in sorted(changed.fresh + changed.failed)}
        fresh = [number for number, name in names.items() if any(_within(name, folder) for folder in inner)]
        if not fresh:
            return "nothing to add"
        again = {names[number] for number in fresh}
        following = Generation.of(
            search_index, [i for i, row in enumerate(search_index.rows) if row["name"] not in again]
        )
        done = following.take(search_index, changed.images, fresh, workers, display)
        if following.differs_from(search_index):
            following.write(search_index)
        return done


def remove(search_index: SearchIndex, names: Sequence[str]) -> str:
    """Remove the rows with these names, or below folders with these names. As `update`."""
    with _alone(search_index):
        known = [row["name"] for row in search_index.rows]
        dropped = [name.rstrip("/") for name in names]
        for name in dropped:
            if not any(_within(known_name, name) for known_name in known):
                raise UserError(f"{search_index.folder} has no image {name!a}: `list` prints their names")
        kept = [row for row, known_name in enumerate(known) if not any(_within(known_name, name) for name in dropped)]
        Generation.of(search_index, kept).write(search_index)
        place = search_index.summary.get("images")
        updated = isinstance(place, dict) and place.get("kind") == "folder"
        again = "; `update` will add them again if their files still exist" if updated else ""
        return f"{len(known) - len(kept):,} removed{again}"


@contextmanager
def _alone(search_index: SearchIndex) -> Iterator[None]:
    """Lock the index, and convert errors of the disk to UserError."""
    try:
        with open(search_index.folder / ".lock", "w") as lock:
            if not try_lock(lock):
                raise UserError(f"{search_index.folder} is being changed by another command: wait for it")
            if read_document(search_index.folder / SUMMARY).get("generation", 1) != search_index.generation:
                raise UserError(f"{search_index.folder} was just changed by another command: rerun")
            yield
    except OSError as error:
        what = "is on a full disk" if error.errno in NO_ROOM else "can't be changed"
        raise UserError(f"{search_index.folder} {what} ({error.strerror or error}); it was not changed") from error


def _stamp(row: Record) -> Stamp | None:
    """The stamp that was recorded; None in an index of an older version, whose files are embedded again."""
    return Stamp(row["size"], row["mtime_ns"]) if row.keys() >= {"size", "mtime_ns"} else None


def _within(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(f"{folder}/")


def _below(folder: str, path: Path) -> str:
    """The path relative to the folder of the index, empty for that folder. Raises UserError if it is outside."""
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder")
    whole = path.absolute()
    inner = next((whole.relative_to(above) for above in (whole, *whole.parents) if _is(above, folder)), None)
    if inner is None or ".." in inner.parts:
        whole = Path(os.path.realpath(path) if path.name == ".." else f"{os.path.realpath(path.parent)}/{path.name}")
        if not whole.is_relative_to(folder):
            raise UserError(f"{path} lies outside of {folder}, the folder of this index: copy or link it there")
        inner = whole.relative_to(folder)
    return "" if inner == Path() else inner.as_posix()


def _is(path: Path, folder: str) -> bool:
    return os.path.realpath(path) == folder
