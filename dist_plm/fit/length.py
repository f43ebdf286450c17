"""How long a configuration can train on this machine in the time that was given, by the rehearsal of `train --plan`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dist_plm.checks import check_settings
from dist_plm.config import Config
from dist_plm.fit.asked import Settings
from dist_plm.fit.collection import Collection
from dist_plm.fit.machine import Machine
from dist_plm.parallel.strategy.memory import FLOAT
from dist_plm.training.forecast import Forecast, Rates, forecast
from dist_plm.training.rehearsal import Rehearsal
from dist_plm.training.resources import network_sizes, views_at_once

Measure = Callable[[Config, int], Rehearsal]  # of a configuration on so many ranks, see Machine.rehearsal
# Fewest worth it: 40 steps of a whole network raised R@1 by 1.6 points, the head alone by .2 (docs/reproduction.md).
FEWEST_STEPS = {"head": 200, "backbone": 40}
MOST_STEPS = {"head": 800, "backbone": 160}
MOST_EPOCHS = {"head": 100, "backbone": 50}
OTHER_SECONDS = 60.0  # imports of the parts, report
SHARE = 0.8  # of the time that is left is planned, since a machine is not always as fast as when it was measured
MEMORY = 0.8  # of the free memory is planned


@dataclass(frozen=True)
class Pace:
    """A configuration as it runs on this machine.

    Args:
        settings: With `batch.micro_batches`.
        ranks: Processes, and why.
        rates: Of all ranks together.
    """

    settings: Settings
    ranks: int
    why: str
    rates: Rates

    def seconds(self, collection: Collection) -> Forecast:
        """Time of the parts of training."""
        config = self.settings.config
        # Their cached features are those of the training images.
        same = bool(config.views.cached) and config.data.test_split == config.data.train_split
        return forecast(config, collection.images, 0 if same else collection.judged(config), self.rates)

    def index_seconds(self, collection: Collection) -> float:
        """Time to embed all images."""
        return sum(collection.splits.values()) / self.rates.embed

    def of_length(self, epochs: int) -> "Pace":
        """With so many epochs, of which a warm-up gets half; given lengths stay."""
        settings = self.settings.copy()
        if settings.config.warm_up.epochs:
            settings.put("warm_up.epochs", max(1, epochs // 2))
            settings.put("train.epochs", max(1, epochs - epochs // 2))
        else:
            settings.put("train.epochs", epochs)
        settings.put("train.evaluate_epochs", settings.config.train.epochs)
        step = settings.config.batch.images / self.rates.step
        settings.put("checkpoint.every_steps", max(1, min(100, round(60 / step))))
        return replace(self, settings=settings)

    def within(self, minutes: float, collection: Collection) -> tuple["Pace", bool]:
        """The longest training that fits into the time, or the shortest that is worth it; whether that one fits."""
        fewest, most = self.epochs(collection)
        left = SHARE * (60 * minutes - OTHER_SECONDS - self.index_seconds(collection))
        longer = (self.of_length(epochs) for epochs in range(most, fewest, -1))
        shortest = self.of_length(fewest)
        found = next((pace for pace in longer if pace.seconds(collection).total <= left), shortest)
        return found, shortest.seconds(collection).total <= left

    def epochs(self, collection: Collection) -> tuple[int, int]:
        """Fewest and most epochs that are chosen; longer training has not been better (docs/reproduction.md)."""
        steps = max(1, collection.images // self.settings.config.batch.images)
        fewest = max(1, math.ceil(FEWEST_STEPS[self.kind] / steps))
        return fewest, max(fewest, min(MOST_EPOCHS[self.kind], round(MOST_STEPS[self.kind] / steps)))

    @property
    def kind(self) -> str:
        """What is trained."""
        return "head" if self.settings.config.model.trainable == "head" else "backbone"

    def limit(self, minutes: float, collection: Collection) -> str:
        """What limits the training of `within` where it fits into the time, for people."""
        most = f"{MOST_STEPS[self.kind]} steps or {MOST_EPOCHS[self.kind]} epochs"
        train, warm_up = self.settings.config.train.epochs, self.settings.config.warm_up.epochs
        if train + warm_up < self.epochs(collection)[1]:
            return f"as --minutes {minutes:g} allows, at most {most}"
        return f"the most that is chosen, {most}, whatever --minutes: beyond it set --train.epochs N"


def pace_of(settings: Settings, machine: Machine, ranks: int, measure: Measure) -> Pace:
    """Measure a configuration; its ranks and micro-batches follow from the memory that it takes.

    Args:
        ranks: Given; 0: chosen.

    Raises:
        UserError: The settings contradict each other, or the network takes no images of this size.
    """
    config = settings.config
    whole, images = not settings.head_on_cached, config.batch.images
    tried = ranks or machine.ranks(whole=whole, images=images)[0]
    check_settings(config, tried)
    found = measure(config, tried)
    process = found.process + 2 * network_sizes(config)[0] * FLOAT  # moments are not held by a rehearsal
    # At most half of the memory goes to what a rank holds whatever its share: activations are the same on any number.
    count, why = machine.ranks(whole=whole, images=images, rank_gb=2 * process / 1e9 / MEMORY)
    count, why = (ranks, "as given") if ranks else (count, why)
    room = 1e9 * MEMORY * (machine.gpu_gb if machine.gpus else machine.memory_gb / count) - process
    pieces = math.ceil(found.activations * views_at_once(config, count) / max(room, found.activations))
    if pieces > 1 and config.model.batch_norm != "synchronised" and config.runtime.strategy != "reproducible":
        settings = settings.copy()
        settings.put("batch.micro_batches", pieces)
    return Pace(settings, count, why, Rates.measured(found, config, tried))
