"""`python -m dist_plm.search`: the images of an index that are nearest to a picture, as a table and a contact sheet."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dist_plm.cli import OneLineParser, add_code_option, add_threads, location, run_command, weights_path
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.names import printable

if TYPE_CHECKING:
    from dist_plm.search_index.search_index import Neighbour


def main() -> int:
    """Embed the query, search, print; write a contact sheet on request."""
    options = _parse()
    try:
        data = options.image.read_bytes()
    except OSError as error:
        raise UserError(f"--image {options.image} cannot be read: {error.strerror}") from error

    from dist_plm.data.decode import decode
    from dist_plm.distributed.process import limit_threads
    from dist_plm.search_index.search_index import SearchIndex
    from dist_plm.search_index.sheet import contact_sheet

    limit_threads(options.threads)
    search_index = SearchIndex(options.index, images=options.images, backbone=options.backbone)
    try:
        query = decode(data)
        (neighbours,) = search_index.search(search_index.embed(data), options.k)
    except ValueError as error:
        raise UserError(f"--image {options.image}: {error}") from error
    if options.sheet:
        _ = search_index.images  # fail early if the images are not available
    _print(neighbours, f"nearest to {options.image.name} in {search_index.folder}")
    if options.sheet:
        sheet = contact_sheet(query, options.image.name, neighbours, search_index)
        try:
            with replacing(options.sheet) as file:
                sheet.save(file, "PNG", optimize=True)
        except OSError as error:
            raise UserError(f"--sheet {options.sheet} cannot be written: {error.strerror}") from error
        print(f"contact sheet: {options.sheet}")
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.search", description=__doc__)
    parser.add_argument("index", type=weights_path, metavar="INDEX_DIR", help="made by python -m dist_plm.embed")
    parser.add_argument("--image", type=Path, required=True, help="the query")
    parser.add_argument("--k", type=int, default=10, help="neighbours to show")
    parser.add_argument(
        "--images", type=location, default="", help="folder or data set of the images, where the index is not your own"
    )
    parser.add_argument("--sheet", type=Path, help="PNG of the query and its neighbours")
    add_threads(parser, "all cores")
    add_code_option(parser)
    options = parser.parse_args()
    if options.sheet and options.sheet.suffix.lower() != ".png":
        parser.error(f"--sheet {options.sheet}: the contact sheet is a PNG, its name must end in .png")
    return options


def _print(neighbours: "list[Neighbour]", title: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for name in ("rank", "cosine", "distance"):
        table.add_column(name, justify="right")
    labelled = any(neighbour.label is not None for neighbour in neighbours)
    if labelled:
        table.add_column("label", overflow="fold")
    table.add_column("name", overflow="fold")
    for neighbour in neighbours:
        label = [escape(printable(neighbour.label or ""))] if labelled else []
        table.add_row(
            str(neighbour.rank),
            f"{neighbour.cosine:.4f}",
            f"{neighbour.distance:.4f}",
            *label,
            escape(printable(neighbour.name)),
        )
    # Names are not wrapped in a file or a pipe.
    Console(highlight=False, width=None if sys.stdout.isatty() else 10_000).print(table)


if __name__ == "__main__":
    run_command(main)
