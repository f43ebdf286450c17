"""Signals that trigger checkpoint and exit: a handler sets a flag, the loop acts on it when all ranks agree."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from dist_plm.distributed.listening import listening

PREEMPTED = 75  # EX_TEMPFAIL: a checkpoint was saved, rerun the command to resume
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
WATCH_SECONDS = 0.5  # interval of the check whether the launcher is alive
UNWIND_SECONDS = 2.0  # for a clean exit after the second SIGINT, before the process is killed


class Preempted(Exception):
    """All ranks agreed to exit because of `signal`."""

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(f"{signal.Signals(number).name}: {outcome}")
        self.signal = number


class Preemption:
    """Catches signals while in scope; a second SIGINT exits at once.

    Ranks whose torchrun was killed would keep the run directory locked: the loss of the launcher counts as a SIGTERM.

    Args:
        names: Signals that make the run checkpoint and exit.

    Attributes:
        signal: Number of the first signal caught, 0 for none.
    """

    def __init__(self, names: Sequence[str] = SIGNALS) -> None:
        self.signal = 0
        self._interrupted = False
        self._left = threading.Event()
        self._listening = ExitStack()
        self._interrupts = 0  # counted by the thread, which may run before the handler
        self._numbers = [signal.Signals[name] for name in names]

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._handle) for number in self._numbers}
        if "TORCHELASTIC_RUN_ID" in os.environ:
            threading.Thread(target=self._watch, args=(os.getppid(),), name="launcher", daemon=True).start()
        self._listening.enter_context(listening(self._heard))
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._listening.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            sys.exit(128 + number)
        self._interrupted |= number == signal.SIGINT
        self.signal = self.signal or number

    def _heard(self, number: int) -> None:
        """Exit at the second SIGINT even if the main thread is blocked in C++ and runs no handler."""
        self._interrupts += number == signal.SIGINT
        if self._interrupts == 2 and not self._left.wait(UNWIND_SECONDS):
            os._exit(128 + number)

    def _watch(self, launcher: int) -> None:
        while not self._left.wait(WATCH_SECONDS):
            if os.getppid() != launcher:
                self.signal = self.signal or signal.SIGTERM
                return
