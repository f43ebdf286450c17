"""The phases of a run: an optional warm-up, then the method."""

from dataclasses import dataclass

from dist_plm.config import Config
from dist_plm.data.plan import plan_steps
from dist_plm.methods import WARM_UP


@dataclass(frozen=True)
class Phase:
    """A part of a run with one method, one schedule, a new optimizer and a new momentum encoder."""

    name: str
    method: str
    epochs: int
    lr: float


def phases(config: Config) -> list[Phase]:
    """The phases of a run, in order."""
    main = Phase(config.train.method, config.train.method, config.train.epochs, config.optimiser.lr)
    if not config.warm_up.epochs:
        return [main]
    return [Phase("warm_up", WARM_UP.name, config.warm_up.epochs, config.warm_up.lr), main]


def run_steps(config: Config, images: int) -> int:
    """Steps of a whole run on so many training images."""
    steps = (config.warm_up.epochs + config.train.epochs) * plan_steps(images, config.batch)
    return min(steps, config.train.max_steps or steps)
