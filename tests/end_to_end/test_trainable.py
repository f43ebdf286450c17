"""Runs of which only a part trains, on views made anew or once: resumed to the bit, the same on two ranks, exported."""

from dist_plm import evaluate as evaluation
from dist_plm import export as exporting
from dist_plm import train as training
from dist_plm.encoders.networks import load_network, locate
from tests.end_to_end.conftest import STEPS, events, tensors, train

PART = ("--model.trainable", "blocks:1", "--views.cached", "2", "--model.head_start", "whitened")


def losses(run):
    return {event["step"]: event["loss"] for event in events(run, "step")}


def test_stopped_and_resumed_on_cached_views_it_ends_the_same(tmp_path, tiny, here):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert here(training.main, "--config", tiny, "--run_dir", whole, *PART).status == 0
    for steps in (9, 0):  # between two checkpoints of the second epoch; to the end
        line = ("--config", tiny, "--run_dir", parts, *PART, "--train.max_steps", steps)
        assert here(training.main, *line).status == 0
    assert len(losses(whole)) == STEPS and losses(parts) == losses(whole)
    found, expected = tensors(parts), tensors(whole)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())
    # Features are computed once: three views of the training images, the evaluation view of the test images.
    folders = {folder.name.partition("_")[2] for folder in (whole / "features").iterdir()}
    assert folders == {"view0", "view1", "eval"}
    start = {event["model"]: event["recall"] for event in events(whole, "eval") if event["when"] == "start"}
    assert "frozen" not in start, "random weights are no baseline"

    frozen = "student.backbone.stem.weight"
    assert frozen in expected and "teacher.backbone.stem.weight" not in expected
    assert not any(name.startswith("optimiser.student.backbone.stem") for name in expected)
    teacher = load_network(locate(whole), "teacher")
    assert teacher.network.backbone.stem.weight.equal(expected[frozen])

    outcome = here(evaluation.main, "--checkpoint", whole)
    last = [event for event in events(whole, "eval") if event["when"] == "end of plm"]
    assert f'"1": {last[0]["recall"]["1"]}' in outcome.out, "from images the same as from features"
    out = tmp_path / "export"
    assert here(exporting.main, "--checkpoint", whole, "--out", out, "--format", "onnx").status == 0


def test_two_ranks_train_on_cached_views_as_one(tmp_path, tiny):
    runs = {}
    for ranks in (1, 2):
        runs[ranks] = tmp_path / f"ranks_{ranks}"
        train(ranks, tiny, runs[ranks], *PART, "--train.precision", "fp64", "--train.max_steps", "9")
    assert losses(runs[1]).keys() == losses(runs[2]).keys()
    assert all(abs(value - losses(runs[2])[step]) <= 1e-9 * abs(value) for step, value in losses(runs[1]).items())
