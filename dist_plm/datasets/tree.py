"""A folder, or a tar of one, read in place through the same few verbs; a tar is never extracted."""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dist_plm.datasets.entry import FileEntry
from dist_plm.errors import UserError


class Tree:
    """Files below a root, by relative path with forward slashes.

    Args:
        source: A folder or an uncompressed tar.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        self._members: dict[str, tuple[int, int]] | None = None
        if os.path.isfile(source):
            self._members = _index(self.source)
        elif not os.path.isdir(source):
            raise UserError(f"--source {source} is neither a folder nor a tar")

    def find(self, *candidates: str) -> str | None:
        """The first of the relative paths that is a file."""
        return next((path for path in candidates if self._locate(path)[1] >= 0), None)

    def require(self, what: str, *candidates: str) -> str:
        """As `find`; UserError naming the layout (`what`) where there is none."""
        found = self.find(*candidates)
        if found is None:
            raise UserError(f"--source {self.source} is not {what}: found none of {', '.join(candidates)}")
        return found

    def data(self, path: str) -> bytes:
        """The whole of a small file. Raises UserError where it can't be had."""
        try:
            return self.entry(path, split="", label=None, class_name=None).read()
        except (OSError, ValueError) as error:
            raise _unreadable(self.source / path, error) from error

    def lines(self, path: str, fields: int, skip: int = 0) -> list[list[str]]:
        """The white-space separated fields of each line after the first `skip`; the last field may hold blanks."""
        try:
            lines = self.data(path).decode().splitlines()
        except UnicodeDecodeError as error:
            where = f"{error.reason} at byte {error.start}"
            raise UserError(f"{self.source / path} is no text in UTF-8 ({where}): save it as such") from error
        rows = []
        for number, line in enumerate(lines, 1):
            row = line.split(maxsplit=fields - 1)
            if number <= skip or not row:
                continue
            if len(row) != fields:
                raise UserError(f"{path}, line {number}: {fields} fields expected, {len(row)} found")
            rows.append(row)
        return rows

    def table(self, path: str, number: int) -> dict[str, str]:
        """The two fields of each line, first to second; field `number` is a whole number in all of them."""
        rows = self.lines(path, 2)
        for row in rows:
            if not re.fullmatch(r"[0-9]{1,9}", row[number]):
                where = f"{row[number]!r} in the line {' '.join(row)!r}"
                raise UserError(f"{self.source / path}: {where} is no whole number; take the list as published")
        return dict(rows)

    def entry(self, path: str, **described: Any) -> FileEntry:
        """The entry for a relative path, there or not (a missing one is rejected when it is read)."""
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/"):
            raise UserError(f"{path!r} leads out of the source {self.source}")
        offset, size = self._locate(path)
        file = self.source if self._members is not None else self.source / path
        return FileEntry(source=path, path=file, offset=offset, size=size, **described)

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders right below `path`, sorted."""
        if self._members is None:
            return [name for name, is_folder in self._listed(path) if is_folder]
        prefix = f"{path}/" if path else ""
        below = (name[len(prefix) :] for name in self._members if name.startswith(prefix))
        return sorted({name.split("/")[0] for name in below if "/" in name})

    def walk(self, path: str = "") -> Iterator[str]:
        """Relative paths of all files below `path`, in one order everywhere; holds one folder's names at a time.

        Links to folders are not followed: they may lead in a circle.
        """
        prefix = f"{path}/" if path else ""
        if self._members is not None:
            yield from sorted(name for name in self._members if name.startswith(prefix))
            return
        for name, is_folder in self._listed(path):
            if is_folder:
                yield from self.walk(prefix + name)
            else:
                yield prefix + name

    def _listed(self, path: str) -> list[tuple[str, bool]]:
        """Names right below `path`, sorted, and whether each is a folder."""
        try:
            with os.scandir(self.source / path) as found:
                return sorted((e.name, e.is_dir(follow_symlinks=False)) for e in found)
        except OSError as error:
            raise _unreadable(self.source / path, error) from error

    def _locate(self, path: str) -> tuple[int, int]:
        if self._members is not None:
            return self._members.get(path, (0, -1))
        try:
            status = os.stat(self.source / path)
        except (OSError, ValueError):
            return 0, -1
        return 0, status.st_size if stat.S_ISREG(status.st_mode) else -1


def _index(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each regular file of a tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {str(PurePosixPath(m.name)): (m.offset_data, m.size) for m in tar if m.isreg() and not m.issparse()}
    except OSError as error:
        raise _unreadable(path, error) from error
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not an uncompressed tar ({error}); unpack it and give the folder") from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path} can't be read ({reason}): allow it to be read, or copy it again")
