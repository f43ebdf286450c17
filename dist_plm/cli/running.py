"""Runs a command: exit status, and errors as one line on standard error."""

from collections.abc import Callable
from typing import NoReturn

from dist_plm.cli.ending import end
from dist_plm.distributed.environment import speaks
from dist_plm.distributed.process import prepare_process
from dist_plm.errors import MachineError, RunFailure, UserError
from dist_plm.files.names import escape_streams, printable


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status: 2 after a UserError, 1 after a RunFailure, 130 after Ctrl-C."""
    prepare_process()
    escape_streams()
    try:
        status, line = command(), ""
    except (UserError, RunFailure) as error:
        said = speaks() or isinstance(error, RunFailure | MachineError)
        status, line = 2 if isinstance(error, UserError) else 1, f"error: {printable(error)}" if said else ""
    except KeyboardInterrupt:
        status, line = 130, "interrupted" if speaks() else ""
    end(status, line)
