"""Environment variables set by torchrun and compatible launchers."""

import os
from typing import NamedTuple

from dist_plm.errors import UserError


class Place(NamedTuple):
    """Rank `rank` of `size`, the `local`th of its machine."""

    rank: int
    size: int
    local: int


def place() -> Place:
    """Rank and world size of this process; a world of one where the environment has no such variables.

    Raises:
        UserError: The variables are inconsistent, or not numbers.
    """
    size, rank, local = number("WORLD_SIZE", 1, least=1), number("RANK", 0), number("LOCAL_RANK", 0)
    if rank >= size and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"RANK is {rank} in the environment but WORLD_SIZE is not set: unset RANK, or start ranks with torchrun"
        )
    if rank >= size:
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE {size} in the environment: ranks are counted from 0 to {size - 1}; "
            "start them with torchrun"
        )
    return Place(rank, size, local)


def speaks() -> bool:
    """Whether this process prints messages that concern all ranks: rank 0, or a process without a valid rank."""
    try:
        return place().rank == 0
    except UserError:
        return True


def number(name: str, default: int, *, least: int = 0) -> int:
    """The whole number in the variable `name`. Raises UserError for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        what = "a whole number" + f" from {least}" * bool(least)
        raise UserError(f"{name} is {text!r} in the environment: it must be {what}; start ranks with torchrun")
    return int(text)
