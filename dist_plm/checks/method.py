"""Checks of a run's methods on configuration and data."""

from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.methods import METHODS, WARM_UP


def check_method(config: Config, world_size: int = 1) -> None:
    """Raise a UserError that names the wrong keys and the fix."""
    method, wide = METHODS[config.train.method], config.model.wide_dim
    if method.wide_head and not wide:
        raise UserError(f"train.method {method.name} needs a second head and model.wide_dim is 0: set it to 1024")
    if wide and not method.wide_head:
        raise UserError(f"model.wide_dim {wide} is a head that train.method {method.name} does not use: set it to 0")
    method.check(config, world_size)
    if config.warm_up.epochs:
        WARM_UP.check(config, world_size)
