"""Which reads of a plan fall to which node: ranks of a node share a disk and what it holds of remote images."""

import numpy as np

from dist_plm.data.plan import rank_rows
from dist_plm.data.store import Store
from dist_plm.distributed.world import World


def node_rows(plan: np.ndarray, world: World) -> np.ndarray:
    """The ids [steps, b] that the node of a rank reads of a plan [steps, groups, group_size].

    Launchers number the ranks node by node, so those of a node read neighbouring groups.
    """
    return rank_rows(plan, world.rank // world.node_size, world.size // world.node_size)


def near_shards(plan: np.ndarray, store: Store, nodes: int) -> np.ndarray:
    """The plan with the groups of each step in another order, so that a node reads most of its images from its shards.

    Shard s of S belongs to node s * nodes // S: neighbours in the list, which a build in the order of clusters makes
    alike. Every node takes as many groups as before; of all such ways that with the most images at home is taken
    (linear assignment), so that epoch after epoch a node's cache meets the same images again.

    Args:
        plan: int64 [steps, groups, group_size].
        store: Whose offset table says where an image lies.
        nodes: Must divide the groups.

    Returns:
        int64 [steps, groups, group_size]: the same groups in every step.
    """
    if nodes == 1:
        return plan
    from scipy.optimize import linear_sum_assignment

    steps, groups, _ = plan.shape
    placed, seats = np.empty_like(plan), np.repeat(np.arange(nodes), groups // nodes)
    for step in range(steps):
        shard = store.offsets["shard"][plan[step]].astype(np.int64)
        home = shard * nodes // len(store.shards)
        at_home = (home[:, :, None] == np.arange(nodes)).sum(axis=1)  # [groups, nodes]
        group, seat = linear_sum_assignment(at_home[:, seats], maximize=True)
        order = group[np.lexsort((group, seats[seat]))]  # node by node, as planned within each
        placed[step] = plan[step, order]
    return placed
