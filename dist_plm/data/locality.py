"""Assignment of a plan's reads to nodes, whose ranks share a disk cache of remote images."""

import numpy as np

from dist_plm.data.plan import rank_rows
from dist_plm.data.store import Store
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World


def node_shares(shares: Shares, world: World) -> Shares:
    """Images of each node, of those of each rank: launchers number the ranks node by node."""
    return shares.joined(world.size // world.node_size)


def node_rows(plan: np.ndarray, shares: Shares, world: World) -> np.ndarray:
    """The ids [steps, b] that the node of a rank reads of a plan [steps, groups, group_size]: those of its ranks.

    Args:
        shares: Images of each rank.
    """
    return rank_rows(plan, node_shares(shares, world), world.rank // world.node_size)


def near_shards(plan: np.ndarray, store: Store, nodes: Shares) -> np.ndarray:
    """The plan with the groups of each step reordered, so that a node reads most of its images from its own shards.

    Shard s of S belongs to node s * nodes // S: consecutive shards, similar images if built in cluster order.
    Every node reads as many images as before. A linear assignment maximises the images read from the node's own shards,
    so that its cache is hit in every epoch.

    Args:
        plan: int64 [steps, groups, group_size].
        store: Provides the offset table.
        nodes: Images of each node; a group may lie on two.

    Returns:
        int64 [steps, groups, group_size]: the same groups in every step.
    """
    count = len(nodes.sizes)
    if count == 1:
        return plan
    from scipy.optimize import linear_sum_assignment

    steps, groups, group_size = plan.shape
    placed = np.empty_like(plan)
    seats = np.repeat(np.arange(count), nodes.sizes).reshape(groups, group_size)  # the node that reads each image
    kinds, kind = np.unique(seats, axis=0, return_inverse=True)  # in the order of the seats
    kind = kind.ravel()  # a column in numpy 2.0
    for step in range(steps):
        shard = store.offsets["shard"][plan[step]].astype(np.int64)
        home = shard * count // len(store.shards)
        at_home = (home[:, None] == kinds).sum(axis=2)  # [groups, kinds]
        group, seat = linear_sum_assignment(at_home[:, kind], maximize=True)
        order = group[np.lexsort((group, kind[seat]))]  # seat by seat, as planned within each kind
        placed[step] = plan[step, order]
    return placed
