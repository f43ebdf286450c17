"""Writes the files of an index directory atomically.

A full disk must raise an OSError: with a memory map it kills the process, and faiss's own writer may silently truncate.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import write_array_header_1_0

from dist_plm.files.atomic import replacing
from dist_plm.index.directory import EMBEDDINGS, INDEX, SUMMARY, file_of
from dist_plm.index.faiss_library import require_faiss

PIECE = 1 << 20  # bytes of the index per write


def write_vectors(
    folder: Path,
    generation: int,
    blocks: Iterable[np.ndarray],
    shape: tuple[int, int],
    advance: Callable[[int], None],
) -> None:
    """The embeddings, float32 [n, D] a block, and the exact FAISS index over them. `shape` is of all."""
    faiss = require_faiss("a search index")
    index = faiss.IndexFlatIP(shape[1])
    with replacing(folder / file_of(EMBEDDINGS, generation)) as file:
        begin_array(file, shape)
        for block in blocks:
            file.write(block.data)
            index.add(block)
            advance(len(block))
    with replacing(folder / file_of(INDEX, generation)) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, PIECE))


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    with replacing(path) as file:
        file.writelines(to_json(line) + b"\n" for line in lines)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write index.json, which switches readers to the files that it names."""
    with replacing(folder / SUMMARY) as file:
        file.write(to_json(summary, indent=1) + b"\n")


def to_json(document: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON with surrogate escapes (\\udce9) for bytes of paths that are not UTF-8, which are read back as the same
    path."""
    return json.dumps(document, ensure_ascii=False, indent=indent).encode(errors="backslashreplace")


def begin_array(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a float32 .npy. The error of np.save on a full disk doesn't name the cause."""
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
