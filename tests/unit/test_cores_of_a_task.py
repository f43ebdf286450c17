"""Cores of a Slurm task that has a GPU, from what sinfo says of the nodes."""

import pytest

from dist_plm.slurm import scheduler
from dist_plm.slurm.cluster import Cluster
from dist_plm.slurm.scheduler import Partition, with_cores

ROWS = [
    Partition("gpu", True, 4, 8, 128, "infinite"),
    Partition("gpu", True, 2, 4, 48, "infinite"),
    Partition("cpu", False, 9, 0, 256, "infinite"),
]


@pytest.mark.parametrize(
    ("asked", "cores"),
    [
        (Cluster(gpus_per_node=8), 16),
        (Cluster(gpus_per_node=4), 12),  # either kind of node may be given: the fewer
        (Cluster(gpus_per_node=2, partition="gpu"), 12),
        (Cluster(gpus_per_node=8, cpus_per_task=5), 5),  # as asked for
        (Cluster(), 0),  # no GPUs: what the cluster gives
        (Cluster(gpus_per_node=2, tasks_per_node=4), 6),  # two ranks a GPU
        (Cluster(gpus_per_node=16), 0),  # no such node: refused elsewhere
    ],
)
def test_a_rank_has_its_gpus_share_of_the_cores(asked, cores, monkeypatch):
    monkeypatch.setattr(scheduler, "_rows", lambda: ROWS)
    assert with_cores(asked).cpus_per_task == cores
