"""What the checks of benchmarks/gpu.sh share: choosing one by name, its line of Markdown, and its exit status.

    python -m benchmarks.gpu_common

prints the facts by which the script chooses its steps: card, number of GPUs, 1 if runtime.compile is supported, and the
packages that are installed. It exits with 2 where a GPU is evident and torch can't use it.
"""

import argparse
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import torch

from dist_plm.distributed.device import gpu_evidence
from dist_plm.telemetry.parts import Stopwatch

REPEATS = 20
OK, FAILED, NOT_CHECKED = 0, 1, 77  # exit statuses, as benchmarks/gpu.sh reads them
WORDS = {OK: "ok", FAILED: "FAILED", NOT_CHECKED: "not checked"}
PACKAGES = ("faiss", "jsonargparse", "matplotlib", "timm", "webdataset")  # without which steps are left out


@dataclass(frozen=True)
class Place:
    """Where and with what sizes a check runs."""

    device: torch.device
    small: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"


Check = Callable[[Place], list[tuple[int, str]]]


def outcome(passed: bool) -> int:
    return OK if passed else FAILED


def run(checks: Mapping[str, Check], doc: str | None) -> int:
    """Run the check that is named on the command line; its worst outcome is the exit status."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=checks)
    parser.add_argument("--small", action="store_true", help="small sizes, for a trial on a CPU")
    options = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        lines = checks[options.check](Place(device, options.small))
    except Exception as error:
        traceback.print_exc()
        lines = [(FAILED, f"{options.check}: {type(error).__name__}: {error}")]
    for status, line in lines:
        print(f"- {WORDS[status]}: {line}", flush=True)
    statuses = {status for status, _ in lines}
    return FAILED if FAILED in statuses else OK if OK in statuses else NOT_CHECKED


def main(checks: Mapping[str, Check], doc: str | None) -> None:
    """`run`, as a command."""
    status = run(checks, doc)
    sys.stdout.flush()
    sys.exit(status)


def milliseconds(act: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Median of `repeats` calls, after three that compile and choose kernels."""
    times = []
    for _ in range(3 + repeats):
        clock = Stopwatch(device)
        act()
        times.append(1e3 * clock.whole)
    return median(times[3:])


def facts() -> str:
    """Card, number of GPUs, whether runtime.compile is supported, installed packages: a line of words."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus and gpu_evidence() and os.environ.get("SMALL", "0") != "1":
        sys.exit(
            f"there is a GPU ({gpu_evidence()}) that torch {torch.__version__} (CUDA {torch.version.cuda}) can't use"
        )
    card = torch.cuda.get_device_name().replace(" ", "_") if gpus else "CPU"
    compiles = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return " ".join([card, str(gpus), str(int(compiles)), *(name for name in PACKAGES if find_spec(name))])


if __name__ == "__main__":
    print(facts())
