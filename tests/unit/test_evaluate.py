"""What `dist_plm.evaluate` evaluates by the settings of a run and the options of its command line."""

import sys
from types import SimpleNamespace

import pytest

from dist_plm import evaluate
from dist_plm.config import Config, DataConfig

RUN = SimpleNamespace(
    path="run", config=Config(data=DataConfig(shards="x", test_split="query", gallery_split="gallery"))
)


@pytest.mark.parametrize(
    ("options", "searched"),
    [
        ("", ("query", "gallery")),
        ("--split query", ("query", "gallery")),
        ("--split train", ("train", "")),  # whose classes the gallery of the test split does not have
        ("--split train --gallery gallery", ("train", "gallery")),
        ("--gallery=", ("query", "")),
    ],
)
def test_the_gallery_of_a_run_is_that_of_its_test_split(monkeypatch, options, searched):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--checkpoint", "run", *options.split()])
    data = evaluate._config(RUN, evaluate._parse()).data
    assert (data.test_split, data.gallery_split) == searched
