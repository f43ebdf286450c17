"""Exceptions whose message is meant for the user: UserError (exit status 2) and RunFailure (1)."""


class UserError(Exception):
    """A wrong path, key, value or file: one or two lines that say what is wrong, where, and what mends it.

    Commands print the message without a traceback and leave with status 2. A bug in the project is never a UserError.
    """


class MachineError(UserError):
    """A mistake that only the ranks of one machine may see, such as a missing GPU: whoever sees it says so."""


class RunFailure(Exception):
    """A run that started well can't go on: a dead rank, a loss that is not finite. Status 1, the cause in one line."""
