"""Local neighbourhoods in training: anchors of the last batch with members (X_i) and rejected candidates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.loader import Batch, Loader
from dist_plm.data.opening import open_split
from dist_plm.encoders.embedder import Embedder
from dist_plm.manifold import Neighbourhoods
from dist_plm.methods import PiecewiseLinearManifold
from dist_plm.methods.piecewise import neighbourhoods
from dist_plm.report.test_split import require_finite


@dataclass(frozen=True)
class Hood:
    """The neighbourhood of one point of a batch.

    Attributes:
        views: uint8 [k + 1, 3, s, s], the anchor and its k nearest points, nearest first.
        members: bool [k + 1], which are in X_i.
        images: int64 [k + 1], sample ids; a second view of the anchor has the anchor's.
        labels: int64 [k + 1], classes, -1 where unlabelled.
    """

    views: np.ndarray
    members: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def last_neighbourhoods(teacher: Embedder, run: Path, *, config: Config, most: int) -> list[Hood]:
    """Neighbourhoods of `most` anchors in the first batch of the newest plan, one a group; none without such a plan.

    The views are those of training, drawn again from (seed, epoch, id, view), embedded by the momentum encoder as it is
    now.

    Raises:
        UserError: Its embeddings are not finite, or the data set is missing.
    """
    plans = sorted((run / "plans").glob("epoch_*.npy"))
    if not plans or config.train.method != PiecewiseLinearManifold.name:
        return []
    epoch = int(plans[-1].stem.removeprefix("epoch_"))
    plan = np.load(plans[-1], mmap_mode="r", allow_pickle=False)
    with open_split(config.data, config.data.train_split) as store:
        loader = Loader(
            store,
            np.asarray(plan[:1], dtype=np.int64).reshape(1, -1),
            views=config.views,
            seed=config.seed,
            epoch=epoch,
            workers=config.data.workers,
            prefetch=1,
        )
        batch = next(iter(loader))
        labels = np.asarray(store.labels)
    pieces = batch.views.split(config.evaluation.batch_size)
    points = torch.cat([teacher.embed(piece).float().cpu() for piece in pieces])
    require_finite(points.numpy(), "teacher")
    hoods = neighbourhoods(points, points, torch.arange(len(points)), config.manifold)
    group = config.batch.group_size * config.views.count
    anchors = range(0, len(points), max(group, len(points) // most // group * group))
    return [_hood(anchor, hoods, batch, labels) for anchor in anchors][:most]


def _hood(anchor: int, hoods: Neighbourhoods, batch: Batch, labels: np.ndarray) -> Hood:
    rows = hoods.indices[anchor].numpy()
    images = batch.ids.numpy()[rows * len(batch.ids) // len(batch.views)]
    return Hood(batch.views.numpy()[rows], hoods.members[anchor].numpy(), images, labels[images])
