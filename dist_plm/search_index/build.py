"""Builds an index directory: all ranks embed blocks of images, rank 0 assembles them.

Embedded blocks are saved in the work folder .NAME.tmp beside the index, so that rerunning an interrupted command
resumes. Rank 0 locks that folder: a second command would delete or add blocks. Memory: two batches of views, a block of
embeddings, and on rank 0 the index of 4 N D bytes.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.exported import write_description, write_weights
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.locks import try_lock
from dist_plm.files.reading import read_document
from dist_plm.index.directory import ENCODER, IGNORED, ROWS, SUMMARY, UNREADABLE
from dist_plm.search_index.embedding import NotFinite, ViewsAhead, embed_group, views_ahead
from dist_plm.search_index.images import Images
from dist_plm.search_index.ownership import signature
from dist_plm.search_index.search_index import FORMAT
from dist_plm.search_index.writing import begin_array, write_lines, write_summary, write_vectors
from dist_plm.telemetry.progress import Display, Task

BLOCK = 2_048  # images per temporary file
LOCK = "lock"


@dataclass(frozen=True)
class Builder:
    """Embeds `images` into the index directory `out`, which must not exist.

    Args:
        workers: Decoding threads of this rank.
    """

    images: Images
    embedder: Embedder
    out: Path
    workers: int
    world: World
    display: Display

    @property
    def _work(self) -> Path:
        return self.out.with_name(f".{self.out.name}.tmp")

    def build(self) -> dict[str, Any]:
        """Embed, assemble, rename; returns index.json. A collective.

        Raises:
            UserError: `out` can't be written, or another command is writing it; the shards are damaged, or no image is
                readable.
            RunFailure: An embedding is not finite (no files are left), a store does not respond, or a block is missing.
        """
        if len(set(self.world.gather_objects((len(self.images), self.images.digest())))) > 1:
            raise UserError("the folder changed while the ranks listed it, or differs between nodes: rerun the command")
        with ExitStack() as held:
            self._together(lambda: held.enter_context(self._alone()), first_only=True)
            self._together(self._prepare, first_only=True)
            self._together(self._embed)
            self._together(self._assemble, first_only=True)
        return json.loads((self.out / SUMMARY).read_text())

    def _together(self, act: Callable[[], None], *, first_only: bool = False) -> None:
        """Call `act` on all ranks, or on the first; an error on one rank stops all. A collective."""
        fault: UserError | RunFailure | None = None
        try:
            if self.world.is_first or not first_only:
                act()
        except (UserError, RunFailure) as error:
            fault = error
        except OSError as error:
            fault = UserError(
                f"{self.out} can't be written ({error.strerror or error}): choose another folder with --out"
            )
        if faults := [text for text in self.world.gather_objects(fault) if text]:
            if self.world.is_first and isinstance(faults[0], NotFinite):
                shutil.rmtree(self._work, ignore_errors=True)
            raise faults[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Make the work folder, and lock it."""
        path = self._work / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            if not try_lock(lock):
                raise UserError(f"another embed is writing to {self.out}: wait for it, or choose another --out")
            # The other command may have ended since its folder was opened here.
            if self.out.exists() or not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise UserError(f"another embed just wrote to {self.out}: rerun the command, or choose another --out")
            yield

    def _prepare(self) -> None:
        """Keep the blocks of an interrupted run of the same network on the same, unchanged images; delete others."""
        job = {"images": self.images.place(), "count": len(self.images), "files": self.images.digest()}
        job |= {"network": self.embedder.identity(), "format": FORMAT}
        note = self._work / "job.json"
        try:
            same = read_document(note) == json.loads(json.dumps(job))
        except (OSError, ValueError):
            same = False
        if not same:
            for path in self._work.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
            with replacing(note) as file:
                file.write(json.dumps(job).encode())

    def _embed(self) -> None:
        starts = range(self.world.rank * BLOCK, len(self.images), self.world.size * BLOCK)
        blocks = [range(start, min(start + BLOCK, len(self.images))) for start in starts]
        missing = [numbers for numbers in blocks if not self._vectors_of(numbers.start).exists()]
        with (
            self.display.phase("embed", sum(map(len, missing)), "images") as phase,
            closing(views_ahead(self.images, missing, self.embedder.views, self.workers)) as ahead,
        ):
            for numbers in missing:
                self._block(numbers, ahead, phase)

    def _block(self, numbers: range, ahead: ViewsAhead, phase: Task) -> None:
        def advance(count: int) -> None:
            phase.advance(count, scale=self.world.size)

        embedded = embed_group(self.images, ahead, self.embedder, advance)
        part = self._vectors_of(numbers.start)
        for name, lines in ((ROWS, embedded.rows), (UNREADABLE, embedded.unreadable)):
            write_lines(part.with_suffix(f".{name}"), lines)
        with replacing(part) as file:  # last, since it marks the block as complete
            begin_array(file, embedded.vectors.shape)
            file.write(embedded.vectors.data)

    def _vectors_of(self, start: int) -> Path:
        """File of the embeddings of the block that begins with image `start`."""
        return self._work / f"{start:012d}.npy"

    def _assemble(self) -> None:
        parts = [self._vectors_of(start) for start in range(0, len(self.images), BLOCK)]
        if lost := [part for part in parts if not part.exists()]:
            raise RunFailure(
                f"{lost[0]} is missing: put {self.out} on a file system that all nodes share, and rerun the command"
            )
        shapes = [np.load(part, mmap_mode="r").shape for part in parts]
        count, dim = sum(rows for rows, _ in shapes), self.embedder.dim
        if not count:
            shutil.rmtree(self._work, ignore_errors=True)
            raise UserError(f"none of the {len(self.images):,} images can be read")
        final = self._work / "final"
        shutil.rmtree(final, ignore_errors=True)
        (final / ENCODER).mkdir(parents=True)
        with self.display.phase("index", count, "images") as phase:
            write_vectors(final, 1, map(np.load, parts), (count, dim), phase.advance)
        for name in (ROWS, UNREADABLE):
            with replacing(final / name) as file:
                for part in parts:
                    file.write(part.with_suffix(f".{name}").read_bytes())
        write_lines(final / IGNORED, ({"name": name, "reason": rule} for name, rule in self.images.ignored))
        write_weights(final / ENCODER, self.embedder)
        write_description(final / ENCODER, self.embedder, {})
        self._summarise(final, count)
        final.rename(self.out)
        shutil.rmtree(self._work, ignore_errors=True)  # NFS keeps a file that is open, as the lock is

    def _summarise(self, folder: Path, count: int) -> None:
        place = self.images.place()
        summary = {
            "format": FORMAT,
            "generation": 1,
            "count": count,
            "dim": self.embedder.dim,
            "unreadable": len(self.images) - count,
            "ignored": len(self.images.ignored),
            "images": place,
            "signature": signature(place),
            "encoder": self.embedder.source,
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        }
        write_summary(folder, summary)
