"""Writes one shard: reads its entries, rejects those that don't decode, and records the result.

Records lie in the folder .build of the data set during a build. By the digest of the shard's entries they tell a
resumed build that the shard is finished. Headers have no time or owner: the same entries give the same bytes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dist_plm.data.decode import TooLittleMemory, decode, extension
from dist_plm.datasets.entry import Entry
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing

BUILD = ".build"


@dataclass(frozen=True)
class ShardTask:
    """A shard to be written into `folder`: `{split}-{number:06d}.tar`."""

    folder: Path
    split: str
    number: int
    entries: Sequence[Entry]

    @property
    def file(self) -> str:
        """Name of the tar."""
        return f"{self.split}-{self.number:06d}.tar"

    def digest(self) -> str:
        """SHA-256 over the identities of the entries, in order."""
        return hashlib.sha256("\n".join(map(repr, self.entries)).encode("utf-8", "backslashreplace")).hexdigest()


@dataclass
class ShardRecord:
    """Record of a written shard.

    Args:
        split: Split of the shard.
        file: Name of the tar.
        inputs: Digest of the entries.
        bytes: Size of the tar.
        samples: (key, SHA-256 of the image, label or -1, offset of the image, its size) of each sample in order.
        rejected: (source, reason) of each entry that is not in the tar.
    """

    split: str
    file: str
    inputs: str
    bytes: int = 0
    samples: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def finish_shard(task: ShardTask) -> Path:
    """Write a shard, unless an earlier build wrote it from the same entries; returns the path of its record.

    Raises:
        UserError: There is too little memory for an image, which is no reason to reject it.
    """
    path = task.folder / BUILD / f"{task.file}.json"
    inputs = task.digest()
    if not _is_finished(task.folder / task.file, path, inputs):
        record = _write(task, inputs)
        with replacing(path) as file:
            file.write(json.dumps(asdict(record)).encode())
    return path


def load_record(path: Path) -> ShardRecord:
    """Read the record of a finished shard."""
    return ShardRecord(**json.loads(path.read_bytes()))


def header(name: str, size: int) -> bytes:
    """The header block of a file in a shard, a function of name and size."""
    return _info(name, size).tobuf(tarfile.USTAR_FORMAT)


def describe(split: str, source: str, label: int | None, class_name: str | None, sha256: str) -> bytes:
    """The JSON member that follows an image."""
    described = {"label": label, "class": class_name, "split": split, "source": source, "sha256": sha256}
    return json.dumps(described).encode()


def _is_finished(tar: Path, path: Path, inputs: str) -> bool:
    # The record is renamed into place after its tar, so an existing record implies a complete tar.
    try:
        record = load_record(path)
        return record.inputs == inputs and record.bytes == tar.stat().st_size
    except (OSError, ValueError, TypeError):
        return False


def _write(task: ShardTask, inputs: str) -> ShardRecord:
    record = ShardRecord(task.split, task.file, inputs)
    with replacing(task.folder / task.file) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for entry in task.entries:
                try:
                    data = entry.read()
                    decode(data)
                except (MemoryError, TooLittleMemory) as error:
                    raise UserError(
                        f"too little memory for {entry.source}: lower --workers, and rerun the command to resume"
                    ) from error
                except (OSError, ValueError) as error:
                    record.rejected.append((entry.source, getattr(error, "strerror", None) or str(error)))
                    continue
                sha256 = hashlib.sha256(data).hexdigest()
                # A USTAR header is one block; the image follows it.
                offset = tar.offset + tarfile.BLOCKSIZE
                _add(tar, f"{entry.key}.{extension(data)}", data)
                described = describe(entry.split, entry.source, entry.label, entry.class_name, sha256)
                _add(tar, f"{entry.key}.json", described)
                label = -1 if entry.label is None else entry.label
                record.samples.append((entry.key, sha256, label, offset, len(data)))
        record.bytes = file.tell()
    return record


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_info(name, len(data)), io.BytesIO(data))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info
