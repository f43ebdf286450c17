"""Training objectives: a method turns the embeddings of a batch into a loss and says how batches are sampled.

`METHODS` is the registry.
"""

from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.methods.base import Loss, Method, Points
from dist_plm.methods.contrastive import InstanceDiscrimination, NeighbourContrast
from dist_plm.methods.dada import DataAugmentedDomainAdaptation
from dist_plm.methods.plm import PiecewiseLinearManifold
from dist_plm.methods.proxy_anchor import ProxyAnchor
from dist_plm.methods.pseudo_labels import PseudoLabels
from dist_plm.methods.stml import SelfTaughtMetricLearning

__all__ = ["METHODS", "WARM_UP", "InstanceDiscrimination", "Loss", "Method", "PiecewiseLinearManifold", "Points",
           "build_method", "check_method", "is_searched", "is_swept"]  # fmt: skip

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


def check_method(config: Config, world_size: int = 1) -> None:
    """Check configuration and data for the run's method and its warm-up.

    Raises:
        UserError: Names the keys at fault and the fix.
    """
    method, wide = METHODS[config.train.method], config.model.wide_dim
    if method.wide_dim and not wide:
        raise UserError(
            f"train.method {method.name} needs a second head and model.wide_dim is 0: set it to {method.wide_dim}"
        )
    if wide and not method.wide_dim:
        raise UserError(f"model.wide_dim {wide} is a head that train.method {method.name} does not use: set it to 0")
    method.check(config, world_size)
    if config.warm_up.epochs:
        WARM_UP.check(config, world_size)


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
