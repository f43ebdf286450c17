"""Names and texts of others, printed: bytes that need not be text, letters that a terminal lacks, escape sequences."""

import sys
import unicodedata
from io import TextIOWrapper

_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


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
        letter.encode("unicode_escape").decode() if _moves(letter) and letter not in "\n\t" else letter
        for letter in text[:most]
    )
    return shown + "…" * (len(text) > most)


def _moves(letter: str) -> bool:
    """Whether a terminal does more with it than show it: control characters, ends of lines, changes of direction."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _DIRECTIONS
