"""An interrupted embed is resumed by the same network alone, by one command at a time, and with all of its blocks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_plm.config import ModelConfig
from dist_plm.data.remote.spans import StoreFailure
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import RunFailure, UserError
from dist_plm.search_index import build
from dist_plm.search_index.build import Builder
from dist_plm.search_index.embedding import NotFinite
from dist_plm.search_index.images import FolderImages
from tests.unit.test_index_changes import DISPLAY, photos  # noqa: F401
from tests.untrained import untrained


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(build, "BLOCK", 4)


def network(pooling: str = "avg") -> Embedder:
    """The weights are the same for each pooling, which is of several positions."""
    torch.manual_seed(0)
    embedder = untrained(ModelConfig(backbone="small", dim=8, pooling=pooling), resize=32)
    embedder.views.size = 32
    return embedder


def builder(photos: Path, out: Path, embedder: Embedder | None = None, kind: type = FolderImages) -> Builder:  # noqa: F811
    return Builder(kind(photos), embedder or network(), out, 1, World(), DISPLAY)


class Stopping(FolderImages):
    """Images of which the last block can't be reached."""

    error: BaseException = KeyboardInterrupt()

    def read(self, number):
        if number >= 8:
            raise self.error
        return super().read(number)


class Down(Stopping):
    error = StoreFailure("it could not be read for 120 s: rerun the command when the store is available again")


def blocks(out: Path) -> list[str]:
    return sorted(path.name for path in out.with_name(f".{out.name}.tmp").glob("*.npy"))


def test_blocks_of_another_pooling_are_not_taken(photos, tmp_path):  # noqa: F811
    out = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        builder(photos, out, network("avg"), Stopping).build()
    assert len(blocks(out)) == 2
    builder(photos, out, network("max")).build()
    builder(photos, tmp_path / "fresh", network("max")).build()
    builder(photos, tmp_path / "other", network("avg")).build()
    assert np.abs(np.load(tmp_path / "other" / "embeddings.npy") - np.load(out / "embeddings.npy")).max() > 1e-3
    assert np.array_equal(np.load(out / "embeddings.npy"), np.load(tmp_path / "fresh" / "embeddings.npy"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("field, value", [("interpolation", "bicubic"), ("resize", 40), ("size", 16)])
def test_a_network_is_known_by_its_views(field, value):
    other = network()
    setattr(other.views, field, value)
    assert len({network().identity(), other.identity(), network("gem").identity()}) == 3
    assert network().identity() == network().identity()
    object.__setattr__(other := network(), "precision", "bf16")
    assert other.identity() != network().identity()


def test_an_outage_of_the_store_costs_no_finished_block(photos, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "index"
    with pytest.raises(StoreFailure):
        builder(photos, out, kind=Down).build()
    assert len(blocks(out)) == 2
    block, done = Builder._block, []

    def counted(self, numbers, *rest):
        done.append(numbers)
        block(self, numbers, *rest)

    monkeypatch.setattr(Builder, "_block", counted)
    assert builder(photos, out).build()["count"] == 12 and [numbers.start for numbers in done] == [8, 12]


def test_nothing_is_kept_of_embeddings_that_are_not_finite(photos, tmp_path):  # noqa: F811
    broken = network()
    broken.network.head.weight.fill_(np.nan)
    with pytest.raises(NotFinite, match="is not finite"):
        builder(photos, tmp_path / "index", broken).build()
    assert not list(tmp_path.glob(".*"))


def test_two_embeds_do_not_share_a_folder(photos, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "index"
    block, refused = Builder._block, []

    def second(self, numbers, *rest):
        if numbers.start == 8 and not refused:
            with pytest.raises(UserError, match=r"another embed is writing to .*index: wait for it") as error:
                builder(photos, out, network("max")).build()
            refused.append(error)
        block(self, numbers, *rest)

    monkeypatch.setattr(Builder, "_block", second)
    assert builder(photos, out).build()["count"] == 12 and refused
    with pytest.raises(UserError, match="another embed just wrote"):
        builder(photos, out).build()


def test_an_index_is_not_made_of_some_of_its_blocks(photos, tmp_path, monkeypatch):  # noqa: F811
    """As on nodes that don't share the folder."""
    out = tmp_path / "index"
    block = Builder._block

    def losing(self, numbers, *rest):
        block(self, numbers, *rest)
        self._vectors_of(4).unlink(missing_ok=True)

    monkeypatch.setattr(Builder, "_block", losing)
    with pytest.raises(RunFailure, match=r"000000000004.npy is missing: put .* that all nodes share"):
        builder(photos, out).build()
    assert not out.exists() and len(blocks(out)) == 3
    monkeypatch.setattr(Builder, "_block", block)
    summary = builder(photos, out).build()
    assert (summary["count"], summary["unreadable"]) == (12, 1)
    assert len({json.loads(line)["name"] for line in (out / "images.jsonl").read_text().splitlines()}) == 12
