"""Configurations that no method can train with are refused before anything starts, with the key and the mend."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from dist_plm.config import (
    Config,
    DataConfig,
    ManifoldConfig,
    ModelConfig,
    ProxiesConfig,
    PseudoLabelsConfig,
    RuntimeConfig,
    TrainConfig,
)
from dist_plm.config.fields import rules_of
from dist_plm.errors import UserError
from dist_plm.methods import METHODS, check_method


class Labels:
    """A store as the checks see it."""

    labels = np.array([0, 0, 1, -1])

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "Labels":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __len__(self) -> int:
        return len(self.labels)


def config(method: str, **sections: object) -> Config:
    return Config(train=TrainConfig(method=method), data=DataConfig(shards="data"), **sections)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (config("stml"), "model.wide_dim is 0: set it to 1024"),
        (config("plm", model=ModelConfig(wide_dim=4)), "model.wide_dim 4 is a head that train.method plm"),
        (config("pseudo_labels", pseudo_labels=PseudoLabelsConfig(clusters=5)), "pseudo_labels.clusters is 5.* 2 to 4"),
    ],
)
def test_refused(case: Config, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("proxy_anchor", "pseudo_labels"):
        monkeypatch.setattr(f"dist_plm.methods.{module}.open_split", Labels)
    with pytest.raises(UserError, match=told):
        check_method(case)


def test_a_result_that_depends_on_the_ranks_is_not_called_reproducible() -> None:
    case = config("plm", manifold=ManifoldConfig(scope="rank"), runtime=RuntimeConfig(strategy="reproducible"))
    check_method(case, 1)
    with pytest.raises(UserError, match=r"manifold\.scope rank makes it depend on their number"):
        check_method(case, 2)
    check_method(replace(case, runtime=RuntimeConfig()), 2)


@pytest.mark.parametrize(
    "sections",
    [
        {"proxies": ProxiesConfig(start="data")},
        {"manifold": {"scope": "gallery"}},
        {"proxies": ProxiesConfig(count=0, start="data")},
    ],
)
def test_neighbours_among_the_images_exist(sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a batch has more points than there are images: 200 here, of 100 images."""
    split = SimpleNamespace(splits={"train": SimpleNamespace(samples=100)})
    for module in ("plm", "manifold_checks"):
        monkeypatch.setattr(f"dist_plm.methods.{module}.manifest_of", lambda _: split)
    others = {name: section for name, section in sections.items() if name != "manifold"}
    for k in (99, 100):
        case = config("plm", manifold=ManifoldConfig(k=k, **sections.get("manifold", {})), **others)
        if k == 99 or not others.get("proxies", case.proxies).count:
            check_method(case)
            continue
        with pytest.raises(UserError, match=r"manifold\.k 100 neighbours don't exist among the 100 images"):
            check_method(case)


def test_what_depends_on_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("proxy_anchor", "pseudo_labels"):
        monkeypatch.setattr(f"dist_plm.methods.{module}.open_split", Labels)
    for case in (config("dada"), config("proxy_anchor"), config("stml", model=ModelConfig(wide_dim=8))):
        check_method(case)
    monkeypatch.setattr(Labels, "labels", np.full(4, -1))
    with pytest.raises(UserError, match=r"learns from labels, and split 'train' of data has 0 classes"):
        check_method(config("dada"))
    monkeypatch.setattr(Labels, "labels", np.zeros(20_001))
    with pytest.raises(UserError, match="at most 20000 images, data has 20001: set it to k_means"):
        check_method(config("pseudo_labels", pseudo_labels=PseudoLabelsConfig(clustering="ward")))
    check_method(config("pseudo_labels"))


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_along_are_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_plm.cli import load_config

    for module in ("proxy_anchor", "pseudo_labels"):
        monkeypatch.setattr(f"dist_plm.methods.{module}.open_split", Labels)
    loaded = load_config(path)
    check_method(replace(loaded, pseudo_labels=PseudoLabelsConfig(clusters=3)))


def test_every_method_of_the_schema_is_registered():
    assert METHODS.keys() == set(get_args(get_type_hints(TrainConfig)["method"]))
    assert {method for section in fields(Config) for method in rules_of(section).methods} <= METHODS.keys()
