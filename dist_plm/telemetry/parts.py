"""Named parts of a step: `with part("student"): ...` has no measurable cost without a profiler."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function


class Stopwatch:
    """Exclusive time of each part, in the thread that created the stopwatch.

    Attributes:
        seconds: By the name of the part.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._thread, self._inside = device, threading.get_ident(), [0.0]
        self._started = self.now()

    @property
    def whole(self) -> float:
        """Seconds since it was made."""
        return self.now() - self._started

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a part."""
        if threading.get_ident() != self._thread:
            yield
            return
        started = self.now()
        self._inside.append(0.0)
        try:
            yield
        finally:
            whole = self.now() - started
            self.seconds[name] += whole - self._inside.pop()
            self._inside[-1] += whole

    def now(self) -> float:
        """Clock in seconds, after a device synchronisation."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


_stopwatch: Stopwatch | None = None


def watch(stopwatch: Stopwatch | None) -> None:
    """Use this stopwatch for all parts from now on, or none."""
    global _stopwatch
    _stopwatch = stopwatch


@contextmanager
def part(name: str) -> Iterator[None]:
    """A named part of a step."""
    if _stopwatch is None:
        yield
        return
    with record_function(f"part: {name}"), _stopwatch.time(name):
        yield
