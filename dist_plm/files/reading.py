"""Reading untrusted files: JSON and arrays of bounded size; any defect raises one kind of exception."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

DOCUMENT_BYTES = 1 << 24
"""Largest JSON document, 16 MiB: brackets take 20 times their size in memory when parsed."""


def read_document(path: Path, most_bytes: int = DOCUMENT_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: There is none.
        OSError: It can't be read.
        ValueError: It is larger than `most_bytes`, not JSON, nested too deeply, or not an object.
    """
    with path.open("rb") as file:
        return parse_document(file.read(most_bytes + 1), most_bytes)


def parse_document(text: bytes, most_bytes: int = DOCUMENT_BYTES) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError as `read_document` does."""
    if len(text) > most_bytes:
        raise ValueError(f"larger than {most_bytes:,} bytes")
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory unless it is empty; nothing in it is executed.

    Raises:
        OSError: It can't be read.
        ValueError: It is damaged, or not an array of numbers.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
    try:
        # An empty array can't be mapped, and is smaller than its header.
        array = np.load(path, mmap_mode="r" if size > 1 << 12 else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
        if array.dtype.hasobject:
            raise ValueError("an array of objects")
    except OSError:
        raise
    # NumPy raises a dozen kinds of exception for damaged bytes (EOFError, BadZipFile, TokenError, MemoryError, ...).
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return array


def file_digest(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as stored in a summary."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
