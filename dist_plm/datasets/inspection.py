"""Verifies every byte of a shard against the tables and its samples' checksums."""

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from dist_plm.data.decode import decode, extension
from dist_plm.data.format import (
    MAX_BYTES,
    ShardInfo,
    check_of,
    checks_path,
    fingerprint_line,
    labels_path,
    offsets_path,
)
from dist_plm.datasets.entry import key_of
from dist_plm.datasets.writer import describe, header

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Check:
    """A shard to be verified.

    Args:
        folder: Data set.
        split: Split of the shard.
        number: Position of the shard in its split.
        info: Its entry in the manifest.
        first: Id of its first sample.
        classes: Names of the split's classes.
    """

    folder: Path
    split: str
    number: int
    info: ShardInfo
    first: int
    classes: list[str]


class Damage(Exception):
    """The first error in a shard."""


class _Member(NamedTuple):
    """A file in a tar, whose header starts at byte `start`."""

    name: str
    start: int
    data: bytes


def check_shard(task: Check) -> tuple[list[bytes], str]:
    """The fingerprint lines of a shard's samples up to the first error, and that error ("" for none)."""
    lines: list[bytes] = []
    rows = slice(task.first, task.first + task.info.samples)
    offsets = np.load(offsets_path(task.folder, task.split), mmap_mode="r")[rows]
    labels = np.load(labels_path(task.folder, task.split), mmap_mode="r")[rows]
    path = checks_path(task.folder, task.split)
    checks = np.load(path, mmap_mode="r")[rows].tolist() if path.exists() else [None] * len(labels)
    try:
        with open(task.folder / task.info.file, "rb") as file:
            for row, label, check in zip(offsets, labels, checks, strict=True):
                lines.append(_check_sample(task, file, row, int(label), check))
            _check_end(task, file)
    except (Damage, OSError) as error:
        return lines, str(error)
    return lines, ""


def _check_sample(task: Check, file: BinaryIO, row: np.void, label: int, check: int | None) -> bytes:
    """Check the image and the description that come next in `file`; the sample's fingerprint line."""
    image = _read_member(task, file)
    shard, offset, size = (int(row[name]) for name in ("shard", "offset", "size"))
    data = image.start + BLOCK
    if (shard, offset, size) != (task.number, data, len(image.data)):
        _damaged(task, image.name, data, f"the offset table has {size:,} bytes at byte {offset:,} of shard {shard}")
    described = _read_member(task, file)
    key, _, suffix = image.name.rpartition(".")
    if described.name != f"{key}.json":
        _damaged(task, described.name, described.start, f"{key}.json was expected")
    sha256 = hashlib.sha256(image.data).hexdigest()
    if check is not None and check != check_of(bytes.fromhex(sha256)):
        _damaged(task, image.name, data, "the SHA-256 of its bytes is not the one in the checksum table")
    _check_description(task, described, key, label)
    if json.loads(described.data)["sha256"] != sha256:
        _damaged(task, image.name, data, "the SHA-256 of its bytes is not the one in its description")
    try:
        decode(image.data)
        actual = extension(image.data)
    except ValueError as error:
        _damaged(task, image.name, data, str(error))
    if actual != suffix:
        _damaged(task, image.name, image.start, f"its bytes are those of a .{actual} file")
    return fingerprint_line(task.split, key, sha256, label)


def _check_description(task: Check, described: _Member, key: str, label: int) -> None:
    """Check that the JSON equals what the builder writes for the table's label and the key's source."""
    known = None if label < 0 else label
    try:
        document = json.loads(described.data)
        name = None if known is None else task.classes[known]
        expected = describe(task.split, document["source"], known, name, document["sha256"])
        called = key_of(document["source"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        _damaged(task, described.name, described.start + BLOCK, f"not a description of label {label}: {error}")
    if called != key:
        _damaged(task, described.name, described.start + BLOCK, f"{key} is not the key of {document['source']!r}")
    _same(task, described.name, described.start + BLOCK, described.data, expected, f"label {label} in the label table")


def _read_member(task: Check, file: BinaryIO) -> _Member:
    """The next file of a tar; its header must be the one that its name and size call for, its padding zero."""
    start = file.tell()
    block = file.read(BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeError) as error:
        _damaged(task, "?", start, f"not a tar header: {error}")
    if not 0 <= info.size <= MAX_BYTES:
        _damaged(task, info.name, start, f"the header says {info.size:,} bytes, an image has {MAX_BYTES:,} at most")
    _same(task, info.name, start, block, header(info.name, info.size), "another header was expected")
    data = file.read(info.size)
    if len(data) != info.size:
        _damaged(task, info.name, start + BLOCK, f"the file ends after {len(data):,} of {info.size:,} bytes")
    end = file.tell()
    padding = file.read(-info.size % BLOCK)
    _same(task, info.name, end, padding, bytes(-info.size % BLOCK), "zeros were expected")
    return _Member(info.name, start, data)


def _check_end(task: Check, file: BinaryIO) -> None:
    # Two zero blocks end a tar, and more of them fill it to a multiple of 10,240 bytes.
    start = file.tell()
    rest = file.read(2 * tarfile.RECORDSIZE)
    end = start + 2 * BLOCK
    _same(task, "(end)", start, rest, bytes(end - start + -end % tarfile.RECORDSIZE), "the end of a tar was expected")


def _same(task: Check, name: str, start: int, actual: bytes, expected: bytes, reason: str) -> None:
    if actual != expected:
        pairs = enumerate(zip(actual, expected, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(actual), len(expected)))
        _damaged(task, name, start + first, reason)


def _damaged(task: Check, name: str, offset: int, reason: str) -> NoReturn:
    raise Damage(f"{task.info.file}, member {name}, byte {offset:,}: {reason}")
