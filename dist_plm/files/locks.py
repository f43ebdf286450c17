"""Advisory locks of files, on file systems that have them."""

import fcntl
from typing import IO


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Lock an open file without waiting, until it is closed.

    Returns:
        False if another process holds it. On a file system without locks, as some network and cloud drives are, True.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
