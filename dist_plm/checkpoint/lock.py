"""One run at a time in a folder: two would write each other's checkpoints."""

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from dist_plm.distributed.preemption import Preempted
from dist_plm.distributed.world import World
from dist_plm.errors import UserError

NAME = "lock"
GRACE_SECONDS = 60.0  # ranks whose launcher was killed see it within a second, save and leave


class Lock:
    """Held by all ranks of a run until their processes end, however they end. A collective.

    The first rank takes it alone, which it can only once no rank of a run before is left, and then shares it with the
    others. On a file system that has no locks, the run goes on without.

    Raises:
        UserError: another run still holds it after `grace_seconds`, or a rank can't reach or write the folder.
        Preempted: a signal came while it was waited for.
    """

    def __init__(self, folder: Path, world: World, grace_seconds: float = GRACE_SECONDS) -> None:
        path = folder / NAME
        fault = self._open(path, grace_seconds)
        if faults := [f"{each}, on rank {rank}" for rank, each in enumerate(world.gather_objects(fault)) if each]:
            raise UserError(f"run_dir {folder} can't be written ({faults[0]}): choose another with --run_dir")
        holder, told = world.from_first(lambda: self._take(grace_seconds, world))
        if told:
            raise Preempted(told, f"run_dir {folder} is in use by {holder}; nothing was changed")
        if holder:
            raise UserError(f"run_dir {folder} is in use by {holder}: wait for that run, stop it, or name another")
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def sign(self) -> None:
        """Say who holds it; on one rank."""
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def _open(self, path: Path, grace_seconds: float) -> str:
        """Why it can't be opened; empty when it is."""
        deadline = time.monotonic() + grace_seconds
        while True:
            try:
                self._file = path.open("a+", encoding="utf-8")
            except FileNotFoundError as error:  # NFS shows a folder that another machine has just made up to 60 s late
                if time.monotonic() > deadline:
                    return str(error.strerror)
                time.sleep(0.2)
            except OSError as error:
                return error.strerror or str(error)
            else:
                return ""

    def _take(self, grace_seconds: float, world: World) -> tuple[str, int]:
        """Who holds it after the time of grace, empty when it is ours; and the signal that ended the wait, or 0."""
        deadline = time.monotonic() + grace_seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = world.told
                if told or time.monotonic() > deadline:
                    self._file.seek(0)
                    return self._file.read().strip() or "another run", told
                time.sleep(0.2)
            except OSError:
                return "", 0
            else:
                return "", 0
