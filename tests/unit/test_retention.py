"""Which checkpoints stay when new ones come."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from dist_plm import evaluate, export
from dist_plm.checkpoint.position import Position
from dist_plm.checkpoint.retention import best_checkpoint, drop, mark_best, run_of
from dist_plm.config import CheckpointConfig
from dist_plm.errors import UserError

STEPS_PER_EPOCH = 10


def saved(folder: Path, step: int) -> None:
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    position = asdict(Position(step=step, epochs=step // STEPS_PER_EPOCH, batch=step % STEPS_PER_EPOCH))
    document = {"step": step, "position": position, "phases": ["plm"], "data": "", "files": {"a.safetensors": {}}}
    (path / "checkpoint.json").write_text(json.dumps(document))


def left(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def test_the_newest_every_so_many_epochs_and_the_best(tmp_path: Path) -> None:
    config = CheckpointConfig(keep=2, keep_every_epochs=3)
    for step in range(5, 100, 5):
        saved(tmp_path, step)
        if step in (15, 50):
            mark_best(tmp_path, step)
        drop(tmp_path, config, step)
        assert step in left(tmp_path) and (step < 20 or (tmp_path / "best").exists())
    assert left(tmp_path) == [30, 50, 60, 90, 95]
    assert (tmp_path / "best").resolve() == tmp_path / "step_00000050"
    assert list(tmp_path.glob("*.tmp")) == []


def test_only_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved(tmp_path, step)
    drop(tmp_path, CheckpointConfig(keep=1), 30)
    assert left(tmp_path) == [30]


def test_a_broken_one_goes_with_the_old(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        saved(tmp_path, step)
    (tmp_path / "step_00000010" / "checkpoint.json").write_text("{")
    (tmp_path / "step_00000020" / "checkpoint.json").unlink()
    drop(tmp_path, CheckpointConfig(keep=1, keep_every_epochs=3), 40)
    assert left(tmp_path) == [30, 40]


def test_a_run_that_resumed_before_damaged_checkpoints_keeps_what_it_saves(tmp_path: Path) -> None:
    for step in (5, 30, 40):  # 30 and 40 can't be read: the run resumed from 5
        saved(tmp_path, step)
    for step in (10, 20):
        saved(tmp_path, step)
        drop(tmp_path, CheckpointConfig(keep=1), step)
        assert left(tmp_path) == [step, 30, 40]


def test_a_copy_in_which_the_best_is_a_folder(tmp_path: Path) -> None:
    """As `cp -L`, `scp -r` and object stores make it: the same checkpoint is the best, until another one is."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert best_checkpoint(run) is None
    for step in (10, 20, 30):
        saved(run, step)
    mark_best(run, 10)
    shutil.copytree(run, copy)
    assert not (copy / "best").is_symlink() and best_checkpoint(copy) == copy / "step_00000010"
    drop(copy, CheckpointConfig(keep=1), 30)
    assert left(copy) == [10, 30]
    mark_best(copy, 30)
    drop(copy, CheckpointConfig(keep=1), 30)
    assert left(copy) == [30] and (copy / "best").readlink() == Path("step_00000030")
    assert sorted(path.name for path in copy.iterdir()) == ["best", "step_00000030"]


def test_a_damaged_copy_of_the_best_marks_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    for text in ("{", "[]", "{}", '{"step": "10"}'):
        (tmp_path / "best").mkdir(exist_ok=True)
        (tmp_path / "best" / "checkpoint.json").write_text(text)
        assert best_checkpoint(tmp_path) is None


@pytest.mark.parametrize("form", ["link", "file", "folder"])
def test_what_is_made_of_a_checkpoint_lies_in_the_run(tmp_path, monkeypatch, form):
    """Not in the checkpoint, which is removed when it is superseded, and is no folder where `best` is a file."""
    run = tmp_path / "run"
    best = run / "checkpoints" / "best"
    (run / "checkpoints" / "step_00000010").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    best.mkdir() if form == "folder" else best.symlink_to("step_00000010") if form == "link" else best.touch()
    assert run_of(best) == run_of(run) == run and run_of(tmp_path) == tmp_path
    (run / "export_teacher" / "old").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["export", "--checkpoint", str(best), "--model", "teacher"])
    with pytest.raises(UserError, match=f"{run}/export_teacher exists"):
        export.main()
    monkeypatch.setattr(sys, "argv", ["evaluate", "--checkpoint", str(best)])
    for step, made in (("_located", None), ("_config", None), ("_evaluate", [{"recall": 1}])):
        monkeypatch.setattr(evaluate, step, lambda *_, made=made: made)
    assert evaluate.main() == 0 and (run / "evaluation.jsonl").read_text() == '{"recall": 1}\n'
    assert not best.is_dir() or not any(best.iterdir())
