"""The files of an index directory, each written whole or not at all.

A full disk must be an OSError: under a memory map it kills the process, and of faiss's own files it can cut off the end
unnoticed.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.lib.format import write_array_header_1_0

from dist_plm.files.atomic import replacing
from dist_plm.index.directory import EMBEDDINGS, INDEX, SUMMARY, file_of

PIECE = 1 << 20  # bytes of the index that are written at once


def write_vectors(
    folder: Path,
    generation: int,
    blocks: Iterable[np.ndarray],
    shape: tuple[int, int],
    advance: Callable[[int], None],
) -> None:
    """The embeddings, float32 [n, D] a block, and the exact FAISS index over them. `shape` is of all."""
    index = faiss.IndexFlatIP(shape[1])
    with replacing(folder / file_of(EMBEDDINGS, generation)) as file:
        begin_array(file, shape)
        for block in blocks:
            file.write(block.data)
            index.add(block)
            advance(len(block))
    with replacing(folder / file_of(INDEX, generation)) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, PIECE))  # type: ignore[attr-defined]


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A line of JSON each."""
    with replacing(path) as file:
        file.writelines(to_json(line) + b"\n" for line in lines)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """index.json; from then on readers open the files that it names."""
    with replacing(folder / SUMMARY) as file:
        file.write(to_json(summary, indent=1) + b"\n")


def to_json(document: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON. Paths need not be UTF-8: what Python holds for such a byte is written as JSON's own escape, \\udce9, and
    read back as the same path."""
    return json.dumps(document, ensure_ascii=False, indent=indent).encode(errors="backslashreplace")


def begin_array(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The head of a .npy of float32. np.save tells of a full disk without saying so."""
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
