"""Which checkpoints stay when new ones come."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from dist_plm.checkpoint.position import Position
from dist_plm.checkpoint.retention import best_checkpoint, drop, mark_best
from dist_plm.config import CheckpointConfig

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
