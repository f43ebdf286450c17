"""Resumable, parallel build of a data set: shards, then tables and manifest."""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dist_plm.data.format import (
    CHECK_DTYPE,
    IGNORED,
    LABEL_DTYPE,
    MANIFEST,
    OFFSET_DTYPE,
    REJECTED,
    Manifest,
    ShardInfo,
    SplitInfo,
    TableInfo,
    check_of,
    checks_path,
    fingerprint_line,
    labels_path,
    offsets_path,
)
from dist_plm.datasets.arguments import Part
from dist_plm.datasets.entry import Entry, Source
from dist_plm.datasets.pool import ordered
from dist_plm.datasets.progress import progress
from dist_plm.datasets.writer import BUILD, ShardTask, finish_shard, load_record
from dist_plm.errors import UserError
from dist_plm.files.atomic import NO_ROOM, replacing
from dist_plm.files.locks import try_lock
from dist_plm.files.reading import file_digest

REQUEST = "request{}.json"


class OtherImages(UserError):
    """The output folder holds a data set of other images.

    Attributes:
        complete: Whether that data set is complete; else it is a part, which may be removed.
    """

    def __init__(self, message: str, *, complete: bool) -> None:
        super().__init__(message)
        self.complete = complete


class Finished(NamedTuple):
    """The facts of a written shard that a build keeps in memory."""

    record: Path
    split: str
    samples: int
    rejected: int


def build(source: Source, out: Path, *, shard_bytes: int, workers: int) -> Manifest:
    """Write `source` into the folder `out`, resuming an interrupted build.

    Args:
        source: What to write.
        out: New, empty, or with (a part of) this data set.
        shard_bytes: A shard is closed when its images reach this size.
        workers: Number of processes; the result does not depend on it.

    Raises:
        OtherImages: `out` holds a data set of other images.
        UserError: `out` has other contents, another build is writing to it, or no image of a split can be read.
    """
    if (out / MANIFEST).exists() and not (out / BUILD).exists():
        return _unless_other(source, out, shard_bytes)
    with _building(source, out, shard_bytes):
        finished, inputs = [], hashlib.sha256()
        with progress(f"building {source.name}", source.total) as advance:
            for path in ordered(finish_shard, plan(source, out, shard_bytes), workers):
                record = load_record(path)
                advance(len(record.samples) + len(record.rejected))
                inputs.update(record.inputs.encode())
                finished.append(Finished(path, record.split, len(record.samples), len(record.rejected)))
        return _bind(source, out, finished, inputs.hexdigest())


def build_part(source: Source, out: Path, part: Part, *, shard_bytes: int, workers: int) -> int:
    """Write every `part.of`-th shard into `out`, concurrently with other parts on this and other machines.

    `build` then completes the data set.

    Returns:
        The number of shards of this part; 0 if the data set is complete.

    Raises:
        UserError: `out` has other contents, or a build without parts is writing to it.
    """
    if (out / MANIFEST).exists() and not (out / BUILD).exists():
        _unless_other(source, out, shard_bytes)
        return 0
    with _building(source, out, shard_bytes, part):
        tasks = islice(plan(source, out, shard_bytes), part.number - 1, None, part.of)
        written = 0
        with progress(f"building {source.name}, part {part}", source.total and source.total // part.of) as advance:
            for path in ordered(finish_shard, tasks, workers):
                record = load_record(path)
                advance(len(record.samples) + len(record.rejected))
                written += 1
        return written


def plan(source: Source, out: Path, shard_bytes: int) -> Iterator[ShardTask]:
    """Partition the entries into shards, with at most one shard in memory."""
    for split, entries in groupby(source.entries(), key=lambda entry: entry.split):
        number, size = 0, 0
        pending: list[Entry] = []
        for entry in entries:
            pending.append(entry)
            size += max(entry.size, 0)
            if size >= shard_bytes:
                yield ShardTask(out, split, number, pending)
                number, size, pending = number + 1, 0, []
        if pending:
            yield ShardTask(out, split, number, pending)


def _unless_other(source: Source, out: Path, shard_bytes: int) -> Manifest:
    manifest = Manifest.load(out)
    inputs = hashlib.sha256()
    for task in plan(source, out, shard_bytes):
        inputs.update(task.digest().encode())
    if inputs.hexdigest() != manifest.inputs:
        raise OtherImages(
            f"--out {out} holds the data set '{manifest.name}' from other inputs: choose another folder", complete=True
        )
    return manifest


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Converts disk errors while a data set is written into `out` to UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in NO_ROOM:
            raise UserError(
                f"--out {out} is out of space ({reason}): free space, then rerun the command to resume"
            ) from error
        if error.errno in (errno.EAGAIN, errno.ENOMEM):  # out of processes or memory
            raise UserError(f"the system stopped the build ({reason}): rerun the command to resume") from error
        raise UserError(f"--out {out} can't be written ({reason}): choose another folder") from error


@contextmanager
def _building(source: Source, out: Path, shard_bytes: int, part: Part | None = None) -> Iterator[None]:
    """Lock `out` for this build; .build is removed when the data set is complete.

    Parts share the lock, and each has its own copy of the request, so that no two write the same file.
    """
    classes = hashlib.sha256(json.dumps(source.classes).encode()).hexdigest()
    request = json.dumps({"name": source.name, "classes": classes, "shard_bytes": shard_bytes})
    work = out / BUILD
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")
    if work.is_dir():
        for other in (path.read_text() for path in work.glob(REQUEST.format("*"))):
            if other != request:
                raise OtherImages(
                    f"--out {out} holds part of another data set ({other}): remove it, or choose another",
                    complete=False,
                )
    elif out.is_dir() and any(path != work for path in out.iterdir()):
        raise UserError(f"--out {out} is not empty and not a data set: choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        if not try_lock(lock, shared=part is not None):
            raise UserError(f"another build is writing to --out {out}: wait for it, or stop it")
        with replacing(work / REQUEST.format(part.number if part else "")) as file:
            file.write(request.encode())
        yield
        if part is None:
            shutil.rmtree(work)


def _bind(source: Source, out: Path, finished: list[Finished], inputs: str) -> Manifest:
    """Write tables, rejected.jsonl and manifest from the records of all shards; the manifest last."""
    rejected = (name for shard in finished for name in load_record(shard.record).rejected)
    rejections = _list(out / REJECTED, rejected)
    ignored = 0 if source.ignored is None else _list(out / IGNORED, source.ignored())
    fingerprint = hashlib.sha256()
    splits = {}
    for split, classes in source.classes.items():
        shards = [shard for shard in finished if shard.split == split]
        if not any(shard.samples for shard in shards):
            raise UserError(f"no image of the split '{split}' can be read: see {out / REJECTED} and {IGNORED}")
        splits[split] = _bind_split(out, split, classes, shards, fingerprint.update)
    _remove_strays(out, splits)
    manifest = Manifest(source.name, fingerprint.hexdigest(), splits, rejections, ignored, inputs)
    manifest.save(out)
    return manifest


def _list(path: Path, files: Iterable[tuple[str, str]]) -> int:
    """Write file names and reasons as JSON lines; returns their number."""
    count = 0
    with replacing(path) as log:
        for count, (name, reason) in enumerate(files, 1):  # noqa: B007 (the last is the number of lines)
            log.write((json.dumps({"source": name, "reason": reason}) + "\n").encode())
    return count


def _bind_split(
    out: Path, split: str, classes: list[str], finished: list[Finished], fingerprint: Callable[[bytes], None]
) -> SplitInfo:
    """Write the tables of a split and update `fingerprint` with its samples. Empty shards are skipped."""
    finished = [shard for shard in finished if shard.samples]
    shards, labelled, samples = [], False, sum(shard.samples for shard in finished)
    paths = {offsets_path(out, split): OFFSET_DTYPE, labels_path(out, split): LABEL_DTYPE}
    paths[checks_path(out, split)] = CHECK_DTYPE
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(path)) for path in paths]
        for table, dtype in zip(files, paths.values(), strict=True):
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (samples,)}
            np.lib.format.write_array_header_1_0(table, header)
        offsets, labels, checks = files
        for number, shard in enumerate(finished):
            record = load_record(shard.record)
            rows = [(number, offset, size) for _, _, _, offset, size in record.samples]
            labels_of_shard = np.array([label for _, _, label, _, _ in record.samples], LABEL_DTYPE)
            offsets.write(np.array(rows, OFFSET_DTYPE).tobytes())
            labels.write(labels_of_shard.tobytes())
            known = [check_of(bytes.fromhex(sha256)) for _, sha256, _, _, _ in record.samples]
            checks.write(np.array(known, CHECK_DTYPE).tobytes())
            labelled |= bool((labels_of_shard >= 0).any())
            for key, sha256, label, _, _ in record.samples:
                fingerprint(fingerprint_line(split, key, sha256, label))
            shards.append(ShardInfo(record.file, shard.samples, record.bytes))
    return SplitInfo(samples, labelled, classes, shards, {path.name: table_info(path) for path in paths})


def table_info(path: Path) -> TableInfo:
    """The manifest's entry of a table."""
    return TableInfo(**file_digest(path))


def _remove_strays(out: Path, splits: dict[str, SplitInfo]) -> None:
    """Remove shards of an interrupted build that this one does not have, and incomplete files."""
    kept = {shard.file for info in splits.values() for shard in info.shards}
    for path in [*out.glob("*.tar"), *out.glob(".*.tmp")]:
        if path.name not in kept:
            path.unlink()
