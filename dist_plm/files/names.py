"""Names of files: bytes that need not be text, printed where a terminal need not know all letters."""

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
