"""Every line of docs/ablations.md is a configuration that parses, passes the checks and takes two steps."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from dist_plm.checks import check
from dist_plm.cli import config_of, config_parser
from dist_plm.config import Config
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.training.learner import Learner, phases

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = re.findall(r"^\|.*?\| `(--.*?)` \|", (ROOT / "docs" / "ablations.md").read_text(), re.MULTILINE)
SMALL = "--model.backbone small --model.dim 16 --views.size 16 --views.resize 20 --runtime.device cpu --data.workers 1"
SMALL += " --train.precision fp32"  # the shipped `auto` would differ from CPU to CPU


@cache
def parser() -> ArgumentParser:
    """Made once: it takes a tenth of a second, for each of a hundred configurations."""
    return config_parser("train", "")


def configure(folder: Path, override: str) -> Config:
    arguments = f"--config {ROOT / 'configs/cub200.yaml'} --data.shards {folder} {SMALL} {override}".split()
    return config_of(parser(), parser().parse_args(arguments))


def two_steps(config: Config) -> tuple[Learner, list[float]]:
    learner, losses = Learner(config, World(), phases(config)[0]), []
    images, size = config.batch.images, config.views.size
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        shape = (images * config.views.count, 3, size, size)
        views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        losses.append(float(learner.step(Batch(step, torch.arange(images), views), step, 1000).loss.share))
    return learner, losses


def test_the_page_has_its_lines():
    assert len(OVERRIDES) == len(set(OVERRIDES)) == 48
    named = " ".join(OVERRIDES)
    for value in ("threshold 0", "similarity binary", "count 500", "dim 7", "n_alpha 6", "delta 0.2", "group_size 1"):
        assert value in named


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_line_trains(override, tiny_split, tmp_path):
    tiny_split((60, 60))
    tiny_split((30,), split="test")
    config = configure(tmp_path, override)
    if override != "--manifold.similarity graded":  # the base, written out
        assert config != configure(tmp_path, "")
    check(config, 1)
    learner, losses = two_steps(config)
    assert torch.isfinite(torch.tensor(losses)).all()
    moved = [
        bool((mine != first).any()) for mine, first in zip(learner.student.parameters(), fresh(config), strict=True)
    ]
    assert any(moved) and not learner.skipped.take()[1]


def fresh(config: Config):
    return Learner(config, World(), phases(config)[0]).student.parameters()


def test_no_momentum_is_no_second_network(tiny_split, tmp_path):
    tiny_split((60, 60))
    learner, _ = two_steps(configure(tmp_path, "--model.momentum 0"))
    for mine, theirs in zip(learner.student.parameters(), learner.teacher.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
