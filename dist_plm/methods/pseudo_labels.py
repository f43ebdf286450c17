"""Proxy-Anchor on pseudo-labels: clusters of the momentum embeddings, recomputed at every refresh (baselines of
table 1)."""

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.clustering import MOST_POINTS, kmeans_labels, random_walk_labels, ward_labels
from dist_plm.index.placement import check_whole
from dist_plm.methods.proxy_anchor import ProxyAnchor


class PseudoLabels(ProxyAnchor):
    """Clusters of successive refreshes are unrelated, so proxies are reinitialised at the centroids."""

    name = "pseudo_labels"
    batches = "clusters"

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        settings = config.pseudo_labels
        with open_split(config.data, config.data.train_split) as store:
            images = len(store)
        if not 2 <= settings.clusters <= images:
            raise UserError(f"pseudo_labels.clusters is {settings.clusters}: it must lie in 2 to {images}, the images")
        if settings.clustering != "k_means" and images > MOST_POINTS:
            raise UserError(
                f"pseudo_labels.clustering {settings.clustering} supports at most {MOST_POINTS} images, "
                f"{config.data.shards} has {images}: set it to k_means"
            )
        check_whole(config, images, "train.method", cls.name)

    @classmethod
    def memory(cls, config: Config, classes: int, world_size: int) -> dict[str, float]:
        return super().memory(config, config.pseudo_labels.clusters, world_size)

    @classmethod
    def stored(cls, config: Config, classes: int) -> int:
        return super().stored(config, config.pseudo_labels.clusters)

    def __init__(self, config: Config, world: World, classes: int = 1) -> None:
        super().__init__(config, world, config.pseudo_labels.clusters)

    def cluster(self, gallery: np.ndarray) -> np.ndarray:
        settings = self.config.pseudo_labels
        if settings.clustering == "ward":
            return ward_labels(gallery, settings.clusters)
        if settings.clustering == "random_walk":
            return random_walk_labels(gallery, settings.clusters)
        return kmeans_labels(gallery, settings.clusters, self.config.seed)

    def relabel(self, gallery: np.ndarray, labels: np.ndarray) -> None:
        points, known = torch.tensor(gallery, dtype=torch.float64), torch.tensor(labels)
        sums = points.new_zeros(self.proxies.count + 1, points.shape[1])
        sums.index_add_(0, known.where(known >= 0, self.proxies.count), points)  # on the host, in a fixed order
        local_sums = sums[self.proxies.first :][: len(self.proxies.raw)]
        self.proxies.place(local_sums.to(self.proxies.raw))
