"""A call in a process of its own, whose time and memory are bounded by the system."""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.commands import SERVER

GRACE_SECONDS = 120  # of wall-clock time: the machine may be busy


@dataclass(frozen=True)
class Found:
    """What a call returned, or the type and text of what it raised; how much it took."""

    value: Any = None
    error: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def limited(function: Callable[..., Any], *arguments: Any, seconds: int, megabytes: int) -> Found:
    """Call `function` with at most so much CPU time, and so much memory more than the process has."""
    ours, theirs = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_call, args=(theirs, function, arguments, seconds, megabytes))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds + GRACE_SECONDS):
            process.kill()
            return Found(error="it did not end")
        return ours.recv()
    except EOFError:
        process.join()
        return Found(error=f"the process died ({process.exitcode}) of {seconds} s of CPU time or {megabytes} MB")
    finally:
        process.join(5)
        process.kill()


def _call(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: int, mb: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    spent = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds + 1, spent + seconds + 2))
    before, began = _peak(), time.process_time()
    try:
        found = {"value": function(*arguments)}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    pipe.send(Found(**found, seconds=time.process_time() - began, megabytes=_peak() - before))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
