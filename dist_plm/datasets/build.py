"""Build a data set: `python shards/build.py KIND --source DIR --out DIR`, or `demo --images N --out DIR`.

Rerunning the command resumes an interrupted build, and does nothing if it is complete. `--order-by INDEX` stores
similar images side by side, by an index of `python -m dist_plm.embed`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from dist_plm.cli.parsers import OneLineParser
from dist_plm.data.format import IGNORED, REJECTED, Manifest
from dist_plm.datasets.account import account, reasons
from dist_plm.datasets.arguments import megabytes, part, positive
from dist_plm.datasets.assembly import build, build_part, writing
from dist_plm.datasets.entry import Source
from dist_plm.datasets.sources import KINDS
from dist_plm.errors import UserError
from dist_plm.files.names import escape_streams

SHARD_MB = 16.0
# About 1,200 glyphs, so that a small data set still has a shard for each of a few ranks.
DEMO_SHARD_MB = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status 0 done, 1 interrupted, 2 usage error."""
    escape_streams()
    options = parser().parse_args(arguments)
    started = time.monotonic()
    try:
        refuse_within(options)
        source = _source(options)
        with writing(options.out):
            if options.part:
                return _build_part(source, options)
            manifest = build(source, options.out, shard_bytes=round(options.shard_size * 1e6), workers=options.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; rerun the command to resume", file=sys.stderr)
        return 1
    print(summary(manifest, source, options.out))
    print(f"{options.out} complete after {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 0


def refuse_within(options: argparse.Namespace) -> None:
    """Raise UserError if the output would lie within its own source, a folder of which every file is an entry."""
    if options.kind != "folder":
        return
    out, source = (Path(os.path.realpath(path)) for path in (options.out, options.source))
    if out.is_relative_to(source):
        raise UserError(f"--out {options.out} lies in --source {options.source}: choose a folder beside it")


def _build_part(source: Source, options: argparse.Namespace) -> int:
    written = build_part(
        source, options.out, options.part, shard_bytes=round(options.shard_size * 1e6), workers=options.workers
    )
    print(f"part {options.part}: {written:,} shards; when all parts are done, run the command without --part to finish")
    return 0


def summary(manifest: Manifest, source: Source, out: Path) -> str:
    """A line per split, one for the data set, deviations from the official splits, and files by outcome."""
    lines = [f"{manifest.name}: {note}" for note in source.notes]
    for split, info in manifest.splits.items():
        size = sum(shard.bytes for shard in info.shards) / 1e6
        counts = f"{info.samples:,} samples  {len(info.classes):,} classes  {len(info.shards):,} shards  {size:,.1f} MB"
        lines.append(f"{manifest.name}/{split}  {counts}")
    why = f" (see {out / REJECTED}; to read them again, remove {out} and rebuild)" if manifest.rejected else ""
    lines.append(f"rejected {manifest.rejected:,}{why}  fingerprint {manifest.fingerprint}")
    for split, expected in source.official.items():
        samples = manifest.splits[split].samples
        if samples != expected:
            lines.append(f"warning: {split} has {samples:,} samples, the official {manifest.name} {expected:,}")
    if source.ignored or manifest.rejected:
        taken = sum(info.samples for info in manifest.splits.values())
        lines.append(account(manifest.name, taken, reasons(out / REJECTED), reasons(out / IGNORED)))
    if manifest.ignored:
        lines.append(f"ignored files are listed in {out / IGNORED}")
    return "\n".join(lines)


def _source(options: argparse.Namespace) -> Source:
    # Matplotlib and torch are imported where they are needed: they take 3 s, in every worker too.
    if options.kind == "demo":
        from dist_plm.datasets import demo

        source = demo.source(options.images, classes=options.classes, pixels=options.size, seed=options.seed)
    else:
        source = KINDS[options.kind](options.source)
    if not options.order_by:
        return source
    from dist_plm.datasets.order import order_by

    return order_by(source, options.order_by)


def parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="dist-plm shards build", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=OneLineParser)
    for kind, layout in KINDS.items():
        sub = kinds.add_parser(kind, help=str(layout.__doc__).splitlines()[0], description=layout.__doc__)
        sub.add_argument("--source", type=Path, required=True, help="folder, an uncompressed tar, or a list")
        _add_common(sub, SHARD_MB)
    about = "Rendered glyphs: a class is a character, an image shows it in a new pose, stroke, colour and background."
    sub = kinds.add_parser("demo", help="rendered glyphs, without a source", description=about)
    sub.add_argument("--images", type=positive, default=6000, help="images of both splits (default: %(default)s)")
    sub.add_argument("--classes", type=positive, default=0, help="glyphs of both splits (default: one per 50 images)")
    sub.add_argument("--size", type=positive, default=64, help="side of an image, pixels (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="seed of glyphs and images (default: %(default)s)")
    _add_common(sub, DEMO_SHARD_MB)
    return parser


def _add_common(parser: argparse.ArgumentParser, shard_mb: float) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--shard-size",
        type=megabytes,
        default=shard_mb,
        metavar="MB",
        help="size of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--order-by",
        type=Path,
        metavar="INDEX",
        help="store similar images side by side, by this index of the images (python -m dist_plm.embed)",
    )
    parser.add_argument("--part", type=part, metavar="I/N", help="write only the shards I, I + N, ...")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
