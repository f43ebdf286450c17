"""The index on W ranks, replicated and cut: the neighbours of a full sort by (distance, id), and those of one rank."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common import on_ranks
from dist_plm.config import BatchConfig
from dist_plm.config.index import IndexConfig
from dist_plm.data.plan import make_plan
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.global_index import GlobalIndex
from dist_plm.index.placement import Placement, place

N, DEPTH = 1_501, 12
SEEDS = np.random.default_rng(5).permutation(N)[:201]


def write(folder: Path, rows: np.ndarray) -> list[Path]:
    """Shards of unlike sizes, the way a sweep leaves them."""
    cuts = np.cumsum([7, 400, 1, 650])
    for number, part in enumerate(np.split(rows, cuts)):
        np.save(folder / f"shard_{number:06d}.npy", part)
    return sorted(folder.glob("shard_*.npy"))


def points(kind: str) -> np.ndarray:
    random = np.random.default_rng(1)
    if kind == "duplicates":  # 40 places for 1,501 images, a quarter of them at one; distances exact in any precision
        places = random.integers(-2, 3, (40, 8)) / 4
        return places[np.where(random.random(N) < 0.25, 0, random.integers(0, 40, N))].astype(np.float32)
    x = random.standard_normal((N, 8)).astype(np.float16)
    return (x / 4).astype(np.float16)


def brute_force(rows: np.ndarray, seeds: np.ndarray, depth: int) -> np.ndarray:
    rows, ids = rows.astype(np.float64), []
    for seed in seeds:
        order = np.lexsort((np.arange(len(rows)), ((rows - rows[seed]) ** 2).sum(1)))
        ids.append(order[order != seed][:depth])
    return np.array(ids)


def searches(world: World, files: list[Path], factory: str, depth: int = DEPTH) -> dict[bool, Any]:
    """Neighbours of the seeds and the plan that rests on them, by both placements."""
    config, found = IndexConfig(factory=factory, nprobe=3, recall_floor=0.0, recall_sample=50), {}
    embeddings = Embeddings(files)
    cells = place(config, N, embeddings.dim, 1).cells
    for sharded in (False, True):
        placement = Placement(sharded, 0, cells)
        with GlobalIndex(embeddings, config, placement, backend="faiss", world=world, seed=0) as index:
            index.guard(0, 5)
            batch = BatchConfig(groups=12, group_size=4)
            plan = make_plan(N, batch=batch, seed=3, epoch=1, neighbours=index.neighbours)
            facts = {key: index.facts.get(key) for key in ("recall", "nprobe")}
            found[sharded] = (index.neighbours(SEEDS, depth), plan, facts)
    return found


@pytest.mark.parametrize("kind", ["duplicates", "scattered"])
def test_both_placements_find_the_neighbours_of_a_full_sort(tmp_path: Path, kind: str) -> None:
    rows = points(kind)
    files, expected = write(tmp_path, rows), brute_force(rows, SEEDS, DEPTH)
    ranks = [searches(World(), files, "Flat")]
    for size in (2, 3, 4):
        ranks += on_ranks(size, tmp_path, searches, files, "Flat")
    plan = ranks[0][False][1]
    for rank in ranks:
        for neighbours, planned, facts in rank.values():
            assert (neighbours == expected).all()
            assert (planned == plan).all()
            assert facts["recall"] is None


@pytest.mark.parametrize("kind", ["duplicates", "scattered"])
@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ1x4"])
def test_an_inverted_file_finds_the_same_on_any_ranks(tmp_path: Path, kind: str, factory: str) -> None:
    rows = points(kind)
    files = write(tmp_path, rows)
    depth = 2  # of 12 candidates by code: with 4 bits for all of a row the ranks have more, and better ones, than one
    ranks = [searches(World(), files, factory, depth), *on_ranks(3, tmp_path, searches, files, factory, depth)]
    neighbours, plan, facts = ranks[0][False]
    exact = brute_force(rows, SEEDS, depth)
    assert kind == "duplicates" or (neighbours != exact).any(), "3 cells of 16 miss nothing: the test shows nothing"
    for rank in ranks:
        for other in rank.values():
            assert (other[0] == neighbours).all() and (other[1] == plan).all() and other[2] == facts


def test_a_seed_with_too_few_candidates_is_searched_for_exactly(tmp_path: Path) -> None:
    rows = points("scattered")
    files = write(tmp_path, rows)
    expected = brute_force(rows, SEEDS, 1_400)
    for rank in [
        searches(World(), files, "IVF16,Flat", 1_400),
        *on_ranks(2, tmp_path, searches, files, "IVF16,Flat", 1_400),
    ]:
        for neighbours, _, _ in rank.values():
            assert (neighbours == expected).all()


def guarded(world: World, files: list[Path], floor: float, most: int) -> tuple[dict[str, Any], str]:
    config = IndexConfig(factory="IVF64,Flat", nprobe=1, nprobe_max=most, recall_floor=floor, recall_sample=300)
    embeddings = Embeddings(files)
    with GlobalIndex(embeddings, config, Placement(True, 0, 64), backend="faiss", world=world, seed=0) as index:
        try:
            index.guard(2, 6)
        except RunFailure as failure:
            return index.facts, str(failure)
        rows, sample = embeddings.whole(), np.random.default_rng([0, 2]).permutation(N)[:300]
        found, exact = index.neighbours(sample, 6), brute_force(rows, sample, 6)
        hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True))
        assert index.facts["recall"] == pytest.approx(hits / exact.size, abs=1e-9)
        return index.facts, ""


def test_low_recall_searches_more_cells_and_then_stops(tmp_path: Path) -> None:
    files = write(tmp_path, points("scattered"))
    for ranks in ([guarded(World(), files, 0.9, 64)], on_ranks(2, tmp_path, guarded, files, 0.9, 64)):
        for facts, failure in ranks:
            assert not failure and facts["recall"] >= 0.9
            assert facts["nprobe"] in (4, 8, 16, 32) and facts["sample"] == 300 and facts["k"] == 6
    facts, failure = guarded(World(), files, 0.9, 2)
    assert facts["nprobe"] == 2 and facts["recall"] < 0.9
    assert f"{facts['recall']:.4f} of the 6 nearest images of 300 seeds with 2 of 64 cells" in failure
    assert "index.recall_floor is 0.9" in failure
