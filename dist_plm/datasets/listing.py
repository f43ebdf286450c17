"""Directory listings on disk or in a tar: names, types, and locations of files."""

import errno
import os
import stat
import tarfile
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Union

from dist_plm.errors import UserError
from dist_plm.files.tar_header import SmallHeader

MOST_LINKS = 40
"""Limit of symbolic links in a path of a tar, as in Linux (path_resolution(7))."""

MOST_FOLDERS = 256
"""Limit of nested folders in a path of a tar: each level is walked with all above it, and a path can have thousands."""

ASTRAY = "its path leads out of the tar, or through a file"
DEEP = f"its path has more than {MOST_FOLDERS} folders"
_OUTSIDE = ("/", "..")


class Item(NamedTuple):
    """An entry of a folder.

    Args:
        name: Base name.
        folder: Identity of a folder, independent of the link to it; None for other entries.
        link: Whether it is a symbolic link.
    """

    name: str
    folder: Hashable
    link: bool


class DiskListing:
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def items(self, path: str) -> list[Item]:
        """Entries right below a relative path, sorted by name. Raises OSError."""
        with os.scandir(self.root / path) as entries:
            return sorted(Item(entry.name, _folder(entry), entry.is_symlink()) for entry in entries)

    def identity(self, path: str) -> Hashable:
        """Of the folder at a relative path. Raises OSError."""
        status = os.stat(self.root / path)
        return status.st_dev, status.st_ino

    def above(self) -> list[Hashable]:
        """Identities of the folders that contain the root."""
        return [self.identity(str(parent)) for parent in self.root.resolve().parents]

    def locate(self, path: str) -> tuple[Path, int, int]:
        """File, first byte and size of the file at a relative path; the size is -1 where there is no regular file."""
        file = self.root / path
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            return file, 0, -1
        return file, 0, status.st_size if stat.S_ISREG(status.st_mode) else -1


def _folder(entry: "os.DirEntry[str]") -> Hashable:
    try:
        if not entry.is_dir():
            return None
        status = entry.stat()
    except OSError:  # a circular link, or no permission
        return None
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class _Link:
    """A link in a tar: hard, to a member, or symbolic, to a path relative to its folder."""

    target: str
    hard: bool


_Place = tuple[int, int]  # offset and size; (0, -1) if not a regular file
_Node = Union[dict[str, "_Node"], _Place, _Link]  # noqa: UP007 (a name in quotes takes no |)


_NOTHING: _Place = (0, -1)


class TarListing:
    """The members of an uncompressed tar, their links resolved.

    Attributes:
        refused: Members that are left out, and why: a path that leads out of the tar or through a file, or too deep.

    Raises:
        UserError: It can't be read, is compressed, not a tar, or has two files of the same name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: list[tuple[str, str]] = []
        self._root: dict[str, _Node] = {}
        try:
            with tarfile.open(path, "r:", tarinfo=SmallHeader) as tar:
                for member in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                    self._add(member)
        except OSError as error:
            raise unreadable(path, error) from error
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is not an uncompressed tar ({error}); unpack it and give the folder") from error

    def items(self, path: str) -> list[Item]:
        """As for a folder. Raises NotADirectoryError."""
        folder = self._resolve(path)
        if not isinstance(folder, dict):
            raise NotADirectoryError(errno.ENOTDIR, "no folder of the tar", path)
        entries = []
        for name, node in sorted(folder.items()):
            leads_to = self._resolve(f"{path}/{name}") if isinstance(node, _Link) else node
            entries.append(Item(name, id(leads_to) if isinstance(leads_to, dict) else None, isinstance(node, _Link)))
        return entries

    def identity(self, path: str) -> Hashable:
        """As of a folder."""
        return id(self._resolve(path))

    def above(self) -> list[Hashable]:
        """Empty: a tar has no parent folder."""
        return []

    def locate(self, path: str) -> tuple[Path, int, int]:
        """As of a folder."""
        place = self._resolve(path)
        return (self.path, *place) if isinstance(place, tuple) else (self.path, 0, -1)

    def _add(self, member: tarfile.TarInfo) -> None:
        *parents, name = PurePosixPath(member.name).parts or ("",)
        if len(parents) > MOST_FOLDERS:
            self.refused.append((member.name, DEEP))
            return
        folder: _Node = self._root
        for part in parents:
            folder = folder.setdefault(part, {}) if isinstance(folder, dict) and part not in _OUTSIDE else _NOTHING
        if not name:
            return  # "./", the root itself
        if (
            not isinstance(folder, dict)
            or name in _OUTSIDE
            or (isinstance(folder.get(name), dict) and not member.isdir())
        ):
            self.refused.append((member.name, ASTRAY))
        elif member.isdir():
            folder.setdefault(name, {})
        elif name in folder:
            raise UserError(
                f"{self.path} holds two files called {member.name!a:.200}: unpack it and give the folder, or remove one"
            )
        elif member.issym() or member.islnk():
            folder[name] = _Link(member.linkname, member.islnk())
        else:
            plain = member.isreg() and not member.issparse()
            folder[name] = (member.offset_data, member.size) if plain else _NOTHING

    def _resolve(self, path: str) -> _Node | None:
        """The node at a path from the root, following links like a kernel; None if there is none."""
        way: list[_Node] = [self._root]
        ahead = path.split("/")[::-1]
        links = 0
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(way) == 1:
                    return None
                way.pop()
                continue
            here = way[-1]
            node = here.get(part) if isinstance(here, dict) else None
            if isinstance(node, _Link):
                links += 1
                if links > MOST_LINKS or (node.target.startswith("/") and not node.hard):
                    return None
                way = [self._root] if node.hard else way
                ahead += node.target.split("/")[::-1]
            elif node is None:
                return None
            else:
                way.append(node)
        return way[-1]


def unreadable(path: Path, error: Exception) -> UserError:
    """The error for an unreadable list, tar or folder of a source."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path} can't be read ({reason}): check its permissions, or copy it again")
