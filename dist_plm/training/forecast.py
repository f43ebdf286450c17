"""Lines of `--plan` on time and disk: the duration of a run at a given rate, and the disk space that it uses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dist_plm.config import Config
from dist_plm.data.opening import manifest_of
from dist_plm.data.plan import plan_steps
from dist_plm.methods import METHODS, is_swept
from dist_plm.parallel.strategy.memory import FLOAT
from dist_plm.telemetry.progress import duration
from dist_plm.training.held_out import VIEWS, held_out_count
from dist_plm.training.phases import run_steps

if TYPE_CHECKING:
    from dist_plm.training.rehearsal import Rehearsal

ID = 8  # bytes per image id in a plan
STEP_PASSES = 3  # cost of a step in forward passes per view, if only the rate of steps is known


@dataclass(frozen=True)
class Rates:
    """Images/s of all ranks together.

    Attributes:
        step: In training steps; all views of an image count as one image.
        embed: In embedding passes: one view per image, forward pass only.
        source: Origin of the rates, for messages.
    """

    step: float
    embed: float
    source: str

    @classmethod
    def from_speed(cls, images_per_second: float, config: Config) -> "Rates":
        """Rates from the throughput that a run logs (images_per_second in metrics.jsonl)."""
        return cls(images_per_second, images_per_second * STEP_PASSES * config.views.count, "as given")

    @classmethod
    def measured(cls, rehearsal: "Rehearsal", config: Config, world_size: int) -> "Rates":
        """From passes of one rank on this machine."""
        images = config.batch.images
        seconds = (images / rehearsal.step_rate + rehearsal.loss) / world_size
        ranks = f" on {world_size} such ranks" if world_size > 1 else ""
        source = f"measured here with {rehearsal.points} views on the {rehearsal.device}{ranks}"
        return cls(images / seconds, rehearsal.embed_rate * world_size, source)


@dataclass(frozen=True)
class Forecast:
    """Seconds of the parts of a run.

    Attributes:
        epoch: Steps of an epoch.
        sweep: One embedding pass over all training images; 0 if the method needs none.
        cache: Features of the frozen part, computed once; 0 if nothing is cached.
        evaluation: One evaluation of student and teacher.
        total: The whole run.
    """

    epoch: float
    sweep: float
    cache: float
    evaluation: float
    total: float


def forecast(config: Config, images: int, test_images: int, rates: Rates) -> Forecast:
    """Time of a run on `images` training and `test_images` test images."""
    epochs, cached = config.warm_up.epochs + config.train.epochs, config.views.cached
    step = config.batch.images / rates.step
    swept = images / rates.embed * is_swept(config) * (not cached)
    cache = ((cached + 1) * images + test_images) / rates.embed if cached else 0.0
    held_out = len(VIEWS) * min(held_out_count(config, images), test_images or images)
    evaluation = 2 * (held_out + test_images * (not cached)) / rates.embed
    steps, a_epoch = run_steps(config, images), plan_steps(images, config.batch)
    begun = -(-steps // a_epoch)
    evaluations = 2 + bool(config.warm_up.epochs) + (epochs - 1) // config.train.evaluate_epochs
    sweeps = -(-begun // config.batch.refresh_epochs)
    head = images / rates.embed if config.model.head_start != "orthogonal" and not cached else 0.0
    total = steps * step + sweeps * swept + cache + head + evaluations * evaluation
    return Forecast(a_epoch * step, swept, cache, evaluation, total)


def time_rows(config: Config, images: int, rates: Rates) -> list[tuple[str, str]]:
    """Lines of `--plan`: the rate, and the time of the run, of an epoch, of an embedding pass and of an evaluation."""
    times = forecast(config, images, _test_images(config), rates)
    parts = {"an epoch's steps": times.epoch, "an embedding pass": times.sweep, "caching of features": times.cache,
             "an evaluation": times.evaluation}  # fmt: skip
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds)
    return [
        ("rate", f"{rates.step:,.1f} images/s in steps, {rates.embed:,.1f} in embedding passes ({rates.source})"),
        ("time: parts", listed),
        ("time: whole run", f"{duration(times.total)} ({times.total / 3_600:,.2f} hours)"),
    ]


def disk_rows(
    config: Config, images: int, *, classes: int, trained: int, frozen: int, features: int
) -> list[tuple[str, str]]:
    """Lines of `--plan`: disk space of the run directory, and of cached features if they are elsewhere.

    Args:
        classes: Of the training split.
        trained, frozen: Weights of the network.
        features: Numbers that the frozen part passes on per view; 0 where they are not cached.
    """
    epochs, kept = config.warm_up.epochs + config.train.epochs, config.checkpoint
    moments = 1 if config.optimiser.name == "sgd" else 2
    checkpoint = FLOAT * (frozen + (2 + moments) * trained) + METHODS[config.train.method].stored(config, classes)
    # In addition to the newest, the best and the permanent ones there is the one that is being written.
    for_good = epochs // kept.keep_every_epochs if kept.keep_every_epochs else 0
    count = kept.keep + (kept.keep_best != "none") + for_good + 1
    number = 2 if config.index.precision == "fp16" else FLOAT
    # The embeddings of the next pass are written before the previous ones are removed.
    sweeps = 2 * images * (config.model.wide_dim or config.model.dim) * number * is_swept(config)
    sweeps += 2 * _test_images(config) * config.model.dim * FLOAT
    plans = ID * run_steps(config, images) * config.batch.images
    checkpoints = f"{count} checkpoints of {checkpoint / 1e6:,.1f} MB"
    parts = {checkpoints: count * checkpoint, "embeddings": sweeps, "plans": plans}
    # Also the evaluation views of both splits.
    cached = features * number * ((config.views.cached + 1) * images + _test_images(config))
    if not config.data.cache_dir:
        parts["cached features"] = cached
    listed = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in parts.items() if size)
    rows = [("disk", f"up to {sum(parts.values()) / 1e6:,.1f} MB in {config.run_dir}: {listed}")]
    if cached and config.data.cache_dir:
        place = f"{config.data.cache_dir}/features, or on several nodes {config.run_dir}/features"
        rows.append(("disk: cached features", f"{cached / 1e6:,.1f} MB in {place}"))
    return rows


def _test_images(config: Config) -> int:
    split = config.data.test_split
    return manifest_of(config.data).splits[split].samples if split else 0
