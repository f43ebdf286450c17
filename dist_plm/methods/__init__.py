"""What is trained on a batch: a method turns the embeddings of a batch into a loss. `build_method` is the registry."""

from dist_plm.config import Config
from dist_plm.methods.base import Loss, Method, Points
from dist_plm.methods.instance import InstanceDiscrimination
from dist_plm.methods.plm import PiecewiseLinearManifold
from dist_plm.runtime.world import World

__all__ = ["InstanceDiscrimination", "Loss", "Method", "PiecewiseLinearManifold", "Points", "build_method"]


def build_method(name: str, config: Config, world: World) -> Method:
    """The method called `name` in the configuration."""
    methods: dict[str, type[Method]] = {"plm": PiecewiseLinearManifold, "instance": InstanceDiscrimination}
    return methods[name](config, world)
