"""Verify every byte of a data set: `python shards/verify.py DIR`.

Compares every shard with the tables, the manifest and the samples' checksums. Headers are determined by file name
and size, so that no byte of a tar is unchecked.
"""

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dist_plm.cli.parsers import OneLineParser
from dist_plm.data.format import (
    CHECK_DTYPE,
    IGNORED,
    LABEL_DTYPE,
    OFFSET_DTYPE,
    REJECTED,
    Manifest,
    checks_path,
    labels_path,
    offsets_path,
)
from dist_plm.data.store import table
from dist_plm.datasets.arguments import positive
from dist_plm.datasets.assembly import table_info
from dist_plm.datasets.inspection import Check, check_shard
from dist_plm.datasets.pool import ordered
from dist_plm.datasets.progress import progress
from dist_plm.errors import UserError
from dist_plm.files.names import escape_streams


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status 0 intact, 1 damaged, 2 not a data set."""
    escape_streams()
    parser = OneLineParser(prog="dist-plm shards verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="data set written by `dist-plm shards build`")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        manifest = Manifest.load(options.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    problems = list(check(options.folder, manifest, options.workers))
    for problem in problems:
        print(f"damaged: {problem}")
    if not problems:
        samples = sum(info.samples for info in manifest.splits.values())
        print(f"{options.folder} is intact: {samples:,} samples, fingerprint {manifest.fingerprint}")
    return 1 if problems else 0


def check(folder: Path, manifest: Manifest, workers: int) -> Iterator[str]:
    """Errors of a data set, the first of each file; none if it is intact."""
    problems = [problem for split in manifest.splits for problem in _check_tables(folder, manifest, split)]
    if problems:
        yield from problems
        return
    fingerprint = hashlib.sha256()
    with progress(f"verifying {manifest.name}", sum(info.samples for info in manifest.splits.values())) as advance:
        tasks = _checks(folder, manifest)
        for lines, problem in ordered(check_shard, tasks, workers):
            if problem:
                problems.append(problem)
            for line in lines:
                fingerprint.update(line)
            advance(len(lines))
    yield from problems
    if not problems and fingerprint.hexdigest() != manifest.fingerprint:
        yield f"manifest.json: the content has the fingerprint {fingerprint.hexdigest()}, not {manifest.fingerprint}"
    # Last, since the shards tell where in a table the damage is.
    for name, known in ((name, known) for info in manifest.splits.values() for name, known in info.tables.items()):
        if not problems and table_info(folder / name) != known:
            yield f"{name}: its SHA-256 is not the one in the manifest"
    for name, count in ((REJECTED, manifest.rejected), (IGNORED, manifest.ignored)):
        line_count = (folder / name).read_bytes().count(b"\n") if (folder / name).exists() else 0
        if line_count != count:
            yield f"{name}: {line_count} lines, {count} in the manifest"


def _checks(folder: Path, manifest: Manifest) -> Iterator[Check]:
    for split, info in manifest.splits.items():
        firsts = itertools.accumulate((shard.samples for shard in info.shards), initial=0)
        for number, (shard, first) in enumerate(zip(info.shards, firsts, strict=False)):
            yield Check(folder, split, number, shard, first, info.classes)


def _check_tables(folder: Path, manifest: Manifest, split: str) -> Iterator[str]:
    info = manifest.splits[split]
    tables = {offsets_path(folder, split): OFFSET_DTYPE, labels_path(folder, split): LABEL_DTYPE}
    if info.tables or checks_path(folder, split).exists():
        tables[checks_path(folder, split)] = CHECK_DTYPE
    for path, dtype in tables.items():
        try:
            table(path, dtype, info.samples)
        except UserError as error:
            yield str(error)
    for shard in info.shards:
        path = folder / shard.file
        size = path.stat().st_size if path.exists() else 0
        if size != shard.bytes:
            yield f"{shard.file}: {size:,} bytes, {shard.bytes:,} in the manifest"


if __name__ == "__main__":
    sys.exit(main())
