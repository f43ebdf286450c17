"""Local copy of the manifest and tables of a data set at a URL, fetched once per node."""

import fcntl
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dist_plm.config import DataConfig
from dist_plm.data.format import MANIFEST, Manifest, TableInfo, checks_path, labels_path, offsets_path
from dist_plm.data.place import cache_folder
from dist_plm.data.remote.spans import BLOCK, Remote, Span, StoreFailure
from dist_plm.errors import MachineError, UserError
from dist_plm.files.atomic import replacing

START_SECONDS = 15.0  # short, since the URL may be mistyped


def mirror(data: DataConfig, split: str = "") -> Path:
    """A local folder that holds the manifest of the data set at a URL, and the tables of `split`.

    A process fetches the manifest once: later changes of the data set don't affect a run.

    Raises:
        UserError: There is no data set, it can't be reached, or it has no checksums.
    """
    try:
        folder = _manifest(data.shards, cache_folder(data), min(data.retry_seconds, START_SECONDS))
        if split and (info := Manifest.load(folder).splits.get(split)):
            paths = offsets_path(folder, split), labels_path(folder, split), checks_path(folder, split)
            if any(path.name not in info.tables for path in paths):
                raise UserError(
                    f"{data.shards} has no checksums, which data sets at a URL need: rebuild it "
                    "(the fingerprint stays the same) or copy it to this machine"
                )
            remote = Remote(data.shards, data.retry_seconds)
            for path in paths:
                _fetch(remote, path, info.tables[path.name])
    except StoreFailure as failure:
        raise UserError(f"data.shards can't be read: {failure}") from failure
    except OSError as error:
        raise MachineError(
            f"{cache_folder(data)} can't be written ({error.strerror}): name another, data.cache_dir or XDG_CACHE_HOME"
        ) from error
    return folder


@functools.cache
def _manifest(url: str, cache: Path, retry_seconds: float) -> Path:
    text = Remote(url, retry_seconds).read([Span(MANIFEST, 0, None)])[0]
    Manifest.parse(text, f"{url}/{MANIFEST}")
    folder = cache / "tables" / hashlib.sha256(text).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not (folder / MANIFEST).exists():
            with replacing(folder / MANIFEST) as file:
                file.write(text)
    return folder


def _fetch(remote: Remote, path: Path, table: TableInfo) -> None:
    with _alone(path.parent):
        if path.exists():  # renamed after verification
            return
        sha256 = hashlib.sha256()
        with replacing(path) as file:
            for start in range(0, table.bytes, BLOCK):
                block = remote.read([Span(path.name, start, min(start + BLOCK, table.bytes))])[0]
                sha256.update(block)
                file.write(block)
            if sha256.hexdigest() != table.sha256:
                raise UserError(f"{remote.url}/{path.name} does not match {MANIFEST}: copy the data set there again")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock among the ranks of a node: the first one fetches."""
    with open(folder / "lock", "w") as lock:
        with suppress(OSError):  # on a file system without locks each rank fetches
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
