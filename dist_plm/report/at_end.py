"""The report that a run leaves behind, where its libraries are installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("altair", "jinja2", "vl_convert")  # of the extra `report`
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def missing() -> list[str]:
    """Libraries of the report that are not installed."""
    return [name for name in LIBRARIES if not find_spec(name)]


def report_at_end(run: Path, backbone: str = "") -> None:
    """The report of a run that has just ended, by a process of its own: whatever befalls it, the run is done.

    Args:
        backbone: The network, where it is one's own, which the process may import then.
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
