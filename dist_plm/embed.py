"""`python -m dist_plm.embed`: embed a folder or splits of shards into an index directory, on one rank or on many."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_plm.cli import (
    OneLineParser,
    add_frozen_options,
    add_threads,
    check_frozen_options,
    location,
    run_command,
    weights_path,
)
from dist_plm.config import RuntimeConfig
from dist_plm.errors import UserError


def main() -> int:
    """Embed all readable images; others are counted and listed."""
    options = _parse()
    if options.out.exists():
        raise UserError(f"{options.out} exists{_difference(options)}: remove it, or choose another folder with --out")

    _refuse_within(options)
    from dist_plm.datasets.account import account, reasons
    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.encoders.frozen import frozen_network
    from dist_plm.encoders.networks import load_network, locate
    from dist_plm.index.directory import IGNORED, UNREADABLE
    from dist_plm.model.own_backbone import allow
    from dist_plm.search_index.build import Builder
    from dist_plm.search_index.images import FolderImages, ShardImages
    from dist_plm.telemetry.progress import Display

    allow(options.backbone)
    images = FolderImages(options.images) if options.images else ShardImages(options.shards, options.split)
    world = connect(RuntimeConfig(threads=options.threads))
    display = Display(world)
    try:
        if options.checkpoint:
            embedder = load_network(locate(options.checkpoint, world), options.model, world.device)
        else:
            with _folder_beside(options.out) as name:
                frozen = frozen_network(options, Path(world.from_first(lambda: name)), world, display)
                world.barrier("the end of the whitening")
            embedder = frozen.load(frozen.names[-1], world.device)
        summary = Builder(images, embedder, options.out, options.workers, world, display).build()
    finally:
        display.close()
        disconnect(world)
    if world.is_first:
        print(f"{options.out}: {summary['count']:,} images in dimension {summary['dim']}, by the {embedder}")
        if options.images:
            lists = [options.out / name for name in (UNREADABLE, IGNORED)]
            print(account(str(options.images), summary["count"], *map(reasons, lists)))
        if summary["unreadable"]:
            print(f"{summary['unreadable']:,} unreadable, skipped: {options.out / UNREADABLE}")
        if summary["ignored"]:
            print(f"{summary['ignored']:,} ignored: {options.out / IGNORED}")
    return 0


@contextmanager
def _folder_beside(out: Path) -> Iterator[str]:
    """A temporary folder beside the index, visible to all nodes."""
    beside = out.absolute().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".sweep_", dir=beside)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{out} can't be written ({reason}): choose another folder with --out") from error
    with folder as name:
        yield name


def _refuse_within(options: argparse.Namespace) -> None:
    """Raise UserError if the index would lie among its own images: an update would find its files."""
    if options.images and Path(os.path.realpath(options.out)).is_relative_to(os.path.realpath(options.images)):
        raise UserError(f"--out {options.out} lies in --images {options.images}: choose a folder beside it")


def _difference(options: argparse.Namespace) -> str:
    """How an existing index differs from the given folder; empty if it belongs to another folder."""
    from dist_plm.search_index.maintenance import changes
    from dist_plm.search_index.search_index import SearchIndex

    try:
        search_index = SearchIndex(options.out, backbone=options.backbone)
        if not options.images or search_index.images.place().get("folder") != str(options.images.resolve()):
            return ""
        command = f"`python -m dist_plm.search_index update {options.out}` brings it up to date"
        return f" ({changes(search_index)} in {options.images} since; {command})"
    except UserError:
        return ""


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.embed", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="run directory or export")
    parser.add_argument("--model", choices=("student", "teacher"), default="", help="of a run: student by default")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images", type=Path, help="folder of images, searched recursively; names and extensions don't matter"
    )
    source.add_argument("--shards", type=location, help="data set folder, or its URL")
    parser.add_argument("--split", nargs="+", default=["test"], metavar="NAME", help="splits of the shards")
    parser.add_argument("--out", type=weights_path, required=True, help="index directory to create")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads per rank")
    add_frozen_options(parser)
    add_threads(parser)
    options = parser.parse_args()
    check_frozen_options(options, trained=bool(options.checkpoint))
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}: at least 1")
    return options


if __name__ == "__main__":
    run_command(main)
