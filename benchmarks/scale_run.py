"""`python -m benchmarks.scale_run --shards DIR`: sweep, index, plan and some steps; time and memory of each phase.

Memory is that of the largest rank, read from /proc ten times a second; its own leaves out pages of mapped files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from benchmarks.common import environments

PHASES = {"": "start and sweep", "sweep": "index and plan", "plan": "steps"}
POLL_SECONDS = 0.1


def memory(pid: int) -> tuple[float, float]:
    """Resident memory of a process and what of it belongs to no file, GB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1e6 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def phase(run: Path) -> str:
    """The phase that the run is in, by what it wrote last."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    known = [json.loads(line)["event"] for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return PHASES[next((event for event in reversed(known) if event in PHASES), "")]


def main() -> None:
    """Start the ranks, watch them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        line = [sys.executable, "-m", "dist_plm.train", "--config", "configs/demo.yaml", "--run_dir", run,
                "--data.shards", options.shards, "--data.test_split", "", "--warm_up.epochs", 0,
                "--train.report", "false", "--train.log_steps", 1, "--train.max_steps", options.steps,
                *rest]  # fmt: skip
        ranks = [
            subprocess.Popen([*map(str, line)], env=os.environ | environment)
            for environment in environments(options.ranks)
        ]
        seconds: dict[str, float] = defaultdict(float)
        peak: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        before = time.monotonic()
        while any(rank.poll() is None for rank in ranks):
            time.sleep(POLL_SECONDS)
            now, name = time.monotonic(), phase(run)
            seconds[name], before = seconds[name] + now - before, now
            for rank in ranks:
                with suppress(OSError, KeyError):  # it has just ended
                    peak[name] = max(peak[name], memory(rank.pid))
        assert [rank.returncode for rank in ranks] == [0] * options.ranks
        for name in seconds:
            print(f"{name:18} {seconds[name]:8.1f} s   {peak[name][0]:6.2f} GB a rank, {peak[name][1]:6.2f} GB its own")
        for event in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
            if event["event"] in ("sweep", "index", "plan", "end"):
                print(json.dumps(event))


if __name__ == "__main__":
    main()
