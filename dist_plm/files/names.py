"""Names and texts of others, printed: bytes that need not be text, letters that a terminal lacks, escape sequences."""

import sys
from io import TextIOWrapper


def escape_streams() -> None:
    """Print escapes in place of what the encoding of standard output and error lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(text: str) -> bool:
    """Whether a path is text. Bytes that are none come as surrogates, and safetensors opens no such path."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def printable(text: object, most: int = 4_000) -> str:
    """A text for a terminal: what would move its cursor or set its colours is written as an escape, \\x1b.

    Args:
        most: Characters kept; an ellipsis stands for the others.
    """
    text = str(text)
    shown = "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text[:most]
    )
    return shown + "…" * (len(text) > most)
