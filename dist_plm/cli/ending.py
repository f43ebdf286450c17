"""Exit with a status and a last line, both reported to torchrun if there is one."""

import sys
from typing import NoReturn

from dist_plm.distributed.torchrun import leave_status


def end(status: int, line: str = "") -> NoReturn:
    """Exit after a last line on standard error."""
    if line:
        print(line, file=sys.stderr, flush=True)
    if status:
        leave_status(status, line)
    sys.exit(status)
