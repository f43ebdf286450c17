"""Labels are looked at, in training and by the command, and nothing that is learnt depends on them."""

import json
import shutil

import numpy as np
import pytest
import torch

from dist_plm import export
from dist_plm.supervision import __main__ as supervision
from tests.end_to_end.conftest import STEPS_PER_EPOCH, events, refused, tensors, train

LIVE = {"label_purity", "label_purity_control", "positives_attracted", "negatives_attracted"}


def test_training_says_how_good_its_supervision_is(finished):
    steps = events(finished, "step")
    for event in steps[STEPS_PER_EPOCH:]:  # after the warm-up
        assert event.keys() >= LIVE and all(0 <= event[name] <= 1 for name in LIVE)
    assert not LIVE & steps[0].keys()


def test_other_labels_train_the_same_network(finished, demo, tiny, tmp_path):
    shuffled = tmp_path / "demo"
    shutil.copytree(demo, shuffled)
    labels = np.load(shuffled / "train.labels.npy")
    np.save(shuffled / "train.labels.npy", np.random.default_rng(0).permutation(labels))
    train(2, tiny, tmp_path / "run", "--data.shards", shuffled)
    first, second = tensors(finished), tensors(tmp_path / "run")
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert events(finished, "step")[-1]["label_purity"] != events(tmp_path / "run", "step")[-1]["label_purity"]


def test_the_command_on_a_run(finished, here, tmp_path):
    arguments = ["--checkpoint", finished, "--batches", 2, "--sweeps", tmp_path, "--out", tmp_path / "table.json"]
    outcome = here(supervision.main, *arguments)
    assert outcome.status == 0, outcome.err
    result = json.loads(outcome.out)
    assert json.loads((tmp_path / "table.json").read_text()) == result
    names = {"distance", "k-means", "hierarchical", "random walk", "plm", "gallery", "projected"}
    assert set(result["methods"]) == names
    for row in result["methods"].values():
        assert row["all"]["pairs"] == 100 * 99 and row["batches"]["pairs"] == 2 * 20 * 19
        assert 0 < row["all"]["purity"] <= 1 and 0 < row["all"]["purity_control"] <= 1
    assert 0 < result["proxies"]["used"] <= 1 and "hierarchical" in outcome.err
    swept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("ids_*.npy")}
    again = here(supervision.main, *arguments)
    assert json.loads(again.out) == result
    assert swept and swept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("ids_*.npy")}


def test_an_export_is_judged_as_its_run(finished, demo, here, tmp_path):
    out = tmp_path / "export"
    assert here(export.main, "--checkpoint", finished, "--model", "teacher", "--out", out).status == 0
    # Of the run's configuration, which an export lacks. In passes of 128 images instead of 16 the embeddings differ by
    # their rounding, and correlations by up to 3.4e-8; with two threads instead of one, by 5e-15.
    settings = ("--manifold.n_alpha", 4, "--evaluation.batch_size", 16, "--runtime.threads", 1)
    of_run, of_export = (
        json.loads(here(supervision.main, "--checkpoint", path, "--shards", demo, *settings).out)
        for path in (finished, out)
    )
    for name, row in of_run["methods"].items():  # batches are laid out by the configuration
        assert row["all"] == of_export["methods"][name]["all"]
    assert of_run["proxies"] and of_export["proxies"] is None
    refused(here(supervision.main, "--checkpoint", out), "--shards")


def test_without_a_run_its_start_is_judged(tiny, here):
    outcome = here(supervision.main, "--config", tiny, "--batches", 1)
    result = json.loads(outcome.out)
    assert result["images"] == 100 and result["proxies"] is None and "plm" in result["methods"]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--batches", "0"], "--batches"),
        (["--batches", "x"], "python -m dist_plm.supervision: argument --batches: invalid int value: 'x'"),
        (["--manifold.similarity", "fuzzy"], "similarity"),
        (["--model.head_start", "pca"], "model.head_start pca"),
        (["--loss.relative", "true"], "--loss.relative false"),
        (["--clusters", "101"], "--clusters 101: split 'test' has 100 images"),
        (["--out", "/no/folder/table.json"], "there is no folder /no/folder"),
    ],
)
def test_wrong_use_is_one_line(here, demo, arguments, told):
    outcome = here(supervision.main, "--shards", demo, *arguments)
    assert outcome.status == 2 and told in outcome.err and len(outcome.err.splitlines()) == 1


def test_a_table_that_cannot_be_kept_was_printed(tmp_path, tiny, here, monkeypatch):
    monkeypatch.setattr(supervision, "_judge", lambda *_: {"event": "supervision"})
    monkeypatch.setattr("dist_plm.supervision.display.show", lambda _: None)
    outcome = here(supervision.main, "--config", tiny, "--out", tmp_path)
    assert outcome.status == 1 and json.loads(outcome.out) == {"event": "supervision"}
    assert outcome.err == f"error: --out {tmp_path} can't be written (Is a directory): see the output\n"
