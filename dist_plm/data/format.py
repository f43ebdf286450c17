"""Format of a data set on disk: WebDataset tars, three tables per split, and a manifest.

manifest.json          this module's `Manifest`
{split}-000000.tar     "{key}.jpg" (or .png, ...), the original bytes of the image, then "{key}.json"
{split}.offsets.npy    OFFSET_DTYPE, one row a sample; a sample's id is its row
{split}.labels.npy     int32, an index into the split's classes, -1 where there is none
{split}.checks.npy     CHECK_DTYPE, checksums of the images, for reads over a network
rejected.jsonl         {"source", "reason"}, one line per source that could not be read
ignored.jsonl          the same per file of a folder that a rule excluded
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import parse_document

FORMAT = 1

PLAIN_NAME = re.compile(r"\w[\w.+ -]*")
"""Names of splits and files. A manifest is untrusted: no separator (`../x`), no scheme, no hidden file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 26
"""Largest manifest, 64 MiB; 100,000 shards take 8 MB."""

REJECTED = "rejected.jsonl"
IGNORED = "ignored.jsonl"

MAX_BYTES = 2**28
"""Largest image file, 256 MiB: each worker holds one."""

LABEL_DTYPE = np.dtype("<i4")

OFFSET_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4")])
"""Location of a sample's image: index in the split's list of shards, offset in that tar, bytes. 16 B packed."""


CHECK_DTYPE = np.dtype("<u8")
"""The first 8 bytes of the SHA-256 of a sample's image, as a little-endian number."""


@dataclass(frozen=True)
class TableInfo:
    """A table's file: its size in bytes and its SHA-256 (hex)."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardInfo:
    """One tar: its name in the folder, its samples and its size in bytes."""

    file: str
    samples: int
    bytes: int


@dataclass(frozen=True)
class SplitInfo:
    """One split: its samples, whether any has a label, the names that labels index, its shards in order, its tables.

    `tables` is by the name of the file; empty in a data set without checksums, which can only be read locally.
    """

    samples: int
    labelled: bool
    classes: list[str]
    shards: list[ShardInfo]
    tables: dict[str, TableInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Description of a data set.

    Args:
        name: For display.
        fingerprint: SHA-256 (hex) over key, SHA-256 of the bytes, and label of every sample in order; independent
            of the partition into shards.
        splits: By name, in order.
        rejected: Number of sources that could not be read.
        ignored: Number of files of a folder that a rule excluded.
        inputs: SHA-256 (hex) of the list of sources and the partition into shards; identifies a finished build.
    """

    name: str
    fingerprint: str
    splits: dict[str, SplitInfo]
    rejected: int = 0
    ignored: int = 0
    inputs: str = ""
    format: int = field(default=FORMAT)

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read `folder`/manifest.json. Raises UserError where it is missing, damaged or of another format."""
        path = Path(folder) / MANIFEST
        try:
            with path.open("rb") as file:
                text = file.read(
                    min(MANIFEST_BYTES, os.fstat(file.fileno()).st_size) + 1
                )  # the size limit as a buffer would be 64 MiB
        except FileNotFoundError:
            raise UserError(
                f"{folder} is not a data set: {MANIFEST} is missing; choose another folder with "
                "--data.shards (--shards in evaluate and report), or build one with `dist-plm shards build`"
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: bytes, place: str) -> "Manifest":
        """Parse the manifest in `text`, read from `place`. Raises UserError if it is invalid."""
        try:
            return _parse(parse_document(text, MANIFEST_BYTES))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{place} is not a manifest of format {FORMAT} ({type(error).__name__}: {error}); rebuild the data set"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Write `folder`/manifest.json atomically."""
        document = {"format": self.format, **{k: v for k, v in asdict(self).items() if k != "format"}}
        with replacing(Path(folder) / MANIFEST) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())


def offsets_path(folder: str | Path, split: str) -> Path:
    """The offset table of a split."""
    return Path(folder) / f"{split}.offsets.npy"


def labels_path(folder: str | Path, split: str) -> Path:
    """The label table of a split."""
    return Path(folder) / f"{split}.labels.npy"


def checks_path(folder: str | Path, split: str) -> Path:
    """The table of checks of a split."""
    return Path(folder) / f"{split}.checks.npy"


def check_of(sha256: bytes) -> int:
    """A sample's entry in the checksum table, from the SHA-256 of its image."""
    return int.from_bytes(sha256[:8], "little")


def is_sound(data: bytes | memoryview, check: int) -> bool:
    """Whether the bytes match the checksum of an image."""
    return check_of(hashlib.sha256(data).digest()) == check


def fingerprint_line(split: str, key: str, sha256: str, label: int) -> bytes:
    """The line of a sample in the input of the fingerprint; `label` is -1 if unlabelled."""
    return f"{split}/{key} {sha256} {label}\n".encode()


def _parse(document: dict[str, Any]) -> Manifest:
    if document["format"] != FORMAT:
        raise ValueError(f"it says format {document['format']}")
    splits = {
        _plain(name): SplitInfo(
            samples=_count(split["samples"]),
            labelled=bool(split["labelled"]),
            classes=[str(c) for c in split["classes"]],
            shards=[ShardInfo(_plain(s["file"]), _count(s["samples"]), _count(s["bytes"])) for s in split["shards"]],
            tables={
                _plain(file): TableInfo(_count(table["bytes"]), _sha256(table["sha256"]))
                for file, table in split.get("tables", {}).items()
            },
        )
        for name, split in document["splits"].items()
    }
    for name, info in splits.items():
        if info.samples != sum(shard.samples for shard in info.shards):
            raise ValueError(f"the shards of {name} do not add up to {info.samples} samples")
    return Manifest(
        name=str(document["name"]),
        fingerprint=_sha256(document["fingerprint"]),
        splits=splits,
        rejected=int(document["rejected"]),
        ignored=_count(document.get("ignored", 0)),
        inputs=str(document.get("inputs", "")),
    )


def _count(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError(f"{number} samples or bytes")
    return number


def _plain(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!a:.200} is not a plain name of a split or a file")
    return name


def _sha256(text: str) -> str:
    # The fingerprint names a folder of the cache.
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!a:.200} is not the 64 hexadecimal digits of a SHA-256")
    return text
