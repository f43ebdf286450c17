"""Signals that ask a run to leave. A handler only sets a flag; the loop acts on it when all ranks agree."""

import signal
import sys
from types import FrameType

PREEMPTED = 75  # EX_TEMPFAIL: saved, run the same command again


class Preemption:
    """Catches SIGTERM, SIGINT and SIGUSR2 while in scope; a second SIGINT leaves at once.

    Attributes:
        signal: The number of the first signal caught, 0 so far none.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            sys.exit(128 + number)
        self.signal = self.signal or number
