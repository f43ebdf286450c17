"""The next generation of an index: kept and new rows, and its files."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np

from dist_plm.errors import UserError
from dist_plm.index.directory import CHANGING, IGNORED, ROWS, UNREADABLE, file_of
from dist_plm.search_index.embedding import embed_group, views_ahead
from dist_plm.search_index.images import FolderImages
from dist_plm.search_index.records import Record, read_records
from dist_plm.search_index.search_index import CHANGED_FORMAT, SearchIndex
from dist_plm.search_index.writing import write_lines, write_summary, write_vectors
from dist_plm.telemetry.progress import Display

BLOCK = 4_096  # rows of the old index in memory at once


@dataclass
class Generation:
    """Contents of the new index.

    Args:
        places: Kept rows of the current index.
        rows: Records of those, then of the images in `vectors`.
        vectors: float32 [n, D], embeddings of new images.
        unreadable: Lines of unreadable.jsonl.
        ignored: Lines of ignored.jsonl.
    """

    places: list[int]
    rows: list[Record]
    vectors: np.ndarray
    unreadable: list[Record]
    ignored: list[Record]

    @classmethod
    def of(cls, search_index: SearchIndex, kept: list[int]) -> "Generation":
        """The current index, reduced to the rows `kept`."""
        rows = [search_index.rows[row] for row in kept]
        nothing = np.empty((0, search_index.embedder.dim), np.float32)
        return cls(list(kept), rows, nothing, list(lines(search_index, UNREADABLE)), list(lines(search_index, IGNORED)))

    def take(
        self,
        search_index: SearchIndex,
        images: FolderImages,
        fresh: list[int],
        workers: int,
        display: Display,
    ) -> str:
        """Add the files with the numbers `fresh`, reusing the rows of moved files; returns a summary.

        Raises:
            RunFailure: an embedding is not finite.
        """
        moved = _moved(search_index, images, fresh)
        new = [number for number in fresh if number not in moved]
        with (
            display.phase("embed", len(new), "images") as phase,
            closing(views_ahead(images, [new], search_index.embedder.views, workers)) as ahead,
        ):
            made = embed_group(images, ahead, search_index.embedder, phase.advance)
        for number, row in moved.items():
            stamp = images.stamp(number)._asdict()
            self.places.append(row)
            self.rows.append({**images.about(number), **stamp, "sha256": search_index.rows[row]["sha256"]})
        self.rows += made.rows
        self.vectors = made.vectors
        tried = {images.about(number)["name"] for number in fresh}
        self.unreadable = [record for record in self.unreadable if record["name"] not in tried] + made.unreadable
        return f"{len(made.rows):,} embedded, {len(moved):,} moved or copied, {len(made.unreadable):,} unreadable"

    def differs_from(self, search_index: SearchIndex) -> bool:
        """Whether it has other rows, or other unreadable files or reasons."""
        known = sorted(lines(search_index, UNREADABLE), key=_name)
        rows = len(self.vectors) or self.places != list(range(len(search_index)))
        return bool(rows) or sorted(self.unreadable, key=_name) != known

    def write(self, search_index: SearchIndex) -> None:
        """Write it into the folder of the index; index.json comes last and names the files.

        Raises:
            UserError: It has no rows.
        """
        if not self.rows:
            raise UserError(f"{search_index.folder} would have no images left: delete the folder instead")
        folder, generation = search_index.folder, search_index.generation + 1
        write_vectors(
            folder, generation, self._blocks(search_index), (len(self.rows), search_index.embedder.dim), lambda _: None
        )
        for name, content in ((ROWS, self.rows), (UNREADABLE, self.unreadable), (IGNORED, self.ignored)):
            write_lines(folder / file_of(name, generation), content)
        files = [file_of(name, generation) for name in CHANGING]
        summary = {**search_index.summary, "format": CHANGED_FORMAT, "generation": generation, "count": len(self.rows)}
        summary |= {"unreadable": len(self.unreadable), "ignored": len(self.ignored)}
        write_summary(folder, {**summary, "files": {name: (folder / name).stat().st_size for name in files}})
        for old in range(1, generation - 1):  # the previous one is kept for current readers
            for name in CHANGING:
                (folder / file_of(name, old)).unlink(missing_ok=True)

    def _blocks(self, search_index: SearchIndex) -> Iterator[np.ndarray]:
        for start in range(0, len(self.places), BLOCK):
            rows = search_index.embeddings[self.places[start : start + BLOCK]]
            yield np.ascontiguousarray(rows, dtype=np.float32)
        yield self.vectors


def lines(search_index: SearchIndex, name: str) -> Iterator[Record]:
    """Lines of unreadable.jsonl or ignored.jsonl; none in an index of an older version. Raises UserError."""
    path = search_index.file(name)
    if path.exists():
        try:
            yield from read_records(path)
        except (ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} is damaged ({reason:.160}): copy it again, or embed the images again") from error


def _name(record: Record) -> str:
    return str(record["name"])


def _moved(search_index: SearchIndex, images: FolderImages, fresh: list[int]) -> dict[int, int]:
    """Files with a new name and known content: number and row of each."""
    known = [record.get("sha256") for record in search_index.rows]
    by_content = {content: row for row, content in enumerate(known) if isinstance(content, str)}
    sizes = {size for record in search_index.rows if isinstance(size := record.get("size"), int)}
    moved = {}
    for number in fresh:
        if images.stamp(number).size in sizes:
            with suppress(OSError, ValueError):
                row = by_content.get(hashlib.sha256(images.read(number)).hexdigest())
                if row is not None:
                    moved[number] = row
    return moved
