"""Signals that ask a run to leave. A handler only sets a flag; the loop acts on it when all ranks agree."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from dist_plm.distributed.listening import listening

PREEMPTED = 75  # EX_TEMPFAIL: saved, run the same command again
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
WATCH_SECONDS = 0.5  # between two looks at whether the launcher lives
UNWIND_SECONDS = 2.0  # for an orderly end at the second SIGINT, before the process is ended in whatever it waits for


class Preempted(Exception):
    """All ranks agreed to leave because of `signal`."""

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(f"{signal.Signals(number).name}: {outcome}")
        self.signal = number


class Preemption:
    """Catches signals while in scope; a second SIGINT leaves at once.

    A torchrun that was killed leaves its ranks behind, where the next start would meet them in the run directory: to
    a rank the loss of its launcher is a SIGTERM.

    Args:
        names: Signals that make the run checkpoint and exit.

    Attributes:
        signal: The number of the first signal caught, 0 so far none.
    """

    def __init__(self, names: Sequence[str] = SIGNALS) -> None:
        self.signal = 0
        self._interrupted = False
        self._left = threading.Event()
        self._listening = ExitStack()
        self._interrupts = 0  # heard by the thread, which may be ahead of the handler
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
        """End at the second SIGINT even where the main thread waits in C++ and runs no handler."""
        self._interrupts += number == signal.SIGINT
        if self._interrupts == 2 and not self._left.wait(UNWIND_SECONDS):
            os._exit(128 + number)

    def _watch(self, launcher: int) -> None:
        while not self._left.wait(WATCH_SECONDS):
            if os.getppid() != launcher:
                self.signal = self.signal or signal.SIGTERM
                return
