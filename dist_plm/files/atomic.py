"""Files that exist whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Errors of a disk that holds no more: full, over the quota or the largest size of a file, or read-only by now.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def replacing(path: str | Path, *, writer: str = "") -> Iterator[BinaryIO]:
    """Open `path` for writing under a temporary name beside it; it takes its own name when the block ends well.

    The data reach the disk before the name does. When the block raises, the old file stays as it was. Of several that
    may write the same file at once each has a name of its own as `writer`; the last one wins, whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
