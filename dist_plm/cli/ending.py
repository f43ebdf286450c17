"""Exit with a status and a last line, both reported to torchrun if there is one."""

import sys
import time
from typing import NoReturn

from dist_plm.distributed.environment import place, speaks
from dist_plm.distributed.torchrun import leave_status

FIRST_SECONDS = 3.0  # below the 5 s after which the other ranks' health check reports this one as dead


def end(status: int, line: str = "") -> NoReturn:
    """Exit after a last line on standard error."""
    if line:
        print(line, file=sys.stderr, flush=True)
    if status:
        leave_status(status, line)
    sys.exit(status)


def end_all(status: int, line: str) -> NoReturn:
    """Exit after an error that other ranks usually have too: rank 0 prints it at once.

    Another rank waits `FIRST_SECONDS`, in which the launcher stops it if rank 0 has failed. If it still runs then, the
    error is perhaps its own, and it prints it.
    """
    if not speaks():
        leave_status(status, "")
        time.sleep(FIRST_SECONDS)
        line = f"rank {place().rank}: {line}"
    end(status, line)
