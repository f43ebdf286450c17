"""What a rank finds out about the machine."""

import torch

from dist_plm.config import RuntimeConfig
from dist_plm.runtime.connection import connect, disconnect, fair_share


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
