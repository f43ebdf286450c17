"""Types of the options of the shard builder and the launcher."""

import argparse
from typing import NamedTuple


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


class Part(NamedTuple):
    """One of `of` parts that share the shards of a data set, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def part(text: str) -> Part:
    """`3/8`, the third of eight."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, such as 3/8")
    return Part(int(number), int(of))


def megabytes(text: str) -> float:
    """A size, from a byte to a terabyte."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-6 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of megabytes")
    return value
