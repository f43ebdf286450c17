"""The parts of a `fit` that need torch for long, as processes of their own: ended with it, which get its signals."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

from dist_plm.report.at_end import LAUNCHER

FORWARDED = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_ranks(module: str, words: list[str], ranks: int = 1) -> int:
    """Run `python -m module words...`, under torchrun on several ranks; its exit status.

    SIGINT and SIGTERM of this process go to it, and it gets a SIGTERM if this process is killed (on Linux).
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", module, *words]
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
    before = {number: signal.getsignal(number) for number in FORWARDED}
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if child:
            child.send_signal(number)

    child: subprocess.Popen[bytes] | None = None
    for number in FORWARDED:
        signal.signal(number, forward)
    try:
        # A group of its own: Ctrl-C in a terminal reaches all processes of the group, and the child once more.
        child = subprocess.Popen(command, env=environment, process_group=0, preexec_fn=_ended_with(os.getpid()))
        for caught in received:
            child.send_signal(caught)
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended_with(parent: int) -> Callable[[], None] | None:
    """Pre-exec function of a child: request a SIGTERM at the end of its parent."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
