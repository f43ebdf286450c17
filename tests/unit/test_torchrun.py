"""What torchrun prints and exits with: decided from how the ranks ended."""

import json
import logging
import signal
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from dist_plm.distributed import torchrun


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("torchrun --nproc_per_node 8 -m dist_plm.train", True),
        ("torchrun --module dist_plm.evaluate --checkpoint run", True),
        ("torchrun train.py -m other.dist_plm", False),
        ("torchrun -m dist_plmx.train", False),
        ("torchrun train.py --data dist_plm.train", False),
    ],
)
def test_only_our_own_torchrun_is_touched(words, ours, monkeypatch, tmp_path):
    assert torchrun.starts_this_package(words.split()) == ours
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(sys, "excepthook", before := sys.excepthook)
    monkeypatch.setattr(torchrun, "LOGGERS", ("test_torchrun",))
    monkeypatch.setattr(torchrun.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setenv(torchrun.FOLDER, "")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    torchrun.plug_in()
    assert (sys.excepthook is not before) == ours
    assert bool(logging.getLogger("test_torchrun").filters) == ours
    logging.getLogger("test_torchrun").filters.clear()


def failed(code: int) -> ChildFailedError:
    return ChildFailedError(
        "dist_plm.train", {1: ProcessFailure(local_rank=1, pid=7, exitcode=code, error_file="<N/A>")}
    )


@pytest.mark.parametrize(
    ("error", "statuses", "status", "said"),
    [
        (failed(2), {2}, 2, ""),
        (failed(75), {75}, 75, ""),
        (failed(1), {1}, 1, ""),
        (failed(1), set(), 0, ""),  # a traceback: torch's own summary is printed
        (failed(2), {2, 75}, 2, ""),  # the others were told to leave
        (failed(-9), {75}, 1, "error: rank 1 was killed by SIGKILL: out of memory? (see dmesg)"),
        (failed(-11), set(), 1, "error: rank 1 was killed by SIGSEGV"),
        (SignalException("", signal.SIGINT), {75}, 75, ""),
        (SignalException("", signal.SIGINT), {1, 75}, 1, ""),  # saved on no rank if one could not
        (SignalException("", signal.SIGTERM), set(), 143, ""),
        (ValueError(), {75}, 0, ""),
    ],
)
def test_how_it_ends(error, statuses, status, said):
    assert torchrun.ending(error, statuses) == (status, said)


def test_without_the_plug_in_the_line_is_in_torch_s_summary(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(torchrun.FOLDER, raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    torchrun.leave_status(2, "error: no such shards")
    failure = ProcessFailure(local_rank=0, pid=7, exitcode=2, error_file=str(tmp_path / "error.json"))
    assert "error: no such shards" in str(ChildFailedError("dist_plm.train", {0: failure}))
    assert json.loads((tmp_path / "error.json").read_text())["message"]["errorCode"] == 2
