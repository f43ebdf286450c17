"""`python -m dist_plm.report RUN [RUN ...]`: one HTML page that shows what was learnt; several runs side by side."""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from dist_plm.cli import OneLineParser, run_command
from dist_plm.errors import UserError

LIBRARIES = ("altair", "jinja2", "vl_convert")  # of the extra `report`
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def main() -> int:
    """Write the report and print where it lies."""
    options = _parse()
    if absent := [name for name in LIBRARIES if not find_spec(name)]:
        raise UserError(f"the report needs {', '.join(absent)}: pip install -e '.[report]'")
    for run in options.runs:
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run} is no run directory (no config.yaml): name one that dist_plm.train wrote")
    out = options.out or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it, or name another file with --out")

    import torch

    from dist_plm.reporting.page import write_report
    from dist_plm.runtime.progress import Display
    from dist_plm.runtime.world import World

    world = World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    display = Display(world)
    try:
        write_report(options.runs, out, shards=options.shards, world=world, display=display)
    finally:
        display.close()
    print(out)
    return 0


def report_at_end(run: Path) -> None:
    """The report of a run that has just ended, by a process of its own: whatever befalls it, the run is done."""
    page = run / "report.html"
    if page.exists() and page.stat().st_mtime >= (run / "metrics.jsonl").stat().st_mtime:
        return
    if not all(find_spec(name) for name in LIBRARIES):
        print(f"no report: pip install -e '.[report]', then python -m dist_plm.report {run}", file=sys.stderr)
        return
    alone = {
        key: value for key, value in os.environ.items() if key not in LAUNCHER and not key.startswith("TORCHELASTIC")
    }
    made = subprocess.run([sys.executable, "-m", "dist_plm.report", str(run)], env=alone, stdout=subprocess.DEVNULL)
    fault = f"warning: the report could not be written, the run is intact: python -m dist_plm.report {run}"
    print(fault if made.returncode else f"report: {page}", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directory; several are compared")
    parser.add_argument("--out", type=Path, help="file to write (RUN/report.html; for several runs ./report.html)")
    parser.add_argument("--shards", default="", help="data set folder (the runs' own by default)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
