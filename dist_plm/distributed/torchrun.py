"""Plug-in for torchrun: it exits with the ranks' status and prints nothing after their last line.

By default torchrun prints a traceback and a summary, some 30 lines below the ranks' error, and exits with status 1
whatever theirs was. At its start it loads the entry points of the group `torchrun.handlers` (plug-ins for other
rendezvous), of which `plug_in` is one. In a torchrun that starts a module of this package, and in no other process, it

- drops torch's warning about OMP_NUM_THREADS (`runtime.threads` decides) and its messages about ranks that it stops;
- creates a folder, passed to the ranks in an environment variable, in which each rank records its exit status;
- exits with that status when torchrun fails, and prints one line for a rank that was killed without a message.

Without the plug-in (package not installed) a rank's last line also goes to the error file of torch's summary.
"""

import atexit
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = "DIST_PLM_STATUSES"  # environment variable of the ranks
LOGGERS = (
    "torch.distributed.run",
    "__main__",  # python -m torch.distributed.run
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)
NOISE = ("OMP_NUM_THREADS", "closing signal", "death signal", "failed (exitcode")


def leave_status(status: int, line: str) -> None:
    """Report the exit status of this rank to torchrun, if there is one.

    Args:
        status: Exit status of the rank.
        line: Last line that the rank printed.
    """
    with suppress(OSError):
        if folder := os.environ.get(FOLDER):
            Path(folder, str(os.getpid())).write_text(str(status), encoding="utf-8")
        elif line and (file := os.environ.get("TORCHELASTIC_ERROR_FILE")):
            details = {"py_callstack": line, "timestamp": str(int(time.time()))}
            message = {"message": line, "errorCode": status, "extraInfo": details}
            Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")


def plug_in() -> Callable[..., Any]:
    """The entry point. Returns the rendezvous handler that torch registers."""
    if starts_this_package(sys.argv) and "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(lambda record: not any(phrase in record.getMessage() for phrase in NOISE))
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="dist_plm_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _replace_excepthook(Path(folder))
    return _no_rendezvous


def starts_this_package(words: list[str]) -> bool:
    """Whether this command line is a `torchrun ... -m dist_plm.MODULE`."""
    return any(flag in ("-m", "--module") and word.partition(".")[0] == "dist_plm" for flag, word in pairwise(words))


def ending(error: BaseException, statuses: set[int]) -> tuple[int, str]:
    """Exit status of torchrun and a last line to print; status 0 to keep torch's own output.

    Args:
        error: Exception that ends torchrun: ChildFailedError after a rank's failure, SignalException after a signal.
        statuses: Exit statuses recorded by the ranks.
    """
    kind = type(error).__name__
    status = next((status for status in (2, 1, 75) if status in statuses), 0)
    if kind == "SignalException":
        # Ranks without a recorded status were stopped by the signal while importing.
        return status or 128 + int(error.sigval), ""  # type: ignore[attr-defined]
    if kind != "ChildFailedError":
        return 0, ""
    rank, failure = error.get_first_failure()  # type: ignore[attr-defined]
    if failure.exitcode >= 0:
        return status, ""  # 0: a traceback, which torch's summary helps to locate
    name = signal.Signals(-failure.exitcode).name
    hint = ": out of memory? (see dmesg)" if name == "SIGKILL" else ""
    return status if status not in (0, 75) else 1, f"error: rank {rank} was killed by {name}{hint}"


def _replace_excepthook(folder: Path) -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        status, line = ending(error, {int(path.read_text(encoding="utf-8")) for path in folder.iterdir()})
        if not status:
            before(kind, error, trace)
            return
        if line:
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(status)

    sys.excepthook = hook


def _no_rendezvous(*_: object) -> Any:
    raise ValueError("--rdzv-backend dist_plm is not a rendezvous backend: omit the option")
