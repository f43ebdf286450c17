"""Progress display of a run: a rich progress bar on a terminal, plain lines elsewhere."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from dist_plm.telemetry.speaker import Speaker

LINE_SECONDS = 10.0  # interval between lines of a phase without a terminal
GB = 1e9


def peak_memory(device: torch.device) -> float:
    """Peak memory of this rank so far, GB: GPU memory on a GPU, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


class Task:
    """A piece of work of known length."""

    def __init__(self, display: "Display", title: str, total: int, unit: str, done: int) -> None:
        self.display, self.title, self.total, self.unit = display, title, total, unit
        self.done, self._first, self._started, self._last_line = done, done, time.monotonic(), time.monotonic()
        self._bar = display.bars.add_task(title, total=total, completed=done, note="") if display.bars else None

    def advance(self, count: int = 1, note: str = "", scale: float = 1.0) -> None:
        """Advance by `count` of `total`; `scale` converts the count into the unit of the rate."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self._first) * scale / max(now - self._started, 1e-9)
        memory = f"{peak_memory(self.display.device):.1f} GB"
        text = "  ".join(part for part in (f"{rate:,.0f} {self.unit}/s", note, memory) if part)
        if self.display.bars and self._bar is not None:
            self.display.bars.update(self._bar, advance=count, note=text)
        elif self.display.console and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            left = (self.total - self.done) * (now - self._started) / max(self.done - self._first, 1)
            self.display.say(f"{self.title}  {self.done}/{self.total}  {text}  {left:,.0f} s left")

    def close(self) -> None:
        if self.display.bars and self._bar is not None:
            self.display.bars.remove_task(self._bar)


class Display:
    """Prints on rank 0 only."""

    def __init__(self, world: Speaker) -> None:
        self.device = world.device
        self.console = Console(stderr=True, highlight=False, soft_wrap=True) if world.is_first else None
        self.bars: Progress | None = None
        if self.console and self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            left = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.bars = Progress(*columns, *left, console=self.console, transient=True)
            self.bars.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.console:
            self.console.print(text, markup=False)

    def show(self, table: Table) -> None:
        """A table that stays."""
        if self.console:
            self.console.print(table)

    @contextmanager
    def phase(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """A phase of `total` pieces, `done` of them already complete."""
        task = Task(self, title, total, unit, done)
        try:
            yield task
        finally:
            task.close()

    def close(self) -> None:
        if self.bars:
            self.bars.stop()


class Clock:
    """Throughput, and share of time spent waiting for data, since the last lap.

    Args:
        waited: Seconds spent waiting so far.
        device: Device whose peak memory is reported.

    Attributes:
        steps: Steps since the last lap; the loop counts them.
        note: Summary of the last lap, for the progress bar.
        warned: Whether the warning about collapsed embeddings was printed already.
    """

    def __init__(self, waited: Callable[[], float], device: torch.device) -> None:
        self.steps, self.note, self.warned = 0, "", False
        self._waited, self._device, self._time, self._wait = waited, device, time.monotonic(), waited()

    def lap(self, images: int) -> dict[str, float]:
        """Throughput and waiting since the last lap, and peak memory; `images` is the global batch."""
        now, wait = time.monotonic(), self._waited()
        seconds = max(now - self._time, 1e-9)
        result = {
            "images_per_second": self.steps * images / seconds,
            "wait_share": (wait - self._wait) / seconds,
            "memory_gb": peak_memory(self._device),
        }
        self.steps, self._time, self._wait = 0, now, wait
        return result
