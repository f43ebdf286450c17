"""Which checkpoints stay when new ones come."""

import json
from dataclasses import asdict
from pathlib import Path

from dist_plm.checkpoint.position import Position
from dist_plm.checkpoint.retention import drop, mark_best
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
        drop(tmp_path, config)
        assert step in left(tmp_path) and (step < 20 or (tmp_path / "best").exists())
    assert left(tmp_path) == [30, 50, 60, 90, 95]
    assert (tmp_path / "best").resolve() == tmp_path / "step_00000050"
    assert list(tmp_path.glob("*.tmp")) == []


def test_only_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved(tmp_path, step)
    drop(tmp_path, CheckpointConfig(keep=1))
    assert left(tmp_path) == [30]


def test_a_broken_one_goes_with_the_old(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        saved(tmp_path, step)
    (tmp_path / "step_00000010" / "checkpoint.json").write_text("{")
    (tmp_path / "step_00000020" / "checkpoint.json").unlink()
    drop(tmp_path, CheckpointConfig(keep=1, keep_every_epochs=3))
    assert left(tmp_path) == [30, 40]
