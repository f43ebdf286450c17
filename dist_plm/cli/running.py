"""How a command ends: its status, and for a mistake or a failure one line on standard error."""

import sys
from collections.abc import Callable
from typing import NoReturn

from dist_plm.errors import MachineError, RunFailure, UserError
from dist_plm.runtime.environment import speaks
from dist_plm.runtime.names import escape_streams


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status: 2 after a UserError, 1 after a RunFailure, 130 after Ctrl-C."""
    escape_streams()
    try:
        status = command()
    except (UserError, RunFailure) as error:
        if speaks() or isinstance(error, RunFailure | MachineError):
            print(f"error: {error}", file=sys.stderr)
        status = 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        if speaks():
            print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
