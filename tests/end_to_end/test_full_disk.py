"""Disk full: training continues while only saves fail, stops with the cause, and loses no checkpoint."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dist_plm import embed as embedding
from dist_plm import evaluate as evaluation
from dist_plm import export as exporting
from dist_plm import train as training
from dist_plm.checkpoint import checkpoint
from dist_plm.distributed.world import World
from dist_plm.search_index.build import Builder
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.training import learner
from tests.end_to_end.conftest import STEPS, events, refused

SAVED_STEP = 8


@pytest.fixture
def begun(tmp_path: Path, tiny: Path, here) -> Path:
    """A run with a checkpoint, in the middle of an epoch."""
    run = tmp_path / "begun"
    outcome = here(training.main, "--config", tiny, "--run_dir", run, "--train.max_steps", SAVED_STEP)
    assert outcome.status == 0, outcome.err
    return run


def newest(run: Path) -> int:
    found = checkpoint.find(run / "checkpoints", World())
    assert found is not None and not found.rejected
    return int(found.summary["step"])


def test_no_checkpoint_can_be_written(tiny, begun, here):
    """No file may be larger than 1 MB, which a checkpoint is and nothing else."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        outcome = here(training.main, "--config", tiny, "--run_dir", begun)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.status == 1
    assert f"training continues; step_{SAVED_STEP:08d} is kept" in outcome.err
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: the checkpoint of step") and "File too large" in last, outcome.err
    assert len(events(begun, "step")) == STEPS and newest(begun) == SAVED_STEP
    assert list(begun.rglob("*.tmp")) == []
    assert here(training.main, "--config", tiny, "--run_dir", begun).status == 0
    assert newest(begun) == STEPS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", folder], capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path, left: int = 0) -> None:
    """Take all room of the disk but `left` bytes."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - left)


def test_somebody_else_s_run_is_evaluated(small_disk, finished, here):
    """The folder can be read and not written."""
    shutil.copytree(finished, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    outcome = here(evaluation.main, "--checkpoint", small_disk / "run")
    assert outcome.status == 0 and "evaluation.jsonl can't be written (Read-only file system)" in outcome.err
    assert [json.loads(line)["model"] for line in outcome.out.splitlines()] == ["student", "teacher"]


def test_the_disk_is_full(tiny, begun, small_disk, here, monkeypatch):
    """Nothing at all can be written any more: no line of metrics, no embeddings."""
    run, ballast = small_disk / "run", small_disk / "ballast"
    shutil.copytree(begun, run)
    step = learner.Learner.step

    def filling(self, batch, number, steps):
        # At each step, since a save that fails gives back what it had taken.
        if ballast.exists() or len(events(run, "step")) > SAVED_STEP:
            fill(ballast)
        return step(self, batch, number, steps)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "step", filling)
        outcome = here(training.main, "--config", tiny, "--run_dir", run)
    assert outcome.status == 1
    assert "No space left on device" in outcome.err.strip().splitlines()[-1], outcome.err
    assert newest(run) >= SAVED_STEP
    ballast.unlink()
    assert here(training.main, "--config", tiny, "--run_dir", run).status == 0
    assert newest(run) == STEPS


def test_an_index_does_not_fit(finished, demo, small_disk, here, monkeypatch):
    """Whichever of its files is cut off, what was embedded is kept, and the same command resumes."""
    out, ballast = small_disk / "index", small_disk / "ballast"
    arguments = ("--checkpoint", finished, "--shards", demo, "--out", out)
    assemble, written = Builder._assemble, {"encoder"}
    for left, files in (
        (4_096, set()),  # the first page of a sparse file fits: written through a memory map, it would kill
        (12_288, {"embeddings.npy"}),
        (65_536, {"index.faiss", "images.jsonl", "unreadable.jsonl", "ignored.jsonl"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Builder, "_assemble", lambda self, left=left: (fill(ballast, left), assemble(self)))
            refused(here(embedding.main, *arguments), "can't be written (No space left on device)")
        written |= files
        assert {path.name for path in (small_disk / ".index.tmp" / "final").iterdir()} == written
        ballast.unlink()
    monkeypatch.setattr(Builder, "_block", None)
    assert here(embedding.main, *arguments).status == 0
    assert len(SearchIndex(out)) == 100


def test_an_export_does_not_fit(finished, small_disk, here):
    fill(small_disk / "ballast")
    arguments = ("--checkpoint", finished, "--out", small_disk / "export")
    refused(here(exporting.main, *arguments), "cannot be written (No space left on device)")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
