"""The settings of a `fit`: what depends on machine, images and weights, each with its reason and the time it takes."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from dist_plm.config import Config, ModelConfig, ViewsConfig
from dist_plm.errors import UserError
from dist_plm.fit.architecture import feature_count, is_transformer
from dist_plm.fit.asked import Asked, Settings
from dist_plm.fit.collection import Collection
from dist_plm.fit.length import OTHER_SECONDS, Measure, Pace, pace_of
from dist_plm.fit.machine import Machine
from dist_plm.fit.weights import BETTER, Start
from dist_plm.methods import METHODS
from dist_plm.model.preprocessing import own_pooling, own_views

FEWEST = 16  # images
SIDE = 224  # largest view: some transformers were pretrained at 518 px, which takes six times the time
DIMS = (512, 256, 128, 64, 32, 16, 8, 4)
IMAGES_A_DIM = 4  # whitening to D dimensions fits D variances, so it needs several images for each
BATCH = 96
# Of the demo, whose network it is (configs/demo.yaml): from random weights.
SMALL: dict[str, Any] = {
    "views.cached": 0,
    "views.brightness": 0.4,
    "warm_up.epochs": 1,
    "warm_up.lr": 2e-3,
    "manifold.n_alpha": 2.0,
    "model.momentum": 0.98,
    "optimiser.lr": 2e-4,
    "optimiser.backbone_lr_scale": 1.0,
}
# All layers of an EfficientNet-Lite0, one epoch: R@1 rises by 2.2 points at the head's rate and by 1.0 at a fifth of it
# (benchmarks/trainable.md). Transformers were not compared, and keep the fifth of configs/folder.yaml.
CONVOLUTIONAL: dict[str, Any] = {"optimiser.backbone_lr_scale": 1.0}
TRANSFORMER: dict[str, Any] = {"optimiser.name": "adamw", "optimiser.layer_decay": 0.65, "optimiser.warmup_steps": 10}


@dataclass(frozen=True)
class Choice:
    """A configuration for one collection on one machine.

    Args:
        config: Resolved.
        ranks: Processes that train.
        rows: (what, value, why), for display.
        warnings: For display.
        seconds: Expected time of each part that is left.
    """

    config: Config
    ranks: int
    rows: list[tuple[str, str, str]]
    warnings: list[str]
    seconds: dict[str, float]


def network(asked: Asked, start: Start, collection: Collection) -> Config:
    """The configuration with network, views and head; what its speed depends on.

    Raises:
        UserError: too few images.
    """
    if collection.images < FEWEST:
        raise UserError(f"{collection.shards} has {collection.images} images: at least {FEWEST} are needed")
    chosen = Settings(asked)
    chosen.config = replace(
        chosen.config, model=replace(chosen.config.model, backbone=start.backbone, weights=start.weights)
    )
    small = start.backbone == "small"
    given = chosen.config.views.size if chosen.has("views.size") else 0
    views = _views(chosen.config.model, given, small=small)
    for name in ("size", "resize", "interpolation"):
        chosen.put(f"views.{name}", getattr(views, name))
    chosen.put("model.pooling", "avg_max" if small else own_pooling(chosen.config.model))
    fitting = next((dim for dim in DIMS if dim * IMAGES_A_DIM <= collection.images), DIMS[-1])
    chosen.put("model.dim", min(64 if small else DIMS[1], fitting))
    if not start.weights and start.backbone in ("small", "bvlc_googlenet"):
        chosen.put("model.head_start", "orthogonal")  # random features have no directions worth whitening
    _choose_wide(chosen, collection)
    groups = chosen.put("batch.groups", min(BATCH, max(2, collection.images // 4)))
    if groups < 11:
        chosen.put("manifold.k", max(4, 2 * groups - 2))
    return chosen.config


def _choose_wide(chosen: Settings, collection: Collection) -> None:
    """The width of the second head of a method that has one, not above that of the features to which it is fitted."""
    wide = METHODS[chosen.config.train.method].wide_dim
    if not wide or chosen.has("model.wide_dim"):
        return
    model = chosen.config.model
    if model.head_start != "orthogonal":
        most = min(feature_count(model), collection.images - 1)
        wide = next((dim for dim in (wide, *DIMS) if dim <= most), DIMS[-1])
    chosen.put("model.wide_dim", wide)


def _views(model: ModelConfig, size: int, *, small: bool) -> ViewsConfig:
    """The views of the pretraining; `size`, if not 0, in place of its size, with the same margin of the centre crop."""
    if small:
        return own_views(model, ViewsConfig(size=64, resize=72), size=size, resize=0)
    default = ViewsConfig(size=SIDE, resize=256)
    found = own_views(model, default, size=size, resize=0)
    return found if size or found.size <= SIDE else own_views(model, default, size=SIDE, resize=0)


def choose(
    asked: Asked, config: Config, start: Start, collection: Collection, machine: Machine, measure: Measure
) -> Choice:
    """Choose the trainable part, the length and the number of ranks.

    Args:
        config: Of `network`.
        measure: Machine.rehearsal of the machine.

    Raises:
        UserError: Given settings contradict each other.
    """
    chosen = Settings(replace(asked, config=config))
    chosen.put("data.shards", collection.shards)
    chosen.config = replace(chosen.config, data=replace(chosen.config.data, shards=collection.shards))
    chosen.put("data.workers", max(2, machine.cores // max(1, machine.gpus)))
    named = next((split for split in ("test", "query") if split in collection.splits), "")
    chosen.put("data.test_split", named or ("train" if collection.classes else ""))
    if chosen.config.data.test_split == "query" and "gallery" in collection.splits:
        chosen.put("data.gallery_split", "gallery")
    pace, why, fits = _trained(chosen, start, collection, machine, asked, measure)
    shown = pace.settings.config
    seconds = {
        "training": pace.seconds(collection).total,
        "index": pace.index_seconds(collection),
        "start of programs and report": OTHER_SECONDS,
    }
    most = pace.limit(asked.minutes, collection)
    length = most if fits else f"the least that is worth it, which takes longer than --minutes {asked.minutes:g}"
    rows = _rows(pace, why, length, start, collection, asked)
    return Choice(shown, pace.ranks, rows, _warnings(shown, start, collection), seconds)


def _rows(
    pace: Pace, why: str, length: str, start: Start, collection: Collection, asked: Asked
) -> list[tuple[str, str, str]]:
    """What was chosen.

    Args:
        why: Of the trainable part.
        length: Why it trains so long.
    """

    def unless_given(key: str, reason: str) -> str:
        return "as given" if asked.has(key) else reason

    shown = pace.settings.config
    size = "size of its pretraining, at most 224" if start.weights else "small network"
    dim = f"at least {IMAGES_A_DIM} images a dimension, at most {DIMS[1]}"
    pieces = f", in {shown.batch.micro_batches} pieces" if shown.batch.micro_batches > 1 else ""
    batch = f"{shown.batch.images} images{pieces}, {shown.train.epochs} epochs"
    speed = f"{pace.rates.step:,.1f} images/s in training steps, {pace.rates.embed:,.1f} embedded"
    return [
        ("network", f"{shown.model.backbone}, weights {shown.model.weights or 'random'}", start.why),
        ("views", f"{shown.views.size} px", unless_given("views.size", size)),
        ("embedding", f"{shown.model.dim} dimensions", unless_given("model.dim", dim)),
        ("trained", shown.model.trainable, why),
        ("batch", batch, unless_given("train.epochs", length)),
        ("ranks", str(pace.ranks), pace.why),
        ("speed", speed, "measured now on some of the images"),
        ("judged by", _judge(shown.data.test_split, collection), ""),
    ]


def _trained(
    chosen: Settings, start: Start, collection: Collection, machine: Machine, asked: Asked, measure: Measure
) -> tuple[Pace, str, bool]:
    """The trainable part: the backbone if there is time for enough steps, else the head on cached features.

    Returns:
        Its pace, why it was chosen, and whether it fits into the time.
    """
    small = not start.weights and start.backbone == "small"
    transformer = is_transformer(chosen.config.model)
    given = chosen.config.model.trainable if asked.has("model.trainable") else ""
    why = "as given" if given else "random weights"
    if given != "head":
        whole = chosen.copy()
        whole.put("model.trainable", "blocks:2" if transformer and not small else "all")
        own = SMALL if small else TRANSFORMER if transformer else CONVOLUTIONAL
        for key, value in {"views.cached": 0, **own}.items():
            whole.put(key, value)
        try:
            pace, fits = pace_of(whole, machine, asked.ranks, measure).within(asked.minutes, collection)
        except UserError:
            if given or not transformer:
                raise
            why = "the blocks of this network can't be trained apart"  # some transformers are not sequential
        else:
            step = pace.settings.config.batch.images / pace.rates.step
            if given or small:
                return pace, why, fits
            if fits:
                return pace, f"a step takes about {step:.2g} s here", True
            why = f"{step:.2g} s for a step of {pace.settings.config.model.trainable} is too slow for --minutes"
    chosen.put("model.trainable", "head")
    pace, fits = pace_of(chosen, machine, asked.ranks, measure).within(asked.minutes, collection)
    return pace, why, fits


def _judge(split: str, collection: Collection) -> str:
    if split and split != "train":
        return f"recall on the images of {split}/, and agreement of views"
    if split and collection.classes:
        return f"recall by the {collection.classes:,} sub-folders or labels, which training never reads"
    return "agreement of random views: no labels"


def _warnings(config: Config, start: Start, collection: Collection) -> list[str]:
    found = []
    if not config.model.weights and ":" not in config.model.backbone:
        found.append(
            "no pretrained weights were found: a small network is trained from random weights. Expect neighbours of "
            "similar colour and layout rather than content; " + BETTER
        )
    elif start.backbone == "small":
        found.append(BETTER)
    if collection.side < config.views.size:
        found.append(
            f"half of the images are smaller than the {config.views.size} px input of the network, and are upscaled: "
            "fine detail is missing"
        )
    if missing := [name for name in ("flask", "waitress") if not find_spec(name)]:
        found.append(f"the search page will need {' and '.join(missing)}: pip install {' '.join(missing)}")
    if collection.images < 300 and config.model.weights:
        found.append(f"{collection.images} images are few: expect little gain over the pretrained network")
    return found
