"""Printing untrusted names and texts: undecodable bytes, unencodable characters, terminal escape sequences."""

import sys
import unicodedata
from io import TextIOWrapper

_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def escape_streams() -> None:
    """Print escapes for characters that the encoding of standard output and error lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(text: str) -> bool:
    """Whether a path is valid UTF-8. Other bytes decode to surrogates, and safetensors can't open such a path."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def printable(text: object, most: int = 4_000) -> str:
    """A text that is safe for a terminal: control characters are escaped, as in \\x1b.

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
    """Whether a character is a control character, a line break or a change of writing direction."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _DIRECTIONS
