"""What a method asks of the configuration and of the data, known before anything starts."""

from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.errors import UserError


def check_method(config: Config) -> None:
    """Raise a UserError that names the keys at fault and what mends them; return in silence otherwise."""
    _check_values(config)
    method, wide = config.train.method, config.model.wide_dim
    if method == "stml" and not wide:
        raise UserError("train.method stml teaches through a second head and model.wide_dim is 0: set it to 1024")
    if method != "stml" and wide:
        raise UserError(f"model.wide_dim {wide} is a head that train.method {method} does not train: set it to 0")
    if method in ("proxy_anchor", "dada"):
        _check_labels(config)
    if method == "pseudo_labels":
        _check_clusters(config)


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


def _check_labels(config: Config) -> None:
    with open_split(config.data, config.data.train_split) as store:
        classes = len(set(store.labels.tolist()) - {-1})
    if classes < 2:
        raise UserError(
            f"train.method {config.train.method} learns from labels, and split {config.data.train_split!r} of "
            f"{config.data.shards} has {classes} classes: plm, stml and pseudo_labels need none"
        )


def _check_clusters(config: Config) -> None:
    from dist_plm.index.clustering import MOST_POINTS

    settings = config.pseudo_labels
    with open_split(config.data, config.data.train_split) as store:
        images = len(store)
    if not 2 <= settings.clusters <= images:
        raise UserError(f"pseudo_labels.clusters is {settings.clusters}: it must lie in 2 to {images}, the images")
    if settings.clustering != "k_means" and images > MOST_POINTS:
        raise UserError(
            f"pseudo_labels.clustering {settings.clustering} holds all pairs of at most {MOST_POINTS} images, "
            f"{config.data.shards} has {images}: set it to k_means"
        )
