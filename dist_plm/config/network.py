"""The networks and how their weights move."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class ModelConfig:
    """Student and momentum encoder.

    Args:
        backbone: `bvlc_googlenet` (this literature's Caffe network), `small`, or a classifier of torchvision.
        weights: Empty for random ones, `imagenet` for torchvision's own, or a file (.safetensors, .pth).
        dim: Dimension D of the embedding.
        pooling: Global pooling before the head; `avg_max` is the sum of both.
        batch_norm: `frozen` and `synchronised` are exact on any number of ranks; `per_rank` is not.
        momentum: gamma of equation 1.
    """

    backbone: str = "bvlc_googlenet"
    weights: str = ""
    dim: int = 128
    pooling: Literal["avg_max", "avg", "max"] = "avg_max"
    batch_norm: Literal["frozen", "synchronised", "per_rank"] = "frozen"
    momentum: float = 0.999


@dataclass
class OptimiserConfig:
    """How weights move.

    Args:
        name: Update rule.
        lr: Learning rate of head and backbone.
        backbone_lr_scale: Learning rate of the backbone, as a multiple of the head's.
        weight_decay: For the network; proxies have none.
        schedule: Learning rate over the steps of a phase.
        warmup_steps: Steps over which the learning rate rises from 0.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 5e-4
    backbone_lr_scale: float = 1.0
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
