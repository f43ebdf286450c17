"""What the methods of a run ask of the configuration and of the data, known before anything starts."""

from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.methods import METHODS, WARM_UP


def check_method(config: Config, world_size: int = 1) -> None:
    """Raise a UserError that names the keys at fault and what mends them; return in silence otherwise."""
    _check_values(config)
    method, wide = METHODS[config.train.method], config.model.wide_dim
    if method.wide_head and not wide:
        raise UserError(
            f"train.method {method.name} teaches through a second head and model.wide_dim is 0: set it to 1024"
        )
    if wide and not method.wide_head:
        raise UserError(f"model.wide_dim {wide} is a head that train.method {method.name} does not train: set it to 0")
    method.check(config, world_size)
    if config.warm_up.epochs:
        WARM_UP.check(config, world_size)


def _check_values(config: Config) -> None:
    anchor, dada, optimiser = config.proxy_anchor, config.dada, config.optimiser
    positive = {
        "stml.sigma": config.stml.sigma,
        "stml.delta": config.stml.delta,
        "proxy_anchor.alpha_positive": anchor.alpha_positive,
        "proxy_anchor.alpha_negative": anchor.alpha_negative,
        "dada.mix": min(dada.mix),
        "dada.domain_hidden": dada.domain_hidden,
        "dada.category_hidden": min(dada.category_hidden, default=1),
        "dada.lr": dada.lr,
        "dada.discriminator_steps": dada.discriminator_steps,
        "optimiser.milestones": min(optimiser.milestones, default=1),
        "optimiser.decay": optimiser.decay,
    }
    for key, value in positive.items():
        if value <= 0:
            raise UserError(f"{key} is {value}: it must be greater than 0")
    counts = {
        "model.wide_dim": config.model.wide_dim,
        "optimiser.head_only_epochs": optimiser.head_only_epochs,
        "dada.warm_up_epochs": dada.warm_up_epochs,
        "dada.proxy_anchor": dada.proxy_anchor,
    }
    for key, value in counts.items():
        if value < 0:
            raise UserError(f"{key} is {value}: it can't be negative")
    if not 0 <= dada.balance <= 1:
        raise UserError(f"dada.balance is {dada.balance}: it must lie in [0, 1]")
    if not 0 <= dada.dropout < 1:
        raise UserError(f"dada.dropout is {dada.dropout}: it must lie in [0, 1)")
    if optimiser.schedule != "steps" and optimiser.milestones:
        raise UserError(
            f"optimiser.milestones {optimiser.milestones} have no effect with optimiser.schedule "
            f"{optimiser.schedule}: set --optimiser.schedule steps, or no milestones"
        )
