"""Lock of a run directory: two runs in one would overwrite each other's checkpoints."""

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from dist_plm.distributed.preemption import Preempted
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.files.locks import try_lock

NAME = "lock"
GRACE_SECONDS = 60.0  # ranks whose launcher was killed notice within a second, save and exit


class Lock:
    """File lock held by all ranks of a run until it is released or their processes end. A collective.

    Rank 0 takes it exclusively, which succeeds when no rank of an earlier run is left, and then downgrades it to a lock
    shared with the other ranks. On a file system without locks the run continues unlocked.

    Raises:
        UserError: Another run still holds it after `grace_seconds`, or a rank can't reach or write the folder.
        Preempted: A signal arrived while waiting for it.
    """

    def __init__(self, folder: Path, world: World, grace_seconds: float = GRACE_SECONDS) -> None:
        path = folder / NAME
        fault = self._open(path, grace_seconds)
        if faults := [f"{text}, on rank {rank}" for rank, text in enumerate(world.gather_objects(fault)) if text]:
            raise UserError(f"run_dir {folder} can't be written ({faults[0]}): choose another with --run_dir")
        holder, caught = world.from_first(lambda: self._take(0, world))
        if holder and not caught:  # the grace period may be longer than a wait for another rank
            holder, caught = world.from_first_at_length(lambda: self._take(grace_seconds, world))
        if caught:
            raise Preempted(caught, f"run_dir {folder} is in use by {holder}; nothing was changed")
        if holder:
            raise UserError(f"run_dir {folder} is in use by {holder}: wait for that run, stop it, or choose another")
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def sign(self) -> None:
        """Write the holder's process and host into the lock file; on one rank."""
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let the next run have the directory, once no rank holds it any more"""
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)  # not by closing alone: a forked process has the file too
        self._file.close()

    def _open(self, path: Path, grace_seconds: float) -> str:
        """Open the file; returns why it can't be opened, empty on success."""
        deadline = time.monotonic() + grace_seconds
        while True:
            try:
                self._file = path.open("a+", encoding="utf-8")
            except FileNotFoundError as error:  # NFS may show a folder created by another machine up to 60 s late
                if time.monotonic() > deadline:
                    return str(error.strerror)
                time.sleep(0.2)
            except OSError as error:
                return error.strerror or str(error)
            else:
                return ""

    def _take(self, grace_seconds: float, world: World) -> tuple[str, int]:
        """The holder after the grace period, empty if the lock was taken; and the signal that ended the wait, or 0."""
        deadline = time.monotonic() + grace_seconds
        while not try_lock(self._file):
            caught = world.signal
            if caught or time.monotonic() > deadline:
                self._file.seek(0)
                return self._file.read().strip() or "another run", caught
            time.sleep(0.2)
        return "", 0
