"""Where a run goes on with other settings: a started epoch keeps its plan."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from dist_plm.checkpoint.checkpoint import FoundCheckpoint
from dist_plm.checkpoint.position import Position
from dist_plm.config import BatchConfig, Config
from dist_plm.data.plan_file import save_plan
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.learner import phases
from dist_plm.training.resumption import newest
from dist_plm.training.run_directory import RunDirectory

STEPS = 5


class Images:
    fingerprint = "images"

    def __len__(self) -> int:
        return 100


def resumed(run: Path, batch: BatchConfig, monkeypatch: pytest.MonkeyPatch, *, within: bool) -> Position:
    """Where a run of 4 x 5 images continues after 8 steps, in its second epoch, or after 10, at its end."""
    config = Config(run_dir=str(run), batch=batch)
    directory = RunDirectory(config)
    sha256 = save_plan(directory.plan(1), np.arange(100).reshape(STEPS, 4, 5))
    at = Position(epoch=1, batch=3, step=8, epochs=1, plan=sha256) if within else Position(epoch=2, step=10, epochs=2)
    summary = {"position": asdict(at), "data": "images", "phases": [phase.name for phase in phases(config)]}
    latest = FoundCheckpoint(run / "step_8", summary, [])
    monkeypatch.setattr("dist_plm.checkpoint.checkpoint.find", lambda *_: latest)
    found = newest(config, directory, Images(), phases(config), World())  # type: ignore[arg-type]
    assert found is latest
    return at


def test_batches_of_another_size_are_refused_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plans").mkdir()
    with pytest.raises(UserError, match=r"4 groups x 5 images, batch.groups 6 .* --train.max_steps 10$"):
        resumed(tmp_path, BatchConfig(groups=6, group_size=5), monkeypatch, within=True)
    for groups in (4, 5):  # as many images: its plan is kept
        resumed(tmp_path, BatchConfig(groups=groups, group_size=20 // groups), monkeypatch, within=True)
    resumed(tmp_path, BatchConfig(groups=6, group_size=5), monkeypatch, within=False)
