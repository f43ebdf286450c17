"""`python -m dist_plm.report RUN [RUN ...]`: an HTML report of one or several runs.

With --backbone and no RUN: the report of a pretrained network without training, the baseline of every run.
"""

import argparse
import tempfile
from pathlib import Path

from dist_plm.cli import OneLineParser, add_frozen_options, check_frozen_options, location, run_command
from dist_plm.errors import UserError
from dist_plm.report.at_end import missing

PAGE = "report.html"


def main() -> int:
    """Write the report and print its path."""
    options = _parse()
    if absent := missing():
        raise UserError(f"the report needs {', '.join(absent)}: pip install -e '.[report]'")
    for run in options.runs:
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run} is not a run directory (no config.yaml): name one written by dist_plm.train")
    out = options.out or (options.runs[0] / PAGE if len(options.runs) == 1 else Path(PAGE))
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder: create it, or choose another file with --out")

    import torch

    from dist_plm.distributed.world import World
    from dist_plm.model.own_backbone import allow
    from dist_plm.report.page import write_baseline_report, write_report
    from dist_plm.telemetry.progress import Display

    allow(options.backbone)
    world = World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    display = Display(world)
    try:
        if options.runs:
            write_report(options.runs, out, shards=options.shards, world=world, display=display)
        else:
            from dist_plm.encoders.frozen import frozen_network

            with tempfile.TemporaryDirectory(prefix="report_") as name:
                folder = Path(name)
                frozen = frozen_network(options, folder, world, display)
                write_baseline_report(frozen, out, shards=options.shards, folder=folder, world=world, display=display)
    finally:
        display.close()
    print(out)
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="run directory; several are compared")
    parser.add_argument("--out", type=Path, help="file to write (RUN/report.html; for several runs ./report.html)")
    parser.add_argument("--shards", type=location, default="", help="data set folder (the runs' own by default)")
    add_frozen_options(parser, "RUN")
    options = parser.parse_args()
    check_frozen_options(options, trained=bool(options.runs), instead_of="RUN")
    if not (options.runs or options.shards):
        raise UserError("a pretrained network has no data set: name one with --shards")
    return options


if __name__ == "__main__":
    run_command(main)
