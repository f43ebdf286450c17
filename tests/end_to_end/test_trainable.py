"""Runs of which only a part trains, on views made anew or once: resumed to the bit, the same on two ranks, exported."""

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from dist_plm import evaluate as evaluation
from dist_plm import export as exporting
from dist_plm import train as training
from dist_plm.encoders.networks import load_network, locate
from tests.commands import killed, on_ranks
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


def test_cached_features_of_another_pooling_are_not_used(tmp_path, tiny, here):
    """Where the head alone is trained, features are pooled, and runs may share a cache; `reproducible` lays a batch out
    in pieces, an evaluation is of other sizes."""
    part = ("--model.trainable", "head", "--views.cached", 2, "--runtime.strategy", "reproducible", "--model.pooling")
    short, shared = ("--warm_up.epochs", 0, "--train.max_steps", 2), ("--data.cache_dir", tmp_path / "cache")
    for run, line in {"first": ("avg", *shared), "second": ("avg_max", *shared), "alone": ("avg_max",)}.items():
        assert here(training.main, "--config", tiny, "--run_dir", tmp_path / run, *part, *line, *short).status == 0
    found, expected = ([e["recall"] for e in events(tmp_path / run, "eval")] for run in ("second", "alone"))
    assert found == expected and losses(tmp_path / "second") == losses(tmp_path / "alone")


def test_a_head_is_fitted_to_a_part_that_zero_holds(tmp_path, tiny):
    part = ("--model.trainable", "blocks:1", "--model.head_start", "whitened", "--warm_up.epochs", 0)
    runs = {}
    for name, strategy in {"ddp": (), "zero": ("--runtime.strategy", "deepspeed", "--runtime.zero.stage", 2)}.items():
        runs[name] = tmp_path / name
        train(1, tiny, runs[name], *part, *strategy, "--train.max_steps", 1)
    assert losses(runs["zero"])[1] == pytest.approx(losses(runs["ddp"])[1], rel=1e-5)


def test_adapters_of_a_transformer_killed_and_resumed_end_the_same_and_are_exported(tmp_path, tiny, here):
    pytest.importorskip("timm")
    pytest.importorskip("peft")
    from tests.networks import vit_16

    pretrained = vit_16().state_dict()
    save_file(pretrained, tmp_path / "vit.safetensors")
    network = ("--model.backbone", "tests.networks:vit_16", "--model.weights", tmp_path / "vit.safetensors")
    part = (
        *network,
        "--model.pooling",
        "cls",
        "--model.lora.rank",
        "2",
        "--warm_up.epochs",
        "0",
        "--train.epochs",
        "3",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert here(training.main, "--config", tiny, "--run_dir", whole, *part).status == 0
    ranks = on_ranks(1, "dist_plm.train", "--config", tiny, "--run_dir", parts, *part)
    killed(ranks, lambda: any((parts / "checkpoints").glob("step_*[468]/checkpoint.json")))  # the last step is 15
    assert here(training.main, "--config", tiny, "--run_dir", parts, *part).status == 0
    assert events(parts, "resumed") and losses(parts) == losses(whole)
    found, expected = tensors(parts), tensors(whole)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())

    held = {name.removeprefix("student.backbone.net.").replace(".base_layer.", "."): value
            for name, value in expected.items() if name.startswith("student.backbone.net.")}  # fmt: skip
    assert all(held[name].equal(value) for name, value in pretrained.items()), (
        "what is frozen is the file's, to the bit"
    )
    assert all(name in pretrained or ".lora_" in name for name in held)
    moments = {name for name in expected if name.startswith("optimiser.student.")}
    assert moments and all(".lora_" in name or ".head." in name for name in moments), moments

    code, out = ("--backbone", "tests.networks:vit_16"), tmp_path / "export"
    assert here(exporting.main, "--checkpoint", whole, "--out", out, "--format", "onnx", *code).status == 0
    views = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (exported,) = onnxruntime.InferenceSession(out / "model.onnx").run(None, {"images": views.numpy()})
    np.testing.assert_allclose(exported, load_network(locate(whole)).embed(views).numpy(), atol=1e-5)
