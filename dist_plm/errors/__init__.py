"""Exceptions whose message is meant for the user: UserError (exit status 2) and RunFailure (1)."""


class UserError(Exception):
    """A wrong path, key, value or file: one or two lines that name the problem, its place and the fix.

    Commands print the message without a traceback and exit with status 2. A bug in the project is never a UserError.
    """


class MachineError(UserError):
    """An error that may occur on one machine only, such as a missing GPU: every rank that has it prints it."""


class RunFailure(Exception):
    """A run failed after it started: a dead rank, a non-finite loss. Status 1, the cause in one line."""
