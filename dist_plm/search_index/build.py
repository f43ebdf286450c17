"""From images to an index directory: embedded in blocks by all ranks, put together by the first.

A block that was embedded is on disk; the same command after a kill goes on with the others. In memory are two batches
of views, a block of embeddings, and on the first rank the index: 4 N D bytes.
"""

import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0

from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.stream import Ahead
from dist_plm.data.views import eval_view
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.exported import write_description, write_weights
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import read_document
from dist_plm.index.embedding_pass import DIVERGED
from dist_plm.model.digest import digest
from dist_plm.search_index.images import Images
from dist_plm.search_index.ownership import signature
from dist_plm.search_index.search_index import EMBEDDINGS, ENCODER, FORMAT, INDEX, ROWS, SUMMARY, UNREADABLE
from dist_plm.telemetry.progress import Display, Task

BLOCK = 2_048  # images a file of the work in progress
BATCH = 64
PIECE = 1 << 20  # bytes of the index that are written at once

View = tuple[int, np.ndarray | str]  # number of an image, and its view or why there is none


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
            UserError: `out` can't be written, the shards are damaged, or no image is readable.
            RunFailure: an embedding is not finite; nothing is left.
        """
        self._together(self._prepare if self.world.is_first else lambda: None)
        self._together(self._embed)
        self._together(self._assemble if self.world.is_first else lambda: None)
        return json.loads((self.out / SUMMARY).read_text())

    def _together(self, act: Callable[[], None]) -> None:
        """Call `act`; what stops one rank stops all. A collective."""
        fault: UserError | RunFailure | None = None
        try:
            act()
        except (UserError, RunFailure) as error:
            fault = error
        except OSError as error:
            fault = UserError(
                f"{self.out} can't be written ({error.strerror or error}): name another folder with --out"
            )
        if faults := [each for each in self.world.gather_objects(fault) if each]:
            if self.world.is_first and isinstance(faults[0], RunFailure):
                shutil.rmtree(self._work, ignore_errors=True)
            raise faults[0]

    def _prepare(self) -> None:
        """Keep the blocks of a killed run of the same job, and of no other."""
        job = {"images": self.images.place(), "count": len(self.images), "encoder": digest(self.embedder.network)}
        job |= {"resize": self.embedder.views.resize, "size": self.embedder.views.size, "format": FORMAT}
        note = self._work / "job.json"
        try:
            same = read_document(note) == json.loads(json.dumps(job))
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(parents=True)
            with replacing(note) as file:
                file.write(json.dumps(job).encode())

    def _embed(self) -> None:
        starts = range(self.world.rank * BLOCK, len(self.images), self.world.size * BLOCK)
        blocks = [range(start, min(start + BLOCK, len(self.images))) for start in starts]
        missing = [numbers for numbers in blocks if not (self._work / f"{numbers.start:012d}.npy").exists()]
        view = partial(_view, self.images, self.embedder.views)
        with (
            self.display.phase("embed", sum(map(len, missing)), "images") as phase,
            closing(Ahead(map(_each, missing), view, self.workers, most=2 * BATCH)) as ahead,
        ):
            for numbers in missing:
                self._block(numbers, ahead.batches(BATCH), phase)

    def _block(self, numbers: range, batches: Iterator[list[View]], phase: Task) -> None:
        vectors, kept, left_out = [np.empty((0, self.embedder.dim), np.float32)], [], []
        for batch in batches:
            views = []
            for number, view in batch:
                if isinstance(view, str):
                    left_out.append({"name": self.images.about(number)["name"], "reason": view})
                else:
                    kept.append(self.images.about(number))
                    views.append(view)
            if views:
                vectors.append(self.embedder.embed(torch.from_numpy(np.stack(views))).float().cpu().numpy())
                if not np.isfinite(vectors[-1]).all():
                    row = kept[len(kept) - len(views) + int((~np.isfinite(vectors[-1])).any(1).argmax())]
                    raise RunFailure(f"the embedding of {row['name']!a:.200} is not finite: {DIVERGED}")
            phase.advance(len(batch), scale=self.world.size)
        stem = f"{numbers.start:012d}"
        for suffix, lines in ((ROWS, kept), (UNREADABLE, left_out)):
            with replacing(self._work / f"{stem}.{suffix}") as file:
                file.writelines(_json(line) + b"\n" for line in lines)
        with replacing(self._work / f"{stem}.npy") as file:  # last: it says that the block is there
            whole = np.concatenate(vectors)
            _begin(file, whole.shape)
            file.write(whole.data)

    def _assemble(self) -> None:
        parts = sorted(self._work.glob("*.npy"))
        shapes = [np.load(part, mmap_mode="r").shape for part in parts]
        count, dim = sum(rows for rows, _ in shapes), self.embedder.dim
        if not count:
            shutil.rmtree(self._work)
            raise UserError(f"none of the {len(self.images):,} images can be read: name other images")
        final = self._work / "final"
        shutil.rmtree(final, ignore_errors=True)
        (final / ENCODER).mkdir(parents=True)
        self._write_vectors(final, parts, (count, dim))
        for name in (ROWS, UNREADABLE):
            with replacing(final / name) as file:
                for part in parts:
                    file.write(part.with_suffix(f".{name}").read_bytes())
        write_weights(final / ENCODER, self.embedder)
        write_description(final / ENCODER, self.embedder, {})
        self._summarise(final, count)
        final.rename(self.out)
        shutil.rmtree(self._work)

    def _write_vectors(self, final: Path, parts: list[Path], shape: tuple[int, int]) -> None:
        # A full disk must be an OSError: under a memory map it kills the process, and of faiss's own files it can cut
        # off the end unnoticed.
        index = faiss.IndexFlatIP(shape[1])
        with self.display.phase("index", shape[0], "images") as phase, replacing(final / EMBEDDINGS) as file:
            _begin(file, shape)
            for part in parts:
                block = np.load(part)
                file.write(block.data)
                index.add(block)
                phase.advance(len(block))
        with replacing(final / INDEX) as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, PIECE))  # type: ignore[attr-defined]

    def _summarise(self, folder: Path, count: int) -> None:
        summary = {
            "format": FORMAT,
            "count": count,
            "dim": self.embedder.dim,
            "unreadable": len(self.images) - count,
            "images": self.images.place(),
            "signature": signature(self.images.place()),
            "encoder": self.embedder.source,
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        }
        with replacing(folder / SUMMARY) as file:
            file.write(_json(summary, indent=1) + b"\n")


def _json(document: dict[str, Any], indent: int | None = None) -> bytes:
    # Paths need not be UTF-8: what Python holds for such a byte is written as JSON's own escape, \udce9, and read back
    # as the same path.
    return json.dumps(document, ensure_ascii=False, indent=indent).encode(errors="backslashreplace")


def _begin(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The head of a .npy of float32. np.save tells of a full disk without saying so."""
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _each(numbers: range) -> Generator[int, None, None]:
    yield from numbers


def _view(images: Images, config: ViewsConfig, number: int) -> View:
    try:
        return number, eval_view(decode(images.read(number)), config=config)
    except (ValueError, OSError) as error:
        return number, str(error)
