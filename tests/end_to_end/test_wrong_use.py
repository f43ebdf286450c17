"""Mistakes of a person: status 2, what is wrong in three lines at most, no traceback, and nothing is created."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from dist_plm import evaluate as evaluation
from dist_plm import train as training
from dist_plm.datasets import build as building
from dist_plm.datasets import verify as verifying
from tests.commands import alone
from tests.end_to_end.conftest import contents, refused

WRONG_VALUES = {
    "unknown key": ("--manifold.kk", "5", "manifold.kk"),
    "unknown section": ("--wether.k", "5", "wether.k"),
    "not a number": ("--manifold.k", "many", "manifold.k"),
    "not one of the choices": ("--optimiser.name", "lion", "optimiser.name"),
    "negative rate": ("--optimiser.lr", "-1e-3", "optimiser.lr"),
    "infinite rate": ("--optimiser.lr", ".inf", "optimiser.lr"),
    "a weight that is no number": ("--loss.point", ".nan", "loss.point"),
    "no temperature": ("--warm_up.temperature", "0", "warm_up.temperature"),
    "negative rate of the warm-up": ("--warm_up.lr", "-1", "warm_up.lr"),
    "a wait without end": ("--runtime.timeout_seconds", "1e12", "runtime.timeout_seconds"),
    "a seed beyond 64 bits": ("--seed", "99999999999999999999", "seed"),
    "a seed beyond those of faiss": ("--seed", "2147483648", "2147483647 at most"),
    "no K": ("--evaluation.ks", "[]", "evaluation.ks is []"),
    "K of nothing": ("--evaluation.ks", "[0, 1]", "evaluation.ks"),
    "no train split": ("--data.train_split", "", "data.train_split"),
    "no cells": ("--index.factory", "IVF0,Flat", "has no cells"),
    "negative epochs": ("--warm_up.epochs", "-1", "warm_up.epochs"),
    "negative seed": ("--seed", "-1", "seed"),
    "no epochs": ("--train.epochs", "0", "train.epochs"),
    "momentum above 1": ("--model.momentum", "1.5", "model.momentum"),
    "threshold above 1": ("--manifold.threshold", "2", "manifold.threshold"),
    "empty crop": ("--views.scale", "[0.0, 1.0]", "views.scale"),
    "crop larger than the image": ("--views.size", "32", "views.resize"),
    "k not above m": ("--manifold.k", "3", "manifold.k"),
    "k above all points": ("--manifold.k", "40", "manifold.k"),
    "m above D": ("--model.dim", "2", "manifold.dim"),
    "one view to tell apart": ("--views.count", "1", "views.count"),
    "batch above the data": ("--batch.groups", "400", "100 images"),
    "no such shards": ("--data.shards", "nowhere", "nowhere"),
    "no such train split": ("--data.train_split", "trian", "data.train_split"),
    "no such test split": ("--data.test_split", "tset", "data.test_split"),
    "no such gallery split": ("--data.gallery_split", "galery", "data.gallery_split"),
    "near miss of a backbone": ("--model.backbone", "resnet55", "did you mean"),
    "no such weights": ("--model.weights", "gone.safetensors", "gone.safetensors"),
    "weights of no known kind": ("--model.weights", "weights.zip", "weights.zip"),
    "ImageNet weights of a network that has none": ("--model.weights", "imagenet", "model.weights"),
    "an index that faiss can't read": ("--index.factory", "IVF16,Quick", "IVF16,Quick"),
    "codes that don't divide the dimension": ("--index.factory", "IVF16,PQ7", "divides the dimension"),
    "an index without cells": ("--index.factory", "HNSW32", "inverted file"),
    "cells above the images": ("--index.factory", "IVF999,Flat", "999 training images"),
    "an index that fits no rank": ("--index.memory_gb", "1e-6", "index.memory_gb"),
    "more cells than the most": ("--index.nprobe", "300", "index.nprobe_max"),
    "recall above 1": ("--index.recall_floor", "95", "index.recall_floor"),
    "a negative speed": ("--images_per_second", "-5", "--images_per_second"),
    "no such configuration": ("--config", "gone.yaml", "gone.yaml"),
}


@pytest.mark.parametrize("mistake", WRONG_VALUES)
def test_wrong_values(mistaken, mistake):
    key, value, named = WRONG_VALUES[mistake]
    mistaken(named, key, value)


@pytest.mark.parametrize("text", ["manifold: {k: 5", "- a\n- list\n", "manifold: 5\n", "\x00", "a: " + "[" * 20_000,
                                  "a: " + "[" * 20_000 + "]" * 20_000])  # fmt: skip
def test_a_broken_configuration(mistaken, tmp_path, text):
    (tmp_path / "broken.yaml").write_text(text)
    mistaken("broken.yaml" if "manifold: 5" not in text else "manifold", "--config", "broken.yaml")


def test_a_key_that_stands_twice(mistaken, tmp_path):
    (tmp_path / "twice.yaml").write_text("batch: {groups: 4}\nbatch: {group_size: 5}\n")
    mistaken("twice.yaml: line 2: batch is a duplicate key", "--config", "twice.yaml")
    (tmp_path / "twice.yaml").write_text("batch: {groups: 4, group_size: 5, groups: 2}\n")
    mistaken("twice.yaml: line 1: batch.groups is a duplicate key", "--config", "twice.yaml")


def test_a_configuration_from_a_pipe(tiny, here):
    read, write = os.pipe()
    os.write(write, tiny.read_bytes())
    os.close(write)
    piped, named = (here(training.main, "--config", path, "--print_config") for path in (f"/dev/fd/{read}", tiny))
    os.close(read)
    assert piped == named and piped.status == 0, piped


def test_more_ranks_than_images(mistaken):
    mistaken("start 20 ranks at most", WORLD_SIZE="21")


def test_ranks_that_do_not_divide_the_groups_in_scope_rank(mistaken):
    mistaken("start 1, 2, 4 ranks", "--manifold.scope", "rank", WORLD_SIZE="3")


def test_a_control_has_no_scope(mistaken):
    mistaken("manifold.scope", "--train.method", "neighbour_contrast", "--manifold.scope", "rank")


def test_a_world_without_torchrun(mistaken, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    mistaken("torchrun", WORLD_SIZE="2", RANK="0")
    mistaken("RANK not set", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    mistaken("WORLD_SIZE is '0'", WORLD_SIZE="0")


@pytest.mark.parametrize("where", ["run", "file/below"])
def test_a_run_dir_that_can_not_be(mistaken, tmp_path, where):
    (tmp_path / where.partition("/")[0]).write_text("a file")
    mistaken(where, "--run_dir", where)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_truncated_shard(mistaken, tmp_path, demo, split):
    shutil.copytree(demo, tmp_path / "data")
    shard = tmp_path / "data" / f"{split}-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    mistaken(f"{split}-000001.tar", "--data.shards", "data")


@pytest.mark.parametrize("file", ["manifest.json", "train-000000.tar", "train.offsets.npy", "test.labels.npy"])
@pytest.mark.parametrize("harm", ["missing", "garbage"])
def test_a_damaged_data_set(mistaken, tmp_path, demo, file, harm):
    shutil.copytree(demo, tmp_path / "data")
    (tmp_path / "data" / file).unlink()
    if harm == "garbage":
        (tmp_path / "data" / file).write_text('{"format": 1, "splits": 3}')
    mistaken(file, "--data.shards", "data")


def test_weights_of_another_network(mistaken, tmp_path):
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    mistaken("does not fit the backbone", "--model.weights", "other.pth")


def test_weights_that_would_run_code_do_not(mistaken, tmp_path):
    class Code:
        def __reduce__(self) -> tuple:
            return Path.write_text, (tmp_path / "executed", "")

    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code()))
    mistaken("code.pth", "--model.weights", "code.pth")
    torch.save({"stem.weight": Code()}, tmp_path / "code.pt")
    mistaken("code.pt", "--model.weights", "code.pt")
    assert not (tmp_path / "executed").exists()


def test_evaluate(tmp_path, tiny, demo, finished, here):
    empty, run, bare, unlabelled = (tmp_path / name for name in ("empty", "run", "bare", "unlabelled"))
    empty.mkdir()
    shutil.copytree(finished, run)
    bare.mkdir()
    shutil.copy(finished / "config.yaml", bare)
    shutil.copytree(demo, unlabelled)
    labels = unlabelled / "test.labels.npy"
    labels.write_bytes(labels.read_bytes()[: -100 * 4] + b"\xff" * 100 * 4)
    before = contents(tmp_path)
    for named, arguments in {
        "--checkpoint": (),
        "nowhere": ("--checkpoint", tmp_path / "nowhere"),
        str(empty): ("--checkpoint", empty),
        "has no checkpoint": ("--checkpoint", bare),
        "has no labels": ("--checkpoint", run, "--shards", unlabelled),
        "has no split 'tset'": ("--checkpoint", run, "--split", "tset"),
        "has no split 'galery'": ("--checkpoint", run, "--gallery", "galery"),
        "manifest.json is missing": ("--checkpoint", run, "--shards", empty),
        "--shard_size": ("--checkpoint", run, "--shard_size", 3),
    }.items():
        refused(here(evaluation.main, *arguments), named)
        assert contents(tmp_path) == before, named


def test_evaluate_with_no_intact_checkpoint(tmp_path, finished, here):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for summary in run.rglob("checkpoint.json"):
        summary.write_text(json.dumps({"files": {"../../config.yaml": {}}}))
    before = contents(run)
    refused(here(evaluation.main, "--checkpoint", run), "no checkpoint in")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (building.main, ("birds", "--source", ".", "--out", "out"), "birds"),
        (building.main, ("folder", "--source", "nowhere", "--out", "out"), "nowhere"),
        (building.main, ("folder", "--source", "half.tar", "--out", "out"), "half.tar"),
        (building.main, ("demo", "--images", "-3", "--out", "out"), "-3"),
        (building.main, ("demo", "--images", "40", "--size", "3", "--out", "out"), "--size 3"),
        (building.main, ("demo", "--images", "40", "--out", "half.tar"), "half.tar"),
        (verifying.main, (), "folder"),
        (verifying.main, ("nowhere",), "nowhere"),
        (verifying.main, ("half.tar",), "half.tar"),
    ],
)
def test_build_and_verify(tmp_path, demo, monkeypatch, here, command, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.tar").write_bytes((demo / "train-000000.tar").read_bytes()[:3000])
    before = contents(tmp_path)
    refused(here(command, *arguments), named)
    assert contents(tmp_path) == before


def test_as_a_person_meets_them(tmp_path, tiny):
    """The same through the shell, where nothing imported before can hide a traceback."""
    run = tmp_path / "run"
    for named, command in (
        ("manifold.kk", ("dist_plm.train", "--config", tiny, "--run_dir", run, "--manifold.kk", 3)),
        ("nowhere", ("dist_plm.train", "--config", tiny, "--run_dir", run, "--data.shards", "nowhere")),
        ("nowhere", ("dist_plm.evaluate", "--checkpoint", tmp_path / "nowhere")),
    ):
        refused(alone(*command).wait(), named)
        assert not run.exists()
