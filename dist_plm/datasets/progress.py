"""Progress of a command: a progress bar on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Interval of lines without a terminal."""


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress over `total` images (None: unknown) on stderr; yields a function to advance it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    started = shown = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        rate = f"{done / max(now - started, 1e-9):,.0f} images/s"
        bars.update(bar, advance=count, rate=rate)
        if not console.is_terminal and now - shown >= LINE_SECONDS:
            shown = now
            console.print(f"{title}  {done:,}{f' / {total:,}' if total else ''}  {rate}", markup=False)

    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        bar = bars.add_task(title, total=total, rate="")
        yield advance
