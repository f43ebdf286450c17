"""Quality of the self-supervision during training, by labels that training itself does not use."""

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.evaluation.pair_quality import BatchJudge
from dist_plm.manifold.distance import distance
from dist_plm.methods.base import Targets


@torch.no_grad()
def batch_quality(
    targets: Targets | None,
    z: Tensor,
    labels: np.ndarray,
    *,
    shares: Shares | None = None,
    config: Config,
    world: World,
) -> dict[str, float]:
    """Purity of neighbourhoods and attraction of pairs over a global batch; empty without labels. A collective.

    Args:
        targets: Training targets of this rank's points.
        z: [b, D] the rank's student embeddings.
        labels: int [images] of the whole batch, -1 is unlabelled; the same on all ranks.
        shares: Points of each rank; None: as many as this one.
    """
    if targets is None or not (labels >= 0).any():
        return {}
    views, z_all = config.views.count, world.gather_rows(z, shares)
    images = torch.arange(len(z_all), device=z.device) // views
    columns = slice(targets.first, targets.first + targets.similarity.shape[1])
    judged = BatchJudge.of(
        targets.distance,
        distance(z, z_all[columns]),
        targets.indices,
        targets.members,
        rows=world.own_rows(z, shares) - targets.first,
        labels=torch.from_numpy(labels.astype(np.int64)).to(z.device)[images][columns],
        images=images[columns],
    )
    sums = world.sum(torch.tensor(judged.sums, dtype=torch.float64, device=z.device))
    return BatchJudge.from_sums(sums.tolist()).shares
