"""`python -m dist_plm.search_index`: list an index, or update it to match its folder of images.

New, changed and deleted images are detected by name, size and time, moved ones by content. The index can be searched
during an update; a server shows the changes after a restart.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dist_plm.cli import OneLineParser, add_code_option, run_command, weights_path
from dist_plm.files.names import printable

if TYPE_CHECKING:
    from dist_plm.search_index.search_index import SearchIndex
    from dist_plm.telemetry.progress import Display


def main() -> int:
    """Run one of the four commands."""
    options = _parse()

    from dist_plm.search_index.maintenance import add, remove, update
    from dist_plm.search_index.search_index import SearchIndex

    if options.command == "list":
        _list(SearchIndex(options.index, backbone=options.backbone))
    elif options.command == "remove":
        _say(options.index, remove(SearchIndex(options.index, backbone=options.backbone), options.names))
    else:
        with _display() as display:
            search_index = SearchIndex(options.index, display.device, backbone=options.backbone)
            if options.command == "update":
                done = update(search_index, options.workers, display)
            else:
                done = add(search_index, options.paths, options.workers, display)
        _say(options.index, done)
    return 0


@contextmanager
def _display() -> "Iterator[Display]":
    """A progress display."""
    from dist_plm.config import RuntimeConfig
    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.telemetry.progress import Display

    world = connect(RuntimeConfig())
    display = Display(world)
    try:
        yield display
    finally:
        display.close()
        disconnect(world)


def _list(search_index: "SearchIndex") -> None:
    """Print row, name and label of each image, tab-separated; a line has no other tabs."""
    for row, known in enumerate(search_index.rows):
        parts = (printable(part) for part in (row, known["name"], known.get("label")) if part is not None)
        print(*(part.replace("\n", "\\n").replace("\t", "\\t") for part in parts), sep="\t")


def _say(index: Path, done: str) -> None:
    print(f"{index}: {done}")


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.search_index", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    kinds = {
        "list": "print row, name and label of each image",
        "add": "embed new and changed files among those named",
        "remove": "remove images by name, or all images below a folder",
        "update": "embed new and changed images, remove deleted ones",
    }
    for name, words in kinds.items():
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument("index", type=weights_path, metavar="INDEX_DIR", help="made by python -m dist_plm.embed")
        if name == "add":
            command.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="below the folder of the index")
        if name == "remove":
            command.add_argument("names", nargs="+", metavar="NAME", help="image or folder, as printed by `list`")
        add_code_option(command)
        if name in ("add", "update"):
            command.add_argument("--workers", type=int, default=2, help="decoding threads")
    options = parser.parse_args()
    if getattr(options, "workers", 1) < 1:
        parser.error(f"--workers is {options.workers}: at least 1")
    return options


if __name__ == "__main__":
    run_command(main)
