"""What other programs rely on: run directory, fields of the events, the command that evaluates, plain output."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_plm import evaluate as evaluation
from dist_plm.cli import load_config
from dist_plm.datasets import build as building
from dist_plm.encoders.networks import locate
from dist_plm.evaluation import protocol
from dist_plm.evaluation.deployment import deployment
from dist_plm.model import Encoder
from tests.commands import Outcome, alone, on_ranks, together
from tests.end_to_end.conftest import STEPS, STEPS_PER_EPOCH, events, tensors

KS = {"1", "2", "4", "8"}


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    return path


def printed(outcome: Outcome) -> list[dict]:
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_layout(finished):
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "plans"} <= {path.name for path in finished.iterdir()}
    assert len(list((finished / "plans").iterdir())) == 3
    kept = {path.name for path in (finished / "checkpoints").iterdir()}
    best = (finished / "checkpoints" / "best").readlink().name
    assert kept == {f"step_{STEPS - 3:08d}", f"step_{STEPS:08d}", "best", best}
    assert load_config(finished / "config.yaml").run_dir == str(finished)


def test_the_best_is_a_link_a_folder_in_a_copy_that_followed_it_or_a_file(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    link, best = finished / "checkpoints" / "best", copy / "checkpoints" / "best"
    expected = deployment(finished, load_config(finished / "config.yaml"))
    assert link.is_symlink() and best.is_dir() and not best.is_symlink()
    for _ in range(2):
        assert locate(best).latest.path.name == locate(link).latest.path.name == link.readlink().name
        choice = deployment(copy, load_config(copy / "config.yaml"))
        assert (choice.step, choice.model) == (expected.step, expected.model)
        shutil.rmtree(best, ignore_errors=True)
        best.write_text(f"{link.readlink().name}\n")


def test_events(finished):
    steps = events(finished, "step")
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    always = {"step", "epoch", "loss", "lr", "images_per_second", "wait_share"}
    plm = {"loss_point", "loss_proxy", "loss_neighbourhood", "neighbourhood_size"}
    assert all(always <= event.keys() for event in steps)
    assert all(plm <= event.keys() for event in steps[STEPS_PER_EPOCH:])
    assert all(0 <= event["wait_share"] <= 1 and event["images_per_second"] > 0 for event in steps)
    for event in steps[STEPS_PER_EPOCH:]:
        weighted = event["loss_point"] + (20_000 * event["loss_proxy"] + 60_000 * event["loss_neighbourhood"]) / 39_800
        assert event["loss"] == pytest.approx(weighted, rel=1e-5)

    evals = events(finished, "eval")
    assert [(event["step"], event["model"]) for event in evals] == [
        (step, model) for step in (0, STEPS_PER_EPOCH, STEPS) for model in ("student", "teacher")
    ]
    for event in evals:
        assert event["recall"].keys() == KS and event["queries"] == 100
        shares = list(event["recall"].values())
        assert shares == sorted(shares) and shares[0] > 0 and shares[-1] <= 1
        assert 0 < event["map_at_r"] < 1 and 0 <= event["nmi"] <= 1
    assert events(finished)[-1] == {"event": "end", "step": STEPS}


def test_evaluate_repeats_the_last_evaluation_on_any_number_of_ranks(run, demo, here):
    told = ("when", "seconds")  # in training alone
    trained = [{k: v for k, v in event.items() if k not in told} for event in events(run, "eval")[-2:]]
    arguments = ("--checkpoint", run, "--shards", demo, "--split", "test")
    for evaluate in (
        lambda: here(evaluation.main, *arguments),
        lambda: together(on_ranks(3, "dist_plm.evaluate", *arguments)),
    ):
        found = printed(evaluate())
        assert [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()] == found
        for event, expected in zip(found, trained, strict=True):
            # A sum over ranks: its last bit depends on their number. Recall is a quotient of counts.
            assert event.pop("map_at_r") == pytest.approx(expected["map_at_r"], rel=1e-12)
            assert event == {key: value for key, value in expected.items() if key != "map_at_r"}
        (run / "evaluation.jsonl").unlink()
    assert not list(run.glob("sweep_*")) and not list(run.rglob("*.tmp"))


def test_classes_agree_by_name_and_no_query_finds_itself(finished, demo, tmp_path, here, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    alone, same = (
        printed(here(evaluation.main, "--checkpoint", run, "--shards", demo, "--split", "test", "--gallery", gallery))
        for gallery in ("", "test")
    )
    assert alone == same

    # Splits of a folder number their own classes: x is 0 in `test` and 1 in `val`, which has no y.
    for split, classes in (("train", "w"), ("val", "wx"), ("test", "xy")):
        for name in classes:
            for shade in (30, 90, 150):
                path = tmp_path / "photos" / split / name / f"{shade}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (shade, 40 * "wxy".index(name), 0)).save(path)
    building.main(["folder", "--source", str(tmp_path / "photos"), "--out", str(tmp_path / "shards")])
    arguments = ("--checkpoint", run, "--shards", tmp_path / "shards", "--split", "test", "--gallery", "val")
    for found in printed(here(evaluation.main, *arguments)):
        assert (found["queries"], found["dropped"]) == (3, 3) and found["recall"]["8"] == 1

    shutil.rmtree(tmp_path / "photos/val/x")
    building.main(["folder", "--source", str(tmp_path / "photos"), "--out", str(tmp_path / "other")])
    monkeypatch.setattr(protocol, "sweep", None)  # known before anything is embedded
    outcome = here(evaluation.main, *arguments[:2], "--shards", tmp_path / "other", *arguments[4:])
    assert outcome.status == 2 and "no class with two images" in outcome.err


def embedded_one_by_one(run: Path, demo: Path, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of the test split, read with tarfile, resized and cropped with Pillow, one at a time."""
    network = Encoder(load_config(run / "config.yaml").model)
    mine = {k.removeprefix(f"{model}."): v for k, v in tensors(run).items() if k.startswith(f"{model}.")}
    network.load_state_dict(mine)
    network.eval()
    vectors, labels = [], []
    for path in sorted(demo.glob("test-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(".json"):
                    labels.append(json.loads(data)["label"])
                    continue
                image = Image.open(io.BytesIO(data)).resize((20, 20), Image.Resampling.BILINEAR).crop((2, 2, 18, 18))
                with torch.inference_mode():
                    vectors.append(network(torch.from_numpy(np.array(image).transpose(2, 0, 1)[None]))[0].numpy())
    return np.array(vectors, dtype=np.float64), np.array(labels)


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_recall_is_what_counting_gives(finished, demo, model):
    """Resize and crop in two steps differ from the view's one by a level of 255 here and there, and embeddings by
    2.5e-3: a query whose nearest of its class and of another are closer to each other than twice that may go either
    way, and must be rare."""
    vectors, labels = embedded_one_by_one(finished, demo, model)
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    same = labels[:, None] == labels[None]
    margin = np.where(same, np.inf, distance).min(axis=1) - np.where(same, distance, np.inf).min(axis=1)
    hits, either = int((margin > 5e-3).sum()), int((abs(margin) <= 5e-3).sum())
    reported = next(event for event in reversed(events(finished, "eval")) if event["model"] == model)
    assert hits <= round(reported["recall"]["1"] * len(labels), 9) <= hits + either and either <= 7


def test_output_without_a_terminal_is_plain_lines(tmp_path, tiny, run, demo):
    outcomes = [
        alone("dist_plm.train", "--config", tiny, "--run_dir", tmp_path / "new", "--train.max_steps", 2).wait(),
        alone("dist_plm.evaluate", "--checkpoint", run).wait(),
        together(on_ranks(1, "dist_plm.train", "--config", tiny, "--plan")),
    ]
    for outcome in outcomes:
        assert outcome.status == 0, outcome.err
        assert "\x1b" not in outcome.out + outcome.err and "\r" not in outcome.out + outcome.err
        assert "Warning" not in outcome.err
    assert "R@1" in outcomes[0].err and outcomes[0].out == ""
    assert [json.loads(line)["model"] for line in outcomes[1].out.splitlines()] == ["student", "teacher"]
