"""One run at a time in a folder."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dist_plm.checkpoint.lock import Lock
from dist_plm.config import Config
from dist_plm.distributed.preemption import Preempted, Preemption
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.run_directory import RunDirectory

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def held_by_another(folder: Path, seconds: float) -> subprocess.Popen:
    (folder / "lock").write_text("process 7 on host\n")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder / "lock", str(seconds)], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    return holder


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    holder = held_by_another(tmp_path, 60)
    try:
        with pytest.raises(UserError, match="in use by process 7 on host"):
            Lock(tmp_path, World(), grace_seconds=0.3)
    finally:
        holder.kill()
        holder.wait()
    Lock(tmp_path, World(), grace_seconds=0).sign()  # free as soon as the process is dead
    assert "process 7 on host" not in (tmp_path / "lock").read_text()


def test_a_released_folder_is_free(tmp_path: Path) -> None:
    """Though a forked process, as a loader's worker may be, still has the file."""
    lock = Lock(tmp_path, World(), grace_seconds=0)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.read(reader, 1)
        os._exit(0)
    try:
        with pytest.raises(UserError, match="is in use"):
            Lock(tmp_path, World(), grace_seconds=0)
        lock.release()
        Lock(tmp_path, World(), grace_seconds=0).release()
    finally:
        os.write(writer, b".")
        os.waitpid(child, 0)


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    holder = held_by_another(tmp_path, 60)
    try:
        with Preemption(["SIGTERM"]) as preemption, pytest.raises(Preempted, match=r"SIGTERM.*in use by process 7"):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            Lock(tmp_path, World(preemption=preemption), grace_seconds=30)
    finally:
        holder.kill()
        holder.wait()


def test_a_run_that_began_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Two starts in a new folder: both found it empty, and the first has already ended when the second would begin."""
    first, second = (RunDirectory(Config(run_dir=str(tmp_path / "run"), seed=seed)) for seed in (0, 1))
    for directory in (first, second):
        directory.lock(World())
    first.create(World())
    before = (tmp_path / "run/config.yaml").read_text()
    first.release()
    with pytest.raises(UserError, match="another run was started in it"):
        second.create(World())
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_one_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match=r"can't be written .*rank 0"):
        Lock(tmp_path, World(), grace_seconds=0)
    with pytest.raises(UserError, match="No such file or directory, on rank 0"):
        Lock(tmp_path / "gone", World(), grace_seconds=0)


def test_one_that_is_about_to_be_free_is_waited_for(tmp_path: Path) -> None:
    holder = held_by_another(tmp_path, 1)
    Lock(tmp_path, World(), grace_seconds=30)
    assert holder.wait(30) == 0  # its second was over: nobody killed it
