"""The settings of a `fit`: what depends on machine, images and weights, each with its reason and the time it takes."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from dist_plm.config import Config, ModelConfig, ViewsConfig
from dist_plm.errors import UserError
from dist_plm.fit.collection import Collection
from dist_plm.fit.machine import Machine
from dist_plm.fit.weights import BETTER, Start
from dist_plm.model.preprocessing import own_pooling, own_views

FEWEST = 16  # images
SIDE = 224  # largest view: some transformers were pretrained at 518 px, which takes six times the time
DIMS = (512, 256, 128, 64, 32, 16, 8, 4)
IMAGES_A_DIM = 4  # whitening to D dimensions fits D variances, so it needs several images for each
BATCH = 96
STEP_PASSES = 4.3  # forward passes of a step for each view: student 3.3 with its backward, momentum encoder 1
HEAD_STEP_SECONDS = 0.05  # 96 images x 2 views of a head, 128 dimensions, two cores: .025 to .04
# Fewest worth it: 40 steps of a whole network raised R@1 by 1.6 points, the head alone by .2 (docs/reproduction.md).
STEPS = {"head": 200, "all": 40, "blocks:2": 40}
MOST_EPOCHS = {"head": 100, "all": 50, "blocks:2": 50}
OTHER_SECONDS = 60.0  # imports of the parts, report
JUDGED = 3 * 300 * 3  # forward passes: three views of the held-out images, by the start and both networks
SHARE = 0.8  # of the time that is left is planned, since a machine is not always as fast as when it was measured
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


@dataclass(frozen=True)
class Asked:
    """Settings given by the user.

    Args:
        config: configs/folder.yaml with all overrides.
        given: Keys that were given.
        ranks: 0: to be chosen.
        minutes: What all parts may take together, where that is possible.
    """

    config: Config
    given: frozenset[str]
    ranks: int
    minutes: float

    def has(self, key: str) -> bool:
        """Whether a key, or its whole section, was given."""
        return key in self.given or key.partition(".")[0] in self.given


class Settings:
    """Settings to be chosen; those of the user are kept."""

    def __init__(self, asked: Asked) -> None:
        self.config, self._asked = asked.config, asked

    def put(self, key: str, value: Any) -> Any:
        """Set a key unless it was given; the value that holds."""
        section, name = key.split(".")
        part = getattr(self.config, section)
        if not self._asked.has(key):
            part = replace(part, **{name: value})
            self.config = replace(self.config, **{section: part})
        return getattr(part, name)


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
    views = _views(chosen.config.model, small=small)
    for name in ("size", "resize", "interpolation"):
        chosen.put(f"views.{name}", getattr(views, name))
    chosen.put("model.pooling", "avg_max" if small else own_pooling(chosen.config.model))
    fitting = next((dim for dim in DIMS if dim * IMAGES_A_DIM <= collection.images), DIMS[-1])
    chosen.put("model.dim", min(64 if small else DIMS[1], fitting))
    if not start.weights and start.backbone in ("small", "bvlc_googlenet"):
        chosen.put("model.head_start", "orthogonal")  # random features have no directions worth whitening
    groups = chosen.put("batch.groups", min(BATCH, max(2, collection.images // 4)))
    if groups < 11:
        chosen.put("manifold.k", max(4, 2 * groups - 2))
    return chosen.config


def _views(model: ModelConfig, *, small: bool) -> ViewsConfig:
    if small:
        return ViewsConfig(size=64, resize=72, interpolation="bilinear")
    default = ViewsConfig(size=SIDE, resize=256)
    found = own_views(model, default, size=0, resize=0)
    return found if found.size <= SIDE else own_views(model, default, size=SIDE, resize=0)


def choose(asked: Asked, config: Config, start: Start, collection: Collection, machine: Machine, rate: float) -> Choice:
    """Choose the trainable part, the length and the number of ranks.

    Args:
        config: Of `network`.
        rate: Forward passes a second, see speed.py.
    """
    chosen = Settings(replace(asked, config=config))
    chosen.put("data.shards", collection.shards)
    chosen.config = replace(chosen.config, data=replace(chosen.config.data, shards=collection.shards))
    chosen.put("data.workers", max(2, machine.cores // max(1, machine.gpus)))
    judged = "test" if "test" in collection.splits else "train" if collection.classes else ""
    chosen.put("data.test_split", judged)
    embed, judging = collection.images / rate, JUDGED / rate
    left = SHARE * (60 * asked.minutes - OTHER_SECONDS - 2 * embed - judging)
    trainable, why = _trained(chosen, start, machine, rate, left)
    ranks, reason = machine.ranks(whole=trainable != "head", images=chosen.config.batch.images)
    training = _length(chosen, collection, rate, left, trainable)
    shown = chosen.config
    rows = [
        ("network", f"{shown.model.backbone}, weights {shown.model.weights or 'random'}", start.why),
        (
            "views",
            f"{shown.views.size} px",
            "size of its pretraining, at most 224" if start.weights else "small network",
        ),
        (
            "embedding",
            f"{shown.model.dim} dimensions",
            f"at least {IMAGES_A_DIM} images a dimension, at most {DIMS[1]}",
        ),
        ("trained", shown.model.trainable, why),
        ("batch", f"{shown.batch.images} images, {shown.train.epochs} epochs", f"in about {asked.minutes:g} minutes"),
        ("ranks", str(asked.ranks or ranks), "as given" if asked.ranks else reason),
        ("judged by", _judge(collection), ""),
    ]
    seconds = {
        "training": training,
        "comparison with the start": judging,
        "index": embed,
        "start of programs and report": OTHER_SECONDS,
    }
    return Choice(shown, asked.ranks or ranks, rows, _warnings(shown, start, collection), seconds)


def _trained(chosen: Settings, start: Start, machine: Machine, rate: float, left: float) -> tuple[str, str]:
    """The trainable part, and why: the backbone if there is time for enough steps, else the head on cached features."""
    if not start.weights and start.backbone == "small":
        for key, value in SMALL.items():
            chosen.put(key, value)
        return chosen.put("model.trainable", "all"), "random weights"
    transformer = chosen.config.model.pooling == "cls"
    most = "blocks:2" if transformer else "all"
    step = chosen.config.batch.images * chosen.config.views.count * STEP_PASSES / rate
    if left / step >= STEPS[most]:
        trained = chosen.put("model.trainable", most)
        if trained != "head":
            chosen.put("views.cached", 0)
        if transformer:
            for key, value in TRANSFORMER.items():
                chosen.put(key, value)
        return trained, f"a step takes about {step:.2g} s here"
    trained = chosen.put("model.trainable", "head")
    if trained == "all":
        chosen.put("views.cached", 0)
        return trained, "as given"
    return trained, f"a step of the whole network would take {step:.2g} s; --minutes allows {max(0, left / step):.0f}"


def _length(chosen: Settings, collection: Collection, rate: float, left: float, trainable: str) -> float:
    """Set the epochs; the seconds of training."""
    config = chosen.config
    steps = max(1, collection.images // config.batch.images)
    cached = config.views.cached
    once = (cached + 1) * collection.images / rate if cached else 0.0
    step = HEAD_STEP_SECONDS if cached else config.batch.images * config.views.count * STEP_PASSES / rate
    kind = trainable if trainable in STEPS else "all"
    wanted = max(STEPS[kind], min((left - once) / step, MOST_EPOCHS[kind] * steps, 4 * STEPS[kind]))
    epochs = chosen.put("train.epochs", max(1, round(wanted / steps)))
    if config.warm_up.epochs:
        chosen.put("warm_up.epochs", max(1, epochs // 2))
        chosen.put("train.epochs", max(1, epochs - epochs // 2))
    chosen.put("train.evaluate_epochs", chosen.config.train.epochs)
    chosen.put("checkpoint.every_steps", max(1, min(100, round(60 / step))))
    total = (chosen.config.train.epochs + chosen.config.warm_up.epochs) * steps
    return once + collection.images / rate + total * step


def _judge(collection: Collection) -> str:
    if "test" in collection.splits:
        return "recall on the images of test/, and agreement of views"
    if collection.classes:
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
    if collection.images < 300:
        found.append(f"{collection.images} images are few: expect little gain over the pretrained network")
    return found
