"""Groups go where their shards are: against all ways to seat them, and the shards in the order of clusters."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dist_plm.data.format import OFFSET_DTYPE, Manifest
from dist_plm.data.locality import near_shards, node_rows
from dist_plm.data.plan import rank_rows
from dist_plm.datasets import build
from dist_plm.datasets.order import cluster_order
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World


def store_of(shard_of: np.ndarray, shards: int):
    offsets = np.zeros(len(shard_of), OFFSET_DTYPE)
    offsets["shard"] = shard_of
    return SimpleNamespace(offsets=offsets, shards=range(shards))


@pytest.mark.parametrize("nodes", [2, 3, 5, 6])  # of 24 images, five nodes read 5 5 5 5 4: groups lie on two
def test_no_seating_has_more_images_at_home(nodes):
    draw = np.random.default_rng(nodes)
    plan, shard_of = draw.permutation(72).reshape(3, 6, 4), draw.integers(0, 12, 72)
    placed = near_shards(plan, store_of(shard_of, 12), Shares.even(24, nodes))
    home = shard_of * nodes // 12
    for before, after in zip(plan, placed, strict=True):
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
        seats = np.repeat(np.arange(nodes), Shares.even(24, nodes).sizes).reshape(6, 4)
        found = sum((home[group] == seat).sum() for group, seat in zip(after, seats, strict=True))
        ways = itertools.permutations(range(6))
        best = max(
            sum((home[before[each]] == seat).sum() for each, seat in zip(way, seats, strict=True)) for way in ways
        )
        assert found == best


def test_one_node_leaves_the_plan_as_it_is():
    plan = np.arange(24).reshape(2, 3, 4)
    assert near_shards(plan, store_of(np.zeros(24, int), 1), Shares.even(6, 1)) is plan


def test_the_node_reads_what_its_ranks_read():
    plan, shares = np.arange(2 * 8 * 3).reshape(2, 8, 3), Shares((7, 7, 5, 5))
    for rank in (2, 3):
        rows = node_rows(plan, shares, World(rank, 4, node_size=2))
        assert (rows == np.concatenate([rank_rows(plan, shares, each) for each in (2, 3)], axis=1)).all()
    assert (node_rows(plan, shares, World(2, 4)) == rank_rows(plan, shares, 2)).all()


def clouds(draw: np.random.Generator, images: int, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around well separated centres, and the number of each one's centre."""
    centres, label = draw.standard_normal((clusters, 16)), draw.integers(0, clusters, images)
    points = centres[label] + 0.05 * draw.standard_normal((images, 16))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), label


def test_the_order_keeps_clusters_together():
    points, label = clouds(np.random.default_rng(0), 2_000, 20)
    position = cluster_order(points)
    assert sorted(position.tolist()) == list(range(2_000))
    ordered = label[np.argsort(position)]
    assert (ordered[1:] != ordered[:-1]).sum() < 60  # 19 at best, about 1,900 in no order
    assert (cluster_order(points) == position).all()


def test_a_build_in_the_order_of_an_index(tmp_path):
    draw = np.random.default_rng(1)
    plain, ordered, index = (tmp_path / name for name in ("plain", "ordered", "index"))
    arguments = ["demo", "--images", "600", "--size", "16", "--classes", "4", "--shard-size", "0.005", "--workers", "1"]
    assert build.main([*arguments, "--out", str(plain)]) == 0
    points, label = clouds(draw, 300, 4)
    index.mkdir()
    shuffled = draw.permutation(300)
    np.save(index / "embeddings.npy", points[shuffled])
    lines = [json.dumps({"name": f"glyph/{number:09d}", "id": int(number)}) for number in shuffled]
    (index / "images.jsonl").write_text("\n".join(lines) + "\n")
    (index / "index.json").write_text("{}")
    assert build.main([*arguments, "--out", str(ordered), "--order-by", str(index)]) == 0

    cluster_of = {f"glyph/{number:09d}": int(label[number]) for number in range(300)}
    found = {name: sources(folder) for name, folder in (("plain", plain), ("ordered", ordered))}
    assert sorted(found["plain"]) == sorted(found["ordered"]) and len(found["plain"]) == 300
    changes = {
        name: sum(a != b for a, b in itertools.pairwise(map(cluster_of.get, each))) for name, each in found.items()
    }
    assert changes["ordered"] <= 8 and changes["plain"] > 150
    assert sources(plain, "test") == sources(ordered, "test")  # of which the index knows nothing
    assert build.main([*arguments, "--out", str(ordered), "--order-by", str(index)]) == 0  # it is there


def sources(folder, split: str = "train") -> list[str]:
    from dist_plm.data.store import Store

    with Store(folder, split) as store:
        assert len(store) == Manifest.load(folder).splits[split].samples
        return [store.about(id)["source"] for id in range(len(store))]


@pytest.mark.parametrize("fault", ["nothing", "others", "short"])
def test_a_wrong_index_is_told(tmp_path, capsys, fault):
    index = tmp_path / "index"
    if fault != "nothing":
        index.mkdir()
        np.save(index / "embeddings.npy", np.eye(4, dtype=np.float32))
        names = ["x.jpg", "y.jpg", "z.jpg", "w.jpg"][: 4 if fault == "others" else 3]
        (index / "images.jsonl").write_text("".join(json.dumps({"name": name}) + "\n" for name in names))
    arguments = ["demo", "--images", "20", "--size", "16", "--out", str(tmp_path / "out"), "--order-by", str(index)]
    assert build.main(arguments) == 2
    assert f"--order-by {index}" in capsys.readouterr().err and not (tmp_path / "out").exists()
