"""What a rank finds out about the machine."""

import json
import time
from dataclasses import asdict

import pytest
import torch
import torch.distributed as dist

from dist_plm.config import RuntimeConfig
from dist_plm.distributed import health
from dist_plm.distributed.connection import connect, disconnect, fair_share, node_size
from dist_plm.distributed.world import RankFailure, World


def cores(host: str, *numbers: int) -> set[tuple[str, int]]:
    return {(host, number) for number in numbers}


def test_ranks_share_the_cores_that_they_have_in_common():
    together = [cores("a", *range(8)), cores("a", *range(8)), cores("b", *range(8))]
    assert [fair_share(rank, together) for rank in range(3)] == [4, 4, 8]
    bound = [cores("a", *range(first, first + 4)) for first in (0, 4)]
    assert [fair_share(rank, bound) for rank in range(2)] == [4, 4]
    assert fair_share(0, [cores("a", 3)] * 4) == 1


def test_alone_a_rank_takes_all_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 5})
    before = torch.get_num_threads()
    disconnect(connect(RuntimeConfig(device="cpu")))
    try:
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_nodes_of_different_sizes_are_ranks_alone():
    assert node_size([2, 2, 2, 2]) == 2 and node_size([4, 4, 4, 4]) == 4 and node_size([1]) == 1
    assert [node_size(said) for said in ([2, 2, 1, 1], [3, 3, 3, 1], [0], [3, 3])] == [1, 1, 1, 1]


class Diagnosis(health.Health):
    """A watch over ranks that are all gone."""

    def __init__(self) -> None:
        self.beat = health.Beat()

    def diagnose(self) -> str:
        return "rank 1 died"


def test_what_torch_raises_for_a_lost_rank_becomes_a_rank_failure():
    world = World(size=2, health=Diagnosis())
    for error in (
        dist.DistBackendError("aborted"),
        dist.DistStoreError("gone"),
        RuntimeError("Connection closed by peer"),
    ):
        with pytest.raises(RankFailure, match="sum failed: rank 1 died"), world.waiting("sum"):
            raise error
    with pytest.raises(RuntimeError, match="shape"), world.waiting("sum"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_of_another_host_is_not_silence(monkeypatch, ahead):
    """The other rank's clock began an hour before or after this one's: it lives for as long as it beats."""
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.5)
    store, this = dist.HashStore(), time.monotonic()
    watch = health.Health(0, 2, store)
    watch.compare([this, this + ahead])
    for beats_until, found in ((this + 60, "all ranks are alive"), (this - 1, "rank 1 died or froze at step 7")):
        store.set("beat/1", json.dumps(asdict(health.Beat(beats_until + ahead, 7, "its own work"))))
        assert found in watch.diagnose()
    watch.close()
