"""Commands as people start them, and ranks as a scheduler does, with a bound on the time.

Ranks are forked from a process that has imported everything (tests/preloaded.py): a start takes half a second of CPU
time, not four.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.common import ROOT, SERVER, environments, family
from dist_plm.cli import run_command

PATIENCE_SECONDS = 300
SERVER.set_forkserver_preload(["tests.preloaded"])
_STATE = tempfile.TemporaryDirectory(prefix="state_")  # not the account's own, which holds the key of its indexes
# The server starts at its first use and inherits these.
os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", XDG_STATE_HOME=_STATE.name)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


class Command:
    """A command under way, `python arguments...`, with all the processes that it starts."""

    def __init__(self, arguments: list[object], **environment: str) -> None:
        self.printed = Printed()
        line, environment = [sys.executable, *map(str, arguments)], {**os.environ, **environment}
        out, err = self.printed.files
        with out.open("wb") as stdout, err.open("wb") as stderr:
            self._process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self) -> Outcome:
        """The outcome; past PATIENCE_SECONDS everything is killed and the test fails."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.status is None:
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"not done after {PATIENCE_SECONDS} s\n{self.printed}")
            time.sleep(0.005)
        return Outcome(self.status, self.printed.out, self.printed.err)

    def send(self, number: signal.Signals) -> None:
        """A signal to the process that was started, and to no other."""
        os.kill(self.pid, number)

    def processes(self) -> list[int]:
        """It, and all that it started."""
        return family(self.pid)

    def ranks(self) -> dict[int, int]:
        """Processes by rank, as their environments say; those that ended in the meantime are left out."""
        found = {}
        for pid in self.processes():
            with suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {int(each[5:]): pid for each in variables if each.startswith(b"RANK=")}
        return found

    def kill(self) -> None:
        """SIGKILL to everything; torchrun's ranks are in sessions of their own, so they are found by descent."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something to happen while the command runs; fails when it ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            ended = self.status is not None  # before the look: it may happen, and the command end, in between
            if happened():
                return
            if ended or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"it never happened (status {self.status})\n{self.printed}")
            time.sleep(0.002)


class Rank(Command):
    """A rank under way, `python -m module arguments...` with torchrun's variables, forked."""

    def __init__(
        self, module: str, arguments: tuple[object, ...], environment: dict[str, str], folder: Path = ROOT
    ) -> None:
        self.printed = Printed()
        line = [module, *map(str, arguments)]
        self._forked = SERVER.Process(target=_run, args=(line, environment, folder, self.printed.files))
        self._forked.start()
        self.pid = int(self._forked.pid or 0)

    @property
    def status(self) -> int | None:
        return self._forked.exitcode


class Printed:
    """What a command printed: two files that go when nobody holds this."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.files = [Path(self._folder.name, name) for name in ("out", "err")]

    @property
    def out(self) -> str:
        return self.files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.files[1].read_text(errors="replace")

    def __str__(self) -> str:
        return f"{self.out}\n{self.err}"


def _run(line: list[str], environment: dict[str, str], folder: Path, printed: list[Path]) -> None:
    for number, path in enumerate(printed, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = line
    run_command(importlib.import_module(command_module(line[0])).main)


def command_module(name: str) -> str:
    """The module that `python -m name` runs: that of a package is its `__main__`."""
    return f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name


def alone(*arguments: object) -> Command:
    """Start `python -m arguments...` without torchrun."""
    return Command(["-m", *arguments])


def under_torchrun(count: int, *arguments: object, options: tuple[object, ...] = ()) -> Command:
    """Start `python -m arguments...` on `count` ranks under torchrun, which takes `options`."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", count, *options]
    return Command(["-m", *launcher, "-m", *arguments])


def on_ranks(count: int, module: str, *arguments: object, nodes: int = 1, folder: Path = ROOT) -> list[Rank]:
    """Start `python -m module arguments...` on `count` ranks, one process each with torchrun's variables."""
    return [Rank(module, arguments, environment, folder) for environment in environments(count, nodes)]


def killed(ranks: list[Rank], happened: Callable[[], bool], seconds: float = 0.0) -> None:
    """Kill all ranks `seconds` after something has happened."""
    ranks[0].until(happened)
    time.sleep(seconds)
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.wait()


def together(ranks: list[Rank]) -> Outcome:
    """The outcome of ranks as torchrun gives it: the first status that is not 0, and what all printed."""
    outcomes = [rank.wait() for rank in ranks]
    status = next((outcome.status for outcome in outcomes if outcome.status), 0)
    return Outcome(status, "".join(outcome.out for outcome in outcomes), "".join(outcome.err for outcome in outcomes))
