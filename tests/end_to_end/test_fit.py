"""`dist-plm fit`: from a folder to an index, stopped on the way, repeated, and cleaned up."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from dist_plm import clean
from dist_plm.checkpoint.checkpoint import candidates
from dist_plm.encoders.networks import locate
from dist_plm.errors import UserError
from dist_plm.fit import __main__ as fit
from dist_plm.fit import run as running
from dist_plm.search_index.search_index import SearchIndex
from tests.commands import on_ranks
from tests.end_to_end.conftest import events

# Of 40 images: no time for pretrained weights, sizes or length that a choice would have.
SIZES = ("--model.backbone", "small", "--views.size", "16", "--views.resize", "20", "--batch.groups", "10")
LENGTH = ("--warm_up.epochs", "1", "--train.epochs", "2", "--checkpoint.every_steps", "1", "--train.report", "false")
WORDS = (*SIZES, *LENGTH, "--ranks", "1", "--runtime.threads", "1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 images, a copy of one, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        Image.linear_gradient("L").rotate(9 * number).resize((24, 24)).convert("RGB").save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes((folder / "1.png").read_bytes()[:60])
    return folder


@pytest.fixture
def forked(monkeypatch):
    """Parts are forked from a process that has imported torch; what each printed is kept. `kill` ends the next so."""
    printed: list[str] = []
    kill: list[str] = []

    def run_ranks(module, words, ranks=1):
        (rank,) = on_ranks(1, module, *words)
        if kill and kill[0] == module:
            kill.pop()
            checkpoints = Path(words[1]).parent / "checkpoints"
            rank.until(lambda: list(checkpoints.glob("step_*[0-9]")))
            rank.send(signal.SIGKILL)
        outcome = rank.wait()
        printed.append(outcome.out + outcome.err)
        return outcome.status

    monkeypatch.setattr(running, "run_ranks", run_ranks)
    return printed, kill


def test_a_folder_becomes_an_index_through_a_kill(photos, tmp_path, here, forked):
    printed, kill = forked
    run = tmp_path / "run"
    kill.append("dist_plm.fit.part")
    assert here(fit.main, photos, "--out", run, *WORDS).status == 1
    assert not (run / "index").exists()
    again = here(fit.main, photos, "--out", run, *WORDS)
    assert again.status == 0, again
    assert "settings of its first start" in again.out and f"dist-plm serve {run / 'index'}" in again.out
    assert events(run, "resumed") and events(run, "end")
    assert len(SearchIndex(run / "index")) == 41
    assert "broken.jpg" in (run / "shards/rejected.jsonl").read_text()
    (newest, *_) = candidates(run / "checkpoints")
    assert locate(newest).latest.path == newest
    with pytest.raises(UserError, match="step_00000099"):
        locate(run / "checkpoints/step_00000099")
    count = len(printed)
    assert here(fit.main, photos, "--out", run, *WORDS).status == 0
    assert len(printed) == count, "nothing is left to do"
    other = here(fit.main, photos, "--out", run, *WORDS, "--model.dim", "8")
    assert other.status == 2 and "model.dim" in other.err
    (photos / "new.png").write_bytes((photos / "2.png").read_bytes())
    changed = here(fit.main, photos, "--out", run, *WORDS)
    (photos / "new.png").unlink()
    assert changed.status == 2 and "dist-plm index update" in changed.err
    assert here(clean.main, run).status == 0 and (run / "sweeps").exists()
    cleaned = here(clean.main, run, "--yes")
    assert cleaned.status == 0 and not (run / "sweeps").exists() and not (run / "plans").exists()
    assert len(list((run / "checkpoints").glob("step_*"))) in (1, 2)  # the newest, and the best
    assert len(SearchIndex(run / "index")) == 41


def test_a_plan_trains_nothing(photos, tmp_path, here, forked):
    planned = here(fit.main, photos, "--out", tmp_path / "run", "--plan")
    assert planned.status == 0 and not forked[0]
    assert "41 images to train on, no labels" in planned.out and "1 exact duplicates" in planned.out
    assert "no pretrained weights" in planned.err
    assert json.loads((tmp_path / "run/fit.json").read_text())["ranks"] >= 1


def test_ones_own_network_is_taken_where_it_is_named(photos, tmp_path, here, forked, monkeypatch):
    monkeypatch.setattr("dist_plm.model.own_backbone._allowed", set())
    own = ("--model.backbone", "tests.networks:vit_16", "--model.dim", "4")
    planned = here(fit.main, photos, "--out", tmp_path / "run", "--plan", *WORDS, *own)
    assert planned.status == 0 and "network    tests.networks:vit_16" in planned.out, planned


def test_a_data_set_that_is_built_already(demo, tmp_path, here, forked):
    """100 labelled images to train on, 100 that judge; the run directory is new. One that can't be made is one line."""
    planned = here(fit.main, demo, "--out", tmp_path / "a/run", "--plan", *WORDS)
    assert planned.status == 0 and "recall on the images of test/" in planned.out, planned
    assert (tmp_path / "a/run/fit.yaml").exists() and not (tmp_path / "a/run/shards").exists()
    other = here(fit.main, tmp_path, "--out", tmp_path / "a/run", "--plan", *WORDS)
    assert other.status == 2 and f"belongs to {demo}, not to {tmp_path}: choose another --out" in other.err
    (tmp_path / "file").touch()
    no_folder = here(fit.main, demo, "--out", tmp_path / "file/run", "--plan", *WORDS)
    assert no_folder.status == 2 and "can't be written" in no_folder.err and "Traceback" not in no_folder.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere"], "does not exist"),
        ([".", "--out", "run"], "--out"),
        ([".", "--ranks", "none"], "--ranks"),
        ([".", "--model.weights", "nothing.pth", "--out", "../run"], "model.backbone"),
    ],
)
def test_mistakes_are_one_line(words, said, photos, tmp_path, here, forked, monkeypatch):
    monkeypatch.chdir(photos)
    words = [str(tmp_path / "run") if word == "../run" else word for word in words]
    outcome = here(fit.main, *words)
    assert outcome.status == 2 and said in outcome.err and outcome.err.count("\n") == 1
    assert not os.path.exists("runs") and not os.path.exists("run")
