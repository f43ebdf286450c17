"""File systems without symlinks, hard links and locks, as SMB shares and mounted cloud drives may be: nothing fails."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dist_plm.checkpoint.checkpoint import clean
from dist_plm.checkpoint.lock import Lock
from dist_plm.checkpoint.retention import best_checkpoint, drop, mark_best
from dist_plm.config import CheckpointConfig
from dist_plm.datasets import build as building
from dist_plm.distributed.world import World
from dist_plm.files.locks import try_lock
from dist_plm.search_index import ownership


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "symlink", unsupported)
    monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)


def test_the_best_checkpoint_is_named_in_a_file(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        (tmp_path / f"step_{step:08d}").mkdir()
        if step < 30:
            mark_best(tmp_path, step)
        assert best_checkpoint(tmp_path) == tmp_path / f"step_{min(step, 20):08d}"
    drop(tmp_path, CheckpointConfig(keep=1), 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step_00000020", "step_00000030"]


@pytest.mark.parametrize("text", ["", "../../etc", "step_1/../..", "best", "\udcff", "step_" + 200 * "1"])
def test_a_file_that_names_no_checkpoint_marks_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "best").write_bytes(os.fsencode(text))
    found = best_checkpoint(tmp_path)
    assert found is None or (found.parent == tmp_path and not found.exists())


def test_what_a_kill_left_of_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".best.tmp").write_text("step_00000010\n")
    (tmp_path / "best.tmp").mkdir()
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_is_used_without_a_lock(tmp_path: Path) -> None:
    Lock(tmp_path, World(), grace_seconds=0.1).release()


def test_a_data_set_is_built_without_a_lock(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    line = ["demo", "--images", 16, "--classes", 2, "--size", 16, "--workers", 1, "--out", tmp_path / "demo"]
    assert building.main([*map(str, line)]) == 0, capsys.readouterr().err


def test_a_key_is_made_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = ownership._make()
    assert len(made) == ownership.KEY_BYTES and ownership._read() == made


def test_a_lock_that_is_held_elsewhere_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        assert try_lock(first, shared=True) and try_lock(second, shared=True) and not try_lock(second)
