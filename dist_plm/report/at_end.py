"""The report at the end of a run, if its libraries are installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("altair", "jinja2", "vl_convert")  # in the extra `report`
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def missing() -> list[str]:
    """Libraries of the report that are not installed."""
    return [name for name in LIBRARIES if not find_spec(name)]


def report_at_end(run: Path, backbone: str = "") -> None:
    """Write the report of a finished run in a separate process, whose failure does not affect the run.

    Args:
        backbone: The name of your own network, which permits its import.
    """
    page = run / "report.html"
    if page.exists() and page.stat().st_mtime >= (run / "metrics.jsonl").stat().st_mtime:
        return
    if missing():
        print(f"no report: pip install -e '.[report]', then python -m dist_plm.report {run}", file=sys.stderr)
        return
    alone = {
        key: value for key, value in os.environ.items() if key not in LAUNCHER and not key.startswith("TORCHELASTIC")
    }
    command = [
        sys.executable,
        "-m",
        "dist_plm.report",
        str(run),
        *(["--backbone", backbone] if ":" in backbone else []),
    ]
    made = subprocess.run(command, env=alone, stdout=subprocess.DEVNULL)
    fault = f"warning: the report could not be written, the run is intact: python -m dist_plm.report {run}"
    print(fault if made.returncode else f"report: {page}", file=sys.stderr)
