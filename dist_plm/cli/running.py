"""Runs a command: exit status, and errors as one line on standard error."""

from collections.abc import Callable
from typing import NoReturn

from dist_plm.cli.ending import end, end_all
from dist_plm.distributed.environment import speaks
from dist_plm.distributed.process import prepare_process
from dist_plm.errors import MachineError, RunFailure, UserError
from dist_plm.files.names import escape_streams, printable


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its status: 2 after a UserError, 1 after a RunFailure, 130 after Ctrl-C."""
    prepare_process()
    escape_streams()
    try:
        status = command()
    except UserError as error:
        (end if isinstance(error, MachineError) else end_all)(2, f"error: {printable(error)}")
    except RunFailure as error:
        end(1, f"error: {printable(error)}")
    except KeyboardInterrupt:
        end(130, "interrupted" if speaks() else "")
    end(status)
