"""`python -m dist_plm.bench`: performance ratios P1 to P13, relative to the limits of the machine."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dist_plm.cli import ConfigParser, config_of, config_parser, run_command
from dist_plm.config import Config
from dist_plm.distributed.environment import place
from dist_plm.errors import RunFailure, UserError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dist_plm.bench.ratios import Ratio

NAMES = tuple(f"P{number}" for number in range(1, 14))
ON_RANKS = ("P1", "P2", "P3")  # the others are of one rank
REPEATS, QUICK_REPEATS = 5, 3
SEARCH, QUICK_SEARCH = (32_768, 3_276), (8_192, 819)  # rows of the gallery; seeds, a tenth as in a plan


def command_line() -> ConfigParser:
    """All arguments of the command."""
    parser = config_parser("bench", "Measure and print the ratios P1 to P13, with the sizes of the configuration.")
    parser.add_argument("--shards", type=str, default="", help="data set to read (default: rendered glyphs)")
    parser.add_argument("--only", type=str, default="", help="ratios to measure, such as P1,P6")
    parser.add_argument("--quick", action="store_true", help="a small network, small images, few repeats")
    parser.add_argument("--out", type=str, default="", help="also write the table to this file, as JSON")
    parser.add_argument("--markdown", action="store_true", help="Markdown instead of a table for the terminal")
    parser.add_argument("--compare", type=str, default="", help="JSON of an earlier run: status 1 if worse")
    return parser


def main() -> int:
    """Measure, print, write, compare. Exit status 1 if a ratio got worse."""
    parser = command_line()
    parsed = parser.parse_args()
    ranks = place().size
    config, names = config_of(parser, parsed), _names(parsed.only, ranks)
    out, compare = (Path(name) if name else None for name in (parsed.out, parsed.compare))
    if out and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; create it, or choose another file")

    from dist_plm.bench import table
    from dist_plm.bench.setting import quick

    config = quick(config) if parsed.quick else config
    sizes = _sizes(config, parsed, ranks)
    before = table.baseline(compare) if compare else None
    if compare and before:
        table.check_sizes(before, sizes, compare)
    ratios, machine = _measured(config, names, parsed, ranks)
    if place().rank:
        return 0

    from rich.console import Console

    from dist_plm.files.atomic import replacing

    if parsed.markdown:
        print(table.markdown(ratios, machine))
    else:
        Console().print(table.drawn(ratios, machine))
    if out:
        with replacing(out) as file:
            file.write(table.as_json(ratios, machine, sizes).encode())
    if before and (fallen := table.worse(ratios, before)):
        raise RunFailure(f"worse than in {compare}: {'; '.join(fallen)}")
    return 0


def _names(only: str, ranks: int) -> list[str]:
    """The requested ratios. Raises UserError for an unknown one, or one that needs a single rank."""
    possible = ON_RANKS if ranks > 1 else NAMES
    names = [name.strip() for name in only.split(",") if name.strip()]
    if strange := [name for name in names if name not in possible]:
        why = f" on {ranks} ranks" if ranks > 1 else ""
        raise UserError(f"--only {only}: {strange[0]} is not a ratio{why}; choose from {', '.join(possible)}")
    return names or list(possible)


def _sizes(config: Config, parsed: "Namespace", ranks: int) -> dict[str, Any]:
    """Settings that must agree for two tables to be compared."""
    settings = ("views", "model", "batch", "manifold", "proxies", "index", "train", "runtime")
    facts = {f"{name}.{key}": value for name in settings for key, value in asdict(getattr(config, name)).items()}
    facts |= {"data.workers": config.data.workers, "data.prefetch": config.data.prefetch, "quick": parsed.quick}
    facts |= {"evaluation.batch_size": config.evaluation.batch_size, "shards": Path(parsed.shards).name, "ranks": ranks}
    return dict(json.loads(json.dumps(facts)))  # as read from a file, with lists for tuples


def _measured(
    config: Config, names: list[str], parsed: "Namespace", ranks: int
) -> "tuple[list[Ratio], dict[str, Any]]":
    """The ratios, in a temporary folder, and the machine."""
    from dist_plm.bench import approximate, convolutions, lifecycle, loading, searching, step
    from dist_plm.bench.setting import Setting, machine
    from dist_plm.checks import check
    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.distributed.world import World
    from dist_plm.training.auto_precision import resolve_precision

    groups = {
        ("P1", "P2"): step.overhead,
        ("P3",): step.scaling,
        ("P4",): loading.loading,
        ("P5",): loading.sweeping,
        ("P6",): searching.searching,
        ("P7", "P13"): lifecycle.refreshing,
        ("P8",): lifecycle.saving,
        ("P9", "P10"): lifecycle.leaving,
        ("P11",): approximate.recall,
        ("P12",): convolutions.arithmetic,
    }
    with TemporaryDirectory(prefix="dist_plm_bench_") as folder:
        repeats, search = (QUICK_REPEATS, QUICK_SEARCH) if parsed.quick else (REPEATS, SEARCH)
        setting = Setting(config, World(), Path(folder), parsed.shards, repeats, search)
        shards = parsed.shards or str(setting.drawn)
        data = replace(config.data, shards=shards, test_split="", gallery_split="")
        check(replace(config, data=data), ranks)
        world = connect(config.runtime)
        setting = replace(setting, world=world, config=resolve_precision(config, world)[0])
        ratios: list[Ratio] = []
        try:
            for members, measure in groups.items():
                if set(members) & set(names):
                    ratios += [ratio for ratio in measure(setting) if ratio.name.split()[0] in names]
            facts = machine(world)
        finally:
            if world.health:  # a heartbeat during interpreter shutdown ends the process with SIGABRT
                world.health.close()
        disconnect(world)
    return ratios, facts


if __name__ == "__main__":
    run_command(main)
