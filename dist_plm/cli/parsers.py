"""Argument parsers of the commands: one-line errors, and `~` expanded in every path."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from dist_plm.cli.ending import end_all
from dist_plm.cli.spelling import suggestion
from dist_plm.errors import UserError
from dist_plm.files.names import is_utf8, printable


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with the closest known option, instead of a page of usage."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prog = program(self.prog)
        self.register("type", Path, user_path)

    def error(self, message: str, *_: object) -> NoReturn:
        text = " ".join(str(message).split())
        if match := re.search(r"unrecognized arguments: --([\w.-]+)", text):
            text += suggestion(match[1], self.names())
        elif match := re.search(r"invalid choice: '(\S+)' \(choose from (.+)\)", text):
            text += suggestion(match[1], re.findall(r"[\w.-]+", match[2]))
        end_all(2, f"{self.prog}: {printable(text)} (see --help)")

    def names(self) -> list[str]:
        """All options, those of subcommands included, without dashes."""
        parsers: list[argparse.ArgumentParser] = [self]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        options = {option for parser in parsers for option in parser._option_string_actions}
        return sorted(option.removeprefix("--") for option in options if option.startswith("--"))


def program(name: str) -> str:
    """Name of a command in usage and errors: `python -m dist_plm.train`, or `dist-plm train` if started so."""
    return sys.argv[0] if sys.argv[0].startswith("dist-plm ") and name.startswith("python ") else name


def user_path(text: str) -> Path:
    """Type of an option that is a path, with `~` expanded, which the shell does not do in `--out=~/x`."""
    try:
        return Path(expanded(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def location(text: str) -> str:
    """Type of an option that is a path or a URL."""
    return str(user_path(text)) if text.startswith("~") else text


def weights_path(text: str) -> Path:
    """Type of an option that is the path of weights, to be read or written."""
    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{text!a} is not UTF-8, which paths of weights must be: rename it")
    return user_path(text)


def add_threads(parser: argparse.ArgumentParser, default: str = "all cores, shared among ranks on one machine") -> None:
    """Add `--threads`, for commands without a configuration."""
    what = f"compute threads of a process (default: {default})"
    parser.add_argument("--threads", type=_threads, default=0, help=what)


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to 1024")
    return int(text)


def expanded(text: str) -> str:
    """A path with `~` and `~user` replaced by the home folder.

    Raises:
        UserError: There is no such user; the path would otherwise become a folder called `~user`.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UserError(
            f"{text}: no home folder is known for {text.partition('/')[0]}: use ./{text} for a folder of that name"
        )
    return path
