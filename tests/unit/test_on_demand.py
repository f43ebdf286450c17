"""The demo's data set is built by the first rank when it is missing, and nothing else ever is."""

import threading

import pytest

from dist_plm.config import DataConfig
from dist_plm.data.format import Manifest
from dist_plm.datasets import on_demand
from dist_plm.errors import UserError


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_demand, "IMAGES", 8)
    monkeypatch.setattr(on_demand, "PIXELS", 16)


def as_rank(monkeypatch, rank: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))


def test_the_first_rank_builds_and_says_so(tmp_path, monkeypatch, capsys):
    as_rank(monkeypatch, 0)
    on_demand.build_if_missing(DataConfig(), 60)
    assert Manifest.load(tmp_path / "data/demo").name == "demo"
    assert "data/demo is missing: rendering 8 images" in capsys.readouterr().err
    on_demand.build_if_missing(DataConfig(), 60)
    assert not capsys.readouterr().err


def test_the_others_wait(tmp_path, monkeypatch):
    as_rank(monkeypatch, 1)
    with pytest.raises(UserError, match="did not appear within 0 s on rank 1"):
        on_demand.build_if_missing(DataConfig(), 0.3)
    waiting = threading.Thread(target=on_demand.build_if_missing, args=(DataConfig(), 60))
    waiting.start()
    (tmp_path / "data/demo").mkdir(parents=True)
    (tmp_path / "data/demo/manifest.json").touch()
    waiting.join(30)
    assert not waiting.is_alive()


def test_no_other_data_set_is_made_up(tmp_path):
    on_demand.build_if_missing(DataConfig(shards="data/photos"), 60)
    assert not list(tmp_path.iterdir())
