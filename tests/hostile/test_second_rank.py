"""Files damaged as the second rank alone sees them: all ranks end in bounded time, with one line that names it.

The ranks start in different folders: of the run directory, one part is a copy to each, as on nodes that don't share it.
"""

import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.common import environments
from tests.commands import Rank
from tests.end_to_end.conftest import train

SECONDS = 120  # with a time-out of 20 s, on a machine that is busy


def cut(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        path.unlink()


def blacken(paths: list[Path]) -> None:
    """Zeros in place of the images' bytes; headers and sizes stay."""
    assert paths
    for path in paths:
        with tarfile.open(path) as tar:
            images = [(member.offset_data, member.size) for member in tar if not member.name.endswith("json")]
        with path.open("r+b") as file:
            for start, size in images:
                file.seek(start)
                file.write(bytes(size))


def rename_data(manifest: Path) -> None:
    """A valid manifest of another data set."""
    document = json.loads(manifest.read_text())
    document["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(document))


def below(run: Path, pattern: str) -> list[Path]:
    return [path for path in run.glob(pattern) if path.is_file()]


# (what rank 1 has a copy of, how that is damaged, what one of the ranks says; empty: it is not read there)
OWN = "rank 1: "
TENSORS = "checkpoints/step_*/*.safetensors"
SUMMARY = "checkpoints/step_*/checkpoint.json"
DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "plan": ("plans", lambda run: cut(below(run, "plans/epoch_*.npy")), OWN),
    "plan is gone": ("plans", lambda run: remove(below(run, "plans/epoch_*.npy")), OWN),
    "tensors": ("checkpoints", lambda run: cut(below(run, TENSORS)), OWN),
    "tensors are gone": ("checkpoints", lambda run: remove(below(run, TENSORS)), OWN),
    "embeddings": ("sweeps", lambda run: None, "that all nodes share"),
    "summary": ("checkpoints", lambda run: cut(below(run, SUMMARY)), ""),
    "summary is gone": ("checkpoints", lambda run: remove(below(run, SUMMARY)), ""),
    "tars are gone": ("shards", lambda run: remove(below(run, "shards/train-*.tar")), OWN),
    "images": ("shards", lambda run: blacken(below(run, "shards/train-*.tar")), OWN),
    "manifest": ("shards", lambda run: cut(below(run, "shards/manifest.json")), OWN),
    "other-images": ("shards", lambda run: rename_data(run / "shards/manifest.json"), OWN),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny: Path, demo: Path) -> Path:
    """A run that two ranks left within an epoch of the method; the images are in it, as `shards`."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(2, tiny, run, "--train.max_steps", 10)
    shutil.copytree(demo, run / "shards")
    return run


@pytest.mark.parametrize("name", DAMAGE)
def test_all_ranks_end(tmp_path: Path, tiny: Path, stopped: Path, name: str) -> None:
    own, damage, said = DAMAGE[name]
    first, second = (tmp_path / f"rank_{rank}" / "run" for rank in range(2))
    shutil.copytree(stopped, first, symlinks=True)
    second.mkdir(parents=True)
    for entry in first.iterdir():
        if entry.name == own:
            shutil.copytree(entry, second / own, symlinks=True)
        else:
            (second / entry.name).symlink_to(entry)
    damage(second)
    settings = (
        "--config", tiny, "--run_dir", "run", "--data.shards", "run/shards", "--train.max_steps", 12,
        "--runtime.timeout_seconds", 20,
    )  # fmt: skip
    began = time.monotonic()
    ranks = [
        Rank("dist_plm.train", settings, environment, run.parent)
        for run, environment in zip((first, second), environments(2), strict=True)
    ]
    outcomes = [rank.wait() for rank in ranks]
    assert time.monotonic() - began < SECONDS
    for outcome in outcomes:
        assert "Traceback" not in outcome.err, outcome.err
    if said:
        assert all(outcome.status in (1, 2) for outcome in outcomes), outcomes
        assert any(said in outcome.err for outcome in outcomes), outcomes
    else:
        assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
        assert "resumed from run/checkpoints/step_00000010" in outcomes[0].err


def test_a_new_run_reads_one_data_set(tmp_path: Path, tiny: Path, demo: Path) -> None:
    """Without a checkpoint that tells the data set."""
    folders = [tmp_path / f"rank_{rank}" for rank in range(2)]
    for folder in folders:
        shutil.copytree(demo, folder / "shards")
    rename_data(folders[1] / "shards/manifest.json")
    settings = ("--config", tiny, "--run_dir", tmp_path / "run", "--data.shards", "shards", "--train.max_steps", 1)
    ranks = [
        Rank("dist_plm.train", settings, environment, folder)
        for folder, environment in zip(folders, environments(2), strict=True)
    ]
    outcomes = [rank.wait() for rank in ranks]
    assert [outcome.status for outcome in outcomes] == [2, 2], outcomes
    assert "rank 1: shards is another data set there than on rank 0" in outcomes[0].err
    assert not (tmp_path / "run").exists()
