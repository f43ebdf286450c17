"""What torchrun and its like say in the environment."""

import os

from dist_plm.errors import UserError


def number(name: str, default: int, *, least: int = 0) -> int:
    """The whole number in the variable `name`. Raises UserError for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        what = "a whole number" + f" from {least}" * bool(least)
        raise UserError(f"{name} is {text!r} in the environment: it must be {what}; start ranks with torchrun")
    return int(text)
