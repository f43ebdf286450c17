"""The run directory of a `fit`: whose it is, what is refused before anything is built, and its child processes."""

import json
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.common import family
from dist_plm.cli import load_config
from dist_plm.errors import UserError
from dist_plm.fit.asked import Asked
from dist_plm.fit.machine import Machine
from dist_plm.fit.photos import Photos
from dist_plm.fit.record import claim, record
from dist_plm.fit.run import Run
from tests.commands import ROOT, Command
from tests.unit.test_fit import measured

FOLDER = load_config(ROOT / "configs/folder.yaml")


def test_a_run_that_recorded_more_than_was_typed_resumes(tmp_path):
    """Earlier versions recorded the whole section for a folder called `model`."""
    (photos := tmp_path / "model").mkdir()
    section = {f"model.{key}": value for key, value in asdict(FOLDER.model).items() if key != "lora"}
    typed = {"seed": 0, **section, "images": str(photos), "minutes": 10.0}
    (tmp_path / "fit.json").write_text(json.dumps({"typed": typed, "ranks": 2}))
    (tmp_path / "fit.yaml").write_text("model: {dim: 8}\n")
    run = Run(Photos(photos, "folder"), tmp_path, Asked(FOLDER, frozenset({"seed"}), 0, 10.0))
    config, ranks = run._settings("")
    assert config.model.dim == 8 and ranks == 2
    (tmp_path / "checkpoints/step_1").mkdir(parents=True)
    other = replace(FOLDER, model=replace(FOLDER.model, dim=16))
    with pytest.raises(UserError, match=r"started with another model\.dim:"):
        replace(run, asked=replace(run.asked, config=other, given=frozenset({"model.dim"})))._settings("")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("model.backbone", "resnet5", "resnet50"), ("model.weights", "none/resnet50.pth", "none"), ("seed", -1, "seed")],
)
def test_wrong_settings_are_refused_before_anything_is_built(key, value, said, tmp_path):
    model = replace(FOLDER.model, **{key[6:]: value}) if key != "seed" else FOLDER.model
    config = replace(FOLDER, model=model, **({"seed": value} if key == "seed" else {}))
    asked = Asked(config, frozenset({key}), 0, 10.0)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=said):
        Run(Photos(tmp_path / "photos", "folder"), tmp_path / "run", asked).run(plan=True)
    assert not (tmp_path / "run").exists()


def test_settings_that_training_would_refuse_are_not_chosen(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"photos/{number}.png")
    monkeypatch.setattr(Machine, "rehearsal", lambda self, config, ranks: measured(2_000)(config, ranks))
    config = replace(FOLDER, data=replace(FOLDER.data, test_split="valid"))
    config = replace(config, model=replace(config.model, backbone="small", weights=""))
    asked = Asked(config, frozenset({"data.test_split", "model.backbone"}), 0, 10.0)
    with pytest.raises(UserError, match=r"data\.test_split is 'valid'"):
        Run(Photos(tmp_path / "photos", "folder"), tmp_path / "run", asked).run(plan=True)
    assert not (tmp_path / "run/fit.yaml").exists()


def test_a_run_has_the_whole_name_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos.2024", "photos.2025"):
        (tmp_path / name).mkdir()
        assert Photos(Path(name), "folder").default_run() == Path("runs") / name
    (tmp_path / "list.txt").touch()
    assert Photos(Path("list.txt"), "list").default_run() == Path("runs/list")
    record(tmp_path / "runs/photos", {"typed": {"images": str(tmp_path / "photos.2024")}, "ranks": 1})
    assert Photos(Path("photos.2024"), "folder").default_run() == Path("runs/photos")
    assert Photos(Path("photos.2025"), "folder").default_run() == Path("runs/photos.2025")


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_other_images_is_left_alone(finished, tmp_path):
    run = tmp_path / "runs/photos"
    for place in ("a", "b"):
        (tmp_path / place / "photos").mkdir(parents=True)
        Image.new("RGB", (8, 8), "red" if place == "a" else "blue").save(tmp_path / place / "photos/1.png")
    first, other = (Photos(tmp_path / place / "photos", "folder") for place in ("a", "b"))
    if finished:
        first.build(run)
    else:
        (run / "shards/.build").mkdir(parents=True)  # what an interrupted build leaves
        (run / "shards/.build/request.json").write_text("of other images")
        claim(run, first.path)
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match=f"{run} belongs to {first.path}, not to {other.path}: choose another --out"):
        other.build(run)
    assert sorted(run.rglob("*")) == before
    if finished:
        (run / "fit.json").unlink()  # as an earlier version left it
        assert first.build(run) == str(run / "shards")


STARTER = "import sys; from dist_plm.fit.ranks import run_ranks; sys.exit(run_ranks('http.server', ['0']) + 40)"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_child_is_told_of_signals_and_of_the_end_of_its_parent(number):
    starter = Command(["-c", STARTER], PYTHONUNBUFFERED="1")  # else what it serves is printed at its end
    starter.until(lambda: len(family(starter.pid)) == 2 and "Serving" in starter.printed.out)
    (child,) = set(family(starter.pid)) - {starter.pid}
    starter.send(number)
    outcome = starter.wait()
    assert outcome.status == (40 if number == signal.SIGINT else -signal.SIGKILL)  # http.server ends by SIGINT with 0
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)
