"""The networks and how their weights move."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class ModelConfig:
    """Student and momentum encoder.

    Args:
        backbone: `bvlc_googlenet` (this literature's Caffe network), `small`, or a classifier of torchvision.
        weights: Empty for random ones, `imagenet` for torchvision's own, or a file (.safetensors, .pth, .caffemodel).
        dim: Dimension D of the embedding.
        wide_dim: Dimension of a second head g beside the embedding, which teaches in `stml`; 0 leaves it out.
        layer_norm: Normalise the head's output over its D entries before it is brought to unit length.
        pooling: Global pooling before the head; `avg_max` is the sum of both.
        batch_norm: `frozen` and `synchronised` are exact on any number of ranks; `per_rank` is not.
        momentum: gamma of equation 1.
        head_start: The heads at step 0: a random `orthogonal` projection, or the principal directions (`pca`) of the
            training images' pooled features, each divided by its standard deviation (`whitened`).
    """

    backbone: str = "small"
    weights: str = ""
    dim: int = 64
    wide_dim: int = 0
    layer_norm: bool = False
    pooling: Literal["avg_max", "avg", "max"] = "avg_max"
    batch_norm: Literal["frozen", "synchronised", "per_rank"] = "frozen"
    momentum: float = 0.98
    head_start: Literal["orthogonal", "pca", "whitened"] = "orthogonal"


@dataclass
class OptimiserConfig:
    """How weights move.

    Args:
        name: Update rule.
        lr: Learning rate of head and backbone.
        backbone_lr_scale: Learning rate of the backbone, as a multiple of the head's.
        weight_decay: For the network; proxies have none.
        schedule: Learning rate over the steps of a phase; `steps` multiplies it by `decay` at each milestone.
        milestones: Epochs after which the rate decays.
        decay: Factor at a milestone.
        warmup_steps: Steps over which the learning rate rises from 0.
        head_only_epochs: First epochs of a phase, in which the backbone rests.
        clip_norm: Largest norm of the gradient of all that is trained, proxies included; 0: none.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 2e-4
    backbone_lr_scale: float = 1.0
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    milestones: list[int] = field(default_factory=list)
    decay: float = 0.5
    warmup_steps: int = 0
    head_only_epochs: int = 0
    clip_norm: float = 0.0
