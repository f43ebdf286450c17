"""The bench of the reproduction, end to end on made-up maps: what it trains, records, and does not repeat."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from benchmarks.reproduction import run, table
from benchmarks.reproduction.cut import BLOCKS, above, below, insert_batch_norm
from benchmarks.reproduction.experiment import Experiment
from benchmarks.reproduction.features import Features
from benchmarks.reproduction.stml_readings import READINGS
from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, ProxiesConfig, TrainConfig, WarmUpConfig
from dist_plm.evaluation import recall_at_k
from dist_plm.model.batch_norm import convert_batch_norm
from dist_plm.model.bvlc_googlenet import BvlcGooglenet

CLASSES, EACH, CROPS, CHANNELS = 4, 8, 2, 1024
BASE = (
    "--views.size 112 --model.backbone bvlc_googlenet --warm_up.epochs 0 "
    "--model.dim 8 --batch.groups 2 --batch.group_size 4 --proxies.count 5 --manifold.k 5 "
    "--train.max_steps 12 --cut head --evaluate_every 4 --runtime.device cpu"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Maps of classes that are blobs, of two splits with classes of their own."""
    folder, draw = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)
    (folder / "head").mkdir()
    for split in ("train", "test"):
        labels = np.arange(CLASSES).repeat(EACH)
        images = (draw.normal(size=(CLASSES, CHANNELS))[labels] + draw.normal(size=(len(labels), CHANNELS))).clip(0)
        np.save(folder / "head" / f"{split}.npy", images[:, :, None, None].astype(np.float16))
        np.save(folder / f"{split}_labels.npy", labels.astype(np.int32))
        if split == "train":
            crops = images[:, None] + 0.3 * draw.normal(size=(len(images), CROPS, CHANNELS))
            np.save(folder / "head" / "crops.npy", crops[..., None, None].astype(np.float16))
    return folder


def config(method: str, **model) -> Config:
    return Config(
        model=ModelConfig(backbone="bvlc_googlenet", dim=8, **model),
        batch=BatchConfig(groups=2, group_size=4),
        manifold=ManifoldConfig(k=5),
        proxies=ProxiesConfig(count=5),
        train=TrainConfig(method=method, max_steps=8),
        warm_up=WarmUpConfig(epochs=0),
    )


@pytest.mark.parametrize("method", ["plm", "stml", "instance", "neighbour_contrast", "proxy_anchor", "pseudo_labels"])
def test_every_method_trains_the_head_alone(cache, method):
    case = config(method, wide_dim=16 if method == "stml" else 0)
    case.pseudo_labels.clusters = 4
    experiment = Experiment(case, Features.load(cache, "head"), "head", 4)
    before = [value.clone() for value in experiment.learner.student.parameters()]
    course = experiment.run()
    assert [entry["step"] for entry in course] == [0, 4, 8]
    after = [*experiment.learner.student.parameters()]
    assert len(after) == len(before) <= 4 and all((a != b).any() for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_of_stml_trains_otherwise_from_the_same_student(cache, reading):
    def trained(*readings: str) -> list[torch.Tensor]:
        experiment = Experiment(config("stml", wide_dim=16), Features.load(cache, "head"), "head", 4, readings=readings)
        assert experiment.run()[0]["student"] == start
        return list(experiment.learner.student.parameters())

    start = Experiment(config("stml", wide_dim=16), Features.load(cache, "head"), "head", 4).run()[0]["student"]
    assert any((a != b).any() for a, b in zip(trained(), trained(reading), strict=True))


def test_readings_of_stml_do_what_they_are_called(cache):
    def learner(reading: str):
        experiment = Experiment(
            config("stml", wide_dim=16), Features.load(cache, "head"), "head", 4, readings=(reading,)
        )
        return experiment, experiment.learner

    def first_step(experiment: Experiment) -> None:
        experiment.learner.step(next(experiment._epoch(0)), 0, 8)

    experiment, subject = learner("average_first")  # the student still is what the teacher was copied from
    before = copy.deepcopy(subject.teacher.encoder.state_dict())
    first_step(experiment)
    assert all(torch.equal(before[name], value) for name, value in subject.teacher.encoder.state_dict().items())
    assert any((before[name] != value).any() for name, value in subject.student.state_dict().items())

    experiment, subject = learner("unnormalised")
    maps = torch.from_numpy(experiment.features.test[:5].astype(np.float32))
    heads = subject.student.train()
    pooled = heads.pooled(maps)
    raw = torch.cat([heads.head(pooled), heads.wide_head(pooled)], dim=1)
    torch.testing.assert_close(heads(maps), raw)
    torch.testing.assert_close(heads.eval()(maps)[:, 8:], nn.functional.normalize(raw[:, 8:]))

    _, subject = learner("teacher_heads")
    own, copied = subject.teacher.encoder.head.weight, subject.student.head.weight
    torch.testing.assert_close(own @ own.mT, torch.eye(8))
    assert (own @ copied.mT - torch.eye(8)).abs().max() > 0.5

    _, subject = learner("adamp")
    assert type(subject.strategy.updates.network).__name__ == "AdamP"


def test_the_start_is_judged_on_the_test_maps(cache):
    experiment = Experiment(config("plm"), features := Features.load(cache, "head"), "head", 8)
    start = experiment.run()[0]["student"]
    maps = torch.from_numpy(features.test.astype(np.float32))
    weight = torch.linalg.qr(torch.randn(8, 8)).Q  # any rotation of the embedding has the same neighbours
    again = Experiment(config("plm"), features, "head", 8).learner.student.head
    z = torch.nn.functional.normalize(maps[:, :, 0, 0] @ (2 * again.weight.detach()).T) @ weight
    expected = recall_at_k(z, torch.from_numpy(features.test_labels), (1, 2, 4, 8))
    assert 0 < start.pop("map_at_r") <= 100
    assert start == {str(k): pytest.approx(100 * share, abs=1e-3) for k, share in expected.items()}


def test_views_are_different_crops_of_the_images_asked_for(cache):
    experiment = Experiment(config("plm"), features := Features.load(cache, "head"), "head", 8)
    ids = np.array([5, 0, 17])
    views = experiment._views(ids, epoch=2).reshape(3, 2, CHANNELS).numpy().astype(np.float16)
    for id, (first, second) in zip(ids, views, strict=True):
        cached = [*features.crops[id, :, :, 0, 0], features.train[id, :, 0, 0]]
        rows = [[np.array_equal(view, each) for each in cached] for view in (first, second)]
        assert [sum(row) for row in rows] == [1, 1] and rows[0] != rows[1]


def test_lines_are_written_once_and_read_as_a_table(cache, tmp_path, monkeypatch, capsys):
    settings, results = tmp_path / "tiny.yaml", tmp_path / "results.jsonl"
    settings.write_text(yaml.safe_dump({"base": BASE, "settings": {"plain": "", "slow": "--optimiser.lr 1e-9"}}))
    arguments = ["run", "--cache", str(cache), "--settings", str(settings), "--results", str(results)]
    monkeypatch.setattr("sys.argv", [*arguments, "--seeds", "0"])
    run.main()
    first = results.read_text()
    monkeypatch.setattr("sys.argv", [*arguments, "--seeds", "0", "1"])
    run.main()
    assert results.read_text().startswith(first)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(line["setting"], line["seed"]) for line in lines] == [("plain", 0), ("slow", 0), ("plain", 1), ("slow", 1)]
    assert [entry["step"] for entry in lines[0]["course"]] == [0, 4, 8, 12]
    slow = lines[1]["course"]
    assert slow[0]["student"] == slow[-1]["student"]
    monkeypatch.setattr("sys.argv", ["table", "--results", str(results)])
    capsys.readouterr()
    table.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| slow"))
    starts = [line["course"][0]["student"]["1"] for line in (lines[1], lines[3])]
    assert f"{np.mean(starts):.2f}" in row and f"{np.std(starts, ddof=1):.2f}" in row


@pytest.mark.parametrize("cut", BLOCKS)
def test_below_and_above_are_the_network(cut):
    torch.manual_seed(0)
    network = BvlcGooglenet().eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        maps = below(network)(images)
        for name in BLOCKS[: BLOCKS.index(cut)]:
            maps = getattr(network, name)(maps)
        torch.testing.assert_close(above(network, cut)(maps), network(images))


def test_inserted_batch_norm_changes_nothing_until_it_learns():
    torch.manual_seed(0)
    network = BvlcGooglenet().eval()
    maps = torch.rand(6, 832, 4, 4)
    plain = above(network, "inception_5b")(maps)
    normed = above(network, "inception_5b")
    insert_batch_norm(normed, [maps[:3], maps[3:]])
    layers = [layer for layer in normed.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(layers) == 6 and all(layer.num_batches_tracked == 2 for layer in layers)
    torch.testing.assert_close(normed.eval()(maps), plain)
    frozen = convert_batch_norm(copy.deepcopy(normed), "frozen").train()
    torch.testing.assert_close(frozen(maps), plain)
    # As the statistics are those of these maps, normalising by the batch's own changes little.
    assert 0 < (normed.train()(maps) - plain).abs().mean() < 0.2 * plain.abs().mean()
