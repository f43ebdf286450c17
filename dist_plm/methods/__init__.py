"""Training objectives: a method turns the embeddings of a batch into a loss and says how batches are sampled.

`METHODS` is the registry.
"""

from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.methods.base import Loss, Method, Points
from dist_plm.methods.contrastive import InstanceDiscrimination, NeighbourContrast
from dist_plm.methods.dada import DataAugmentedDomainAdaptation
from dist_plm.methods.plm import PiecewiseLinearManifold
from dist_plm.methods.proxy_anchor import ProxyAnchor
from dist_plm.methods.pseudo_labels import PseudoLabels
from dist_plm.methods.stml import SelfTaughtMetricLearning

__all__ = ["METHODS", "WARM_UP", "InstanceDiscrimination", "Loss", "Method", "PiecewiseLinearManifold", "Points",
           "build_method", "is_searched", "is_swept"]  # fmt: skip

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        PiecewiseLinearManifold,
        InstanceDiscrimination,
        NeighbourContrast,
        SelfTaughtMetricLearning,
        ProxyAnchor,
        PseudoLabels,
        DataAugmentedDomainAdaptation,
    )
}
WARM_UP = InstanceDiscrimination


def is_searched(config: Config) -> bool:
    """Whether a refresh builds an index of all images and searches it."""
    method = METHODS[config.train.method]
    return method.is_searched(config.batch) or method.reads_gallery(config)


def is_swept(config: Config) -> bool:
    """Whether a refresh embeds all images, for an index or for pseudo-labels."""
    return METHODS[config.train.method].batches == "clusters" or is_searched(config)


def build_method(name: str, config: Config, world: World, classes: int = 1) -> Method:
    """Instantiate the method called `name`, with the number of classes for supervised methods."""
    return METHODS[name](config, world, classes)
