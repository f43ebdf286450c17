"""What torchrun and its like say in the environment."""

import os

from dist_plm.errors import UserError


def number(name: str, default: int) -> int:
    """The whole number in the variable `name`. Raises UserError for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment: it must be a whole number; start ranks with torchrun")
    return int(text)
