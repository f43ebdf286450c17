"""Progress display of a run: a rich progress bar on a terminal, plain lines elsewhere."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import Task as RichTask
from rich.table import Column, Table
from rich.text import Text

from dist_plm.telemetry.speaker import Speaker

LINE_SECONDS = 10.0  # interval between lines of a phase without a terminal
GB = 1e9


def peak_memory(device: torch.device) -> float:
    """Peak memory of this rank so far, GB: GPU memory on a GPU, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 7 min 05 s, 3 h 20 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


class Horizon:
    """Remaining time of a run of several phases, from its pace in this process, including sweeps and evaluations."""

    def __init__(self, done: int, total: int) -> None:
        self._total, self._first, self._started = total, done, time.monotonic()

    def left(self, done: int) -> float | None:
        """Seconds to the end, when `done` of all steps are done; None before the first."""
        if done <= self._first:
            return None
        return (self._total - done) * (time.monotonic() - self._started) / (done - self._first)


class Task:
    """A piece of work of known length."""

    def __init__(self, display: "Display", title: str, total: int, unit: str, done: int) -> None:
        self.display, self.title, self.total, self.unit = display, title, total, unit
        self.done, self._first, self._started, self._last_line = done, done, time.monotonic(), time.monotonic()
        self._bar = None
        if display.bars:
            self._bar = display.bars.add_task(title, total=total, completed=done, note="", left="")

    def advance(self, count: int = 1, note: str = "", scale: float = 1.0, run_left: float | None = None) -> None:
        """Advance by `count` of `total`.

        Args:
            scale: Converts the count into the unit of the rate.
            run_left: Estimated seconds to the end of the whole run.
        """
        self.done += count
        now = time.monotonic()
        rate = (self.done - self._first) * scale / max(now - self._started, 1e-9)
        memory = f"{peak_memory(self.display.device):.1f} GB"
        number = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        text = "  ".join(part for part in (f"{number} {self.unit}/s", note, memory) if part)
        remaining = (self.total - self.done) * (now - self._started) / max(self.done - self._first, 1)
        left = f"{duration(remaining)} left" if run_left is None else f"run ends in {duration(run_left)}"
        if self.display.bars and self._bar is not None:
            self.display.bars.update(self._bar, advance=count, note=text, left=left)
        elif self.display.console and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self.display.say(f"{self.title}  {self.done}/{self.total}  {left}  {text}")

    def close(self) -> None:
        if self.display.bars and self._bar is not None:
            self.display.bars.remove_task(self._bar)


class Cut(ProgressColumn):
    """A one-line text that is truncated before other columns on a narrow terminal."""

    def __init__(self, field: str) -> None:
        self._field = field
        super().__init__()

    def render(self, task: RichTask) -> Text:
        """The text of a task, with an ellipsis if truncated."""
        return Text(str(task.fields[self._field]), no_wrap=True, overflow="ellipsis")


def columns() -> list[ProgressColumn]:
    """Columns of the progress bar; step and remaining time are never truncated."""
    whole = Column(no_wrap=True)
    title, left = (TextColumn(f"{{task.{name}}}", table_column=whole) for name in ("description", "fields[left]"))
    return [SpinnerColumn(), title, MofNCompleteColumn(table_column=whole), left, BarColumn(bar_width=12), Cut("note")]


class Display:
    """Prints on rank 0 only."""

    def __init__(self, world: Speaker) -> None:
        self.device = world.device
        self.console = Console(stderr=True, highlight=False, soft_wrap=True) if world.is_first else None
        self.bars: Progress | None = None
        if self.console and self.console.is_terminal:
            self.bars = Progress(*columns(), console=self.console, transient=True)
            self.bars.start()

    def say(self, text: str) -> None:
        """Print a line above the progress bar, on a terminal wrapped between words."""
        if self.console:
            self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)

    def show(self, table: Table) -> None:
        """Print a table above the progress bar."""
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
    """

    def __init__(self, waited: Callable[[], float], device: torch.device) -> None:
        self.steps, self.note = 0, ""
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
