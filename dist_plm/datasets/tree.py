"""Uniform access to a folder or a tar of one; a tar is never extracted.

The shard builder and `embed` find images by it: every file is visited, whatever its name, unless a rule ignores it,
which is reported.
"""

import os
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dist_plm.datasets.entry import FileEntry
from dist_plm.datasets.listing import DiskListing, Item, TarListing, unreadable
from dist_plm.errors import UserError

NESTED_LINKS = 8
"""Depth limit of nested links to folders: two links per folder make 2^8 paths, not 2^40."""

HIDDEN = "hidden, or made by the operating system"
_SYSTEM = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
_LOOP = "a link to a folder that contains it"
_TOO_MANY_LINKS = f"a linked folder inside of {NESTED_LINKS} others"


class TreeFile(NamedTuple):
    """A file of a tree: its relative path, and the rule that ignores it, empty if it is to be read."""

    path: str
    rule: str = ""


@dataclass(frozen=True)
class _Folder:
    """A folder being traversed: its path with a slash, and the links on the path."""

    prefix: str
    items: Iterator[Item]
    above: frozenset[Hashable]
    links: int
    rule: str


class Tree:
    """Files below a root, by relative path with forward slashes.

    Args:
        source: A folder or an uncompressed tar.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source)
        if os.path.isfile(source):
            self._listing: DiskListing | TarListing = TarListing(self.source)
        elif os.path.isdir(source):
            self._listing = DiskListing(self.source)
        else:
            raise UserError(f"--source {source} is neither a folder nor a tar")

    def find(self, *candidates: str) -> str | None:
        """The first of the relative paths that is a file."""
        return next((path for path in candidates if self._listing.locate(path)[2] >= 0), None)

    def require(self, what: str, *candidates: str) -> str:
        """As `find`; raises UserError naming the layout (`what`) if there is none."""
        path = self.find(*candidates)
        if path is None:
            raise UserError(f"--source {self.source} is not {what}: found none of {', '.join(candidates)}")
        return path

    def size(self, path: str) -> int:
        """Bytes of the file at a relative path, -1 if it is no regular file."""
        return self._listing.locate(path)[2]

    def data(self, path: str) -> bytes:
        """The contents of a small file. Raises UserError if it can't be read."""
        try:
            return self.entry(path, split="", label=None, class_name=None).read_any()
        except (OSError, ValueError) as error:
            raise unreadable(self.source / path, error) from error

    def lines(self, path: str, fields: int, skip: int = 0) -> list[list[str]]:
        """The white-space separated fields of each line after the first `skip`; the last field may contain spaces."""
        try:
            lines = self.data(path).decode().splitlines()
        except UnicodeDecodeError as error:
            where = f"{error.reason} at byte {error.start}"
            raise UserError(f"{self.source / path} is not UTF-8 text ({where}): save it as UTF-8") from error
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
        """The two fields of each line, first to second; field `number` must be an integer."""
        rows = self.lines(path, 2)
        for row in rows:
            if not re.fullmatch(r"[0-9]{1,9}", row[number]):
                where = f"{row[number]!r} in the line {' '.join(row)!r}"
                raise UserError(f"{self.source / path}: {where} is not an integer; use the published list")
        return dict(rows)

    def entry(self, path: str, *, name: str = "", **described: Any) -> FileEntry:
        """The entry for a relative path; a missing file is rejected when it is read.

        Args:
            name: In its data set; by default the path.
        """
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/"):
            raise UserError(f"{path!r} leads out of the source {self.source}")
        file, offset, size = self._listing.locate(path)
        return FileEntry(source=name or path, path=file, offset=offset, size=size, **described)

    def folders(self, path: str = "") -> list[str]:
        """Names of the subfolders of `path` that no rule ignores, sorted."""
        start = self._start(path)
        below = ((item, self._rule(item, start)) for item in start.items)
        return [item.name for item, rule in below if item.folder is not None and not rule]

    def has_images(self, path: str = "") -> bool:
        """Whether a file directly in `path` starts like an image."""
        start = self._start(path)
        files = (item for item in start.items if item.folder is None and not self._rule(item, start))
        return any(self._begins_as_image(start.prefix + item.name) for item in files)

    def walk(self, path: str = "") -> Iterator[TreeFile]:
        """All files below `path`, in the same order on every machine.

        Links to folders are followed unless they are circular. Ignored files are listed as well.
        """
        way = [self._start(path)]
        while way:
            here = way[-1]
            item = next(here.items, None)
            if item is None:
                way.pop()
                continue
            name, rule = here.prefix + item.name, self._rule(item, here)
            ends = item.folder is None or item.folder in here.above or (rule and item.link)
            if ends or (below := self._items(name, rule)) is None:
                yield TreeFile(name, rule)
            else:
                way.append(_Folder(f"{name}/", below, here.above | {item.folder}, here.links + item.link, rule))
        if isinstance(self._listing, TarListing) and not path:
            yield from (TreeFile(name, rule) for name, rule in self._listing.refused)

    def _rule(self, item: Item, within: _Folder) -> str:
        """The rule that ignores an entry of a folder."""
        if within.rule:
            return within.rule
        if item.name.startswith(".") or item.name.lower() in _SYSTEM:
            return HIDDEN
        if item.folder in within.above:
            return _LOOP
        return _TOO_MANY_LINKS if item.folder and item.link and within.links == NESTED_LINKS else ""

    def _start(self, path: str) -> _Folder:
        """The folder at `path`, with the links on the path."""
        links, known, parts = 0, set(self._listing.above()), PurePosixPath(path).parts
        try:
            known.add(self._listing.identity(""))
            for number, part in enumerate(parts):
                before = "/".join(parts[:number])
                links += next((item.link for item in self._listing.items(before) if item.name == part), False)
                known.add(self._listing.identity("/".join(parts[: number + 1])))
        except OSError as error:
            raise unreadable(self.source / path, error) from error
        items = self._items(path, "")
        assert items is not None
        return _Folder(f"{path}/" if path else "", items, frozenset(known), links, "")

    def _items(self, path: str, rule: str) -> Iterator[Item] | None:
        """Entries of a folder; None if it can't be read but a rule ignores it anyway. Raises UserError otherwise."""
        try:
            return iter(self._listing.items(path))
        except OSError as error:
            if rule:
                return None
            raise unreadable(self.source / path, error) from error

    def _begins_as_image(self, path: str) -> bool:
        try:
            self.entry(path, split="", label=None, class_name=None).read()
        except (OSError, ValueError):
            return False
        return True
