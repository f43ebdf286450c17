"""What a run left behind, damaged: it falls back to what is intact, or says what is lost, and never learns from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dist_plm import train as training
from dist_plm.checkpoint import checkpoint
from dist_plm.clean import removable
from dist_plm.distributed.world import World
from dist_plm.files.reading import file_digest
from dist_plm.telemetry.metrics import Metrics
from tests.end_to_end.conftest import STEPS_PER_EPOCH, events, timeless, train
from tests.end_to_end.test_resume import assert_same_end

REFRESH = ("--batch.refresh_epochs", 2, "--checkpoint.every_steps", 4)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step_*"))


def rewrite(path: Path, change: Any, signed: bool = False) -> None:
    """Change a JSON document; with `signed` as an older version would have written it, without its own hash."""
    document = json.loads(path.read_text())
    change(document)
    if signed:
        document.pop("sha256")
    path.write_text(json.dumps(document))


def put(*keys: str, value: Any) -> Any:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def misspell(document: Any) -> None:
    document["position"]["stpe"] = document["position"].pop("step")


# As the newest checkpoint has them, and as one of an older version that has no hash of its own.
CHANGES = {
    "batch": put("position", "batch", value=3),
    "epoch": put("position", "epoch", value=0),
    "step": put("position", "step", value=3),
    "steps": put("step", value=3),
    "files": put("files", value={}),
    "metrics": put("position", "metrics_bytes", value=10**15),
    "phases": put("phases", value=[]),
    "a phase less": put("phases", value=["instance"]),
    "misspelt": misspell,
    "text": put("position", "batch", value="1"),
    "negative": put("position", "epochs", value=-1),
    "true": put("position", "phase", value=True),
    "huge": put("position", "epochs", value=10**400),
    "not finite": put("position", "best", value=float("inf")),
    "path": put("position", "sweep", value="../../../tmp"),
    "no position": lambda document: document.pop("position"),
    "a list": put("position", value=[]),
    "data": put("data", value=7),
}
# These an older version could have written; only its own hash tells.
PLAUSIBLE = {"batch", "epoch", "metrics"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_summary_is_seen_whatever_was_changed(tmp_path, finished, name):
    run = shutil.copytree(finished, tmp_path / "run")
    broken = newest(run)
    rewrite(broken / "checkpoint.json", CHANGES[name])
    found = checkpoint.find(run / "checkpoints", World())
    assert found and found.path < broken and str(broken) in found.rejected[0]
    if name not in PLAUSIBLE:
        shutil.rmtree(run)
        shutil.copytree(finished, run)
        rewrite(broken / "checkpoint.json", CHANGES[name], signed=True)
        found = checkpoint.find(run / "checkpoints", World())
        assert found and found.path < broken


def test_clean_keeps_the_newest_that_can_be_read(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (run / "checkpoints" / "best").unlink()
    (newest(run) / "checkpoint.json").write_bytes(b"{")
    found = checkpoint.find(run / "checkpoints", World())
    assert found and found.path not in removable(run)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"1" * 5_000])
def test_a_summary_that_is_no_document(tmp_path, finished, text):
    run = shutil.copytree(finished, tmp_path / "run")
    (newest(run) / "checkpoint.json").write_bytes(text)
    found = checkpoint.find(run / "checkpoints", World())
    assert found and len(found.rejected) == 1 and "checkpoint.json" in found.rejected[0]


def test_a_checkpoint_without_tensors_is_none(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    broken = newest(run)
    for path in broken.glob("*.safetensors"):
        path.unlink()
    rewrite(broken / "checkpoint.json", put("files", value={}), signed=True)
    found = checkpoint.find(run / "checkpoints", World())
    assert found and found.path < broken


def test_a_summary_without_a_hash_is_an_old_one(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    rewrite(newest(run) / "checkpoint.json", lambda document: None, signed=True)
    found = checkpoint.find(run / "checkpoints", World())
    assert found and found.path == newest(run) and not found.rejected


def test_a_summary_names_no_file_elsewhere(tmp_path, finished):
    """Though the file is there and as the summary says."""
    run = shutil.copytree(finished, tmp_path / "run")
    name = "../../config.yaml"
    rewrite(newest(run) / "checkpoint.json", put("files", name, value=file_digest(run / "config.yaml")), signed=True)
    found = checkpoint.find(run / "checkpoints", World())
    assert found and f"'{name}' is not a plain file name" in found.rejected[0]


def test_a_damaged_plan_is_passed_over_with_its_checkpoint(tmp_path, tiny, finished):
    """The end is that of the unbroken run, from the checkpoint before that plan."""
    run = tmp_path / "run"
    train(2, tiny, run, "--train.max_steps", 2 * STEPS_PER_EPOCH + 2)
    needs = newest(run)
    position = json.loads((needs / "checkpoint.json").read_text())["position"]
    plan = run / "plans" / f"epoch_{position['epochs']:05d}.npy"
    text = bytearray(plan.read_bytes())
    text[-4] ^= 1
    plan.write_bytes(text)
    said = train(2, tiny, run).err
    assert f"skipped a damaged checkpoint: {needs}" in said and str(plan) in said
    assert_same_end(run, finished)


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory, tiny) -> Path:
    """A run that goes on with an epoch for which the sweep of the epoch before is used again."""
    run = tmp_path_factory.mktemp("refreshed") / "run"
    train(1, tiny, run, *REFRESH, "--train.max_steps", 2 * STEPS_PER_EPOCH)
    return run


def zeroed(file: Path) -> None:
    text = file.read_bytes()
    file.write_bytes(text[:200] + bytes(len(text) - 200))


SPOILT = {
    "zeroed": zeroed,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": Path.unlink,
    "all deleted": lambda file: [each.unlink() for each in file.parent.iterdir()],
    "gone": lambda file: shutil.rmtree(file.parent.parent),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_sweep_by_weights_that_are_gone_is_not_made_again_under_their_name(tmp_path, tiny, refreshed, here, name):
    run = shutil.copytree(refreshed, tmp_path / "run", symlinks=True)
    file = min(run.glob("sweeps/*/train/*.npy"))
    SPOILT[name](file)
    before = {path: path.read_bytes() for path in run.rglob("*.npy")}
    outcome = here(training.main, "--config", tiny, "--run_dir", run, *REFRESH)
    assert outcome.status == 1 and "the weights of these embeddings no longer exist" in outcome.err, outcome.err
    assert "Traceback" not in outcome.err and str(file) in outcome.err
    assert {path: path.read_bytes() for path in run.rglob("*.npy")} == before
    if name == "gone":
        outcome = here(training.main, "--config", tiny, "--run_dir", run, *REFRESH, "--force_resume")
        assert outcome.status == 0 and "using embeddings of the current weights instead" in outcome.err
        assert not file.parent.parent.exists() and events(run, "end")


def test_sweeps_of_older_versions_have_no_notes(tmp_path, tiny, refreshed, here):
    run, whole = (shutil.copytree(refreshed, tmp_path / name, symlinks=True) for name in ("run", "whole"))
    for note in run.glob("sweeps/*/train/*.json"):
        note.unlink()
    for each in (run, whole):
        outcome = here(training.main, "--config", tiny, "--run_dir", each, *REFRESH)
        assert outcome.status == 0 and "warning" not in outcome.err, outcome.err
    assert timeless(run) == timeless(whole)


DAMAGE = {
    "in mid-line": (lambda text: text[:-40], 1),
    "deleted": (lambda text: None, None),
    "zeroed": (lambda text: text[:300] + bytes(200) + text[500:], None),
    "not text": (lambda text: text[:300] + b"\xff\xfe" * 30 + text[360:], None),
    "deep": (lambda text: b"[" * 100_000 + b"\n" + text, None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_metrics_are_cut_back_to_whole_lines(tmp_path, name):
    """Read in this process: what a run says of it is the next test's."""
    metrics = Metrics(tmp_path, World())
    for step in range(20):
        metrics.write("step", step=step, loss=0.5, padding="x" * 20)
    keep = metrics.position()
    metrics.close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    changed = DAMAGE[name][0](path.read_bytes())
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    metrics = Metrics(tmp_path, World(), keep)
    metrics.close()
    kept = path.read_bytes().splitlines(keepends=True)
    assert "is damaged" in metrics.fault and str(path) in metrics.fault
    assert set(kept) <= set(lines) and kept == [line for line in lines if line in kept]
    assert len(kept) == {"in mid-line": 19, "deleted": 0}.get(name, len(kept)) and (not kept or len(kept) >= 15)


def test_a_run_says_that_its_metrics_were_cut(tmp_path, tiny, refreshed, here):
    run = shutil.copytree(refreshed, tmp_path / "run", symlinks=True)
    path = run / "metrics.jsonl"
    keep = json.loads((newest(run) / "checkpoint.json").read_text())["position"]["metrics_bytes"]
    path.write_bytes(path.read_bytes()[: keep - 10])
    outcome = here(training.main, "--config", tiny, "--run_dir", run, *REFRESH)
    assert outcome.status == 0 and "metrics.jsonl is damaged" in outcome.err, outcome.err
    assert [json.loads(line) for line in path.read_text().splitlines()]
    assert any("is damaged" in event["message"] for event in events(run, "warning"))
