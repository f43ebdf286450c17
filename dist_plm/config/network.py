"""The networks and how their weights move."""

from dataclasses import dataclass, field
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class LoraConfig:
    """Low-rank adapters on the linear layers of a transformer (Hu et al., ICLR 2022), by peft: W + alpha / rank B A.

    The layers' own weights are frozen, and shared by student and momentum encoder; an export has the sum.

    Args:
        rank: Of B A; 0: no adapters. They replace the training of all blocks that `model.trainable` names.
        alpha: Scale of the adapters, divided by the rank.
        targets: Last names of the layers, such as `qkv` or `fc1`; none: all linear layers of the blocks.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """Student and momentum encoder.

    Args:
        backbone: `bvlc_googlenet` (this literature's Caffe network), `small`, a classifier of torchvision, `timm/NAME`
            for any network of timm, or `package.module:function` for one of your own (docs/python.md).
        weights: Empty for random ones, `imagenet` for torchvision's own, `pretrained` for timm's own, or a file
            (.safetensors, .pth, .bin, .caffemodel).
        dim: Dimension D of the embedding.
        wide_dim: Dimension of a second head g beside the embedding, which teaches in `stml`; 0 leaves it out.
        layer_norm: Normalise the head's output over its D entries before it is brought to unit length.
        pooling: Global pooling before the head, of a map's positions or a transformer's patches; `avg_max` is the sum
            of both. `cls` is the class token (or attention pooling, as in SigLIP), `cls_avg` that beside the mean of
            the patches, `gem` the generalised mean with a learnable exponent.
        batch_norm: `frozen` and `synchronised` are exact on any number of ranks; `per_rank` is not.
        momentum: gamma of equation 1.
        head_start: The heads at step 0: a random `orthogonal` projection, or the principal directions (`pca`) of the
            training images' pooled features, each divided by its standard deviation (`whitened`).
        trainable: What learns: `all`, the `head` alone, or the last N blocks of the backbone with the head, `blocks:N`.
            What is in front of them is frozen: no gradient, no optimiser state, one copy for student and teacher.
        lora: Adapters in place of the blocks' own weights.
        checkpointing: Keep what enters each block alone for the backward, and compute the rest again: less memory, a
            third more time, the same gradients.
    """

    backbone: str = "small"
    weights: str = ""
    dim: int = key(64, above=0, most=2**16)
    wide_dim: int = key(0, least=0, most=2**16)
    layer_norm: bool = False
    pooling: Literal["avg_max", "avg", "max", "cls", "cls_avg", "gem"] = "avg_max"
    batch_norm: Literal["frozen", "synchronised", "per_rank"] = "frozen"
    momentum: float = key(0.98, least=0, most=1)
    head_start: Literal["orthogonal", "pca", "whitened"] = "orthogonal"
    trainable: str = "all"
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpointing: bool = False


@dataclass
class OptimiserConfig:
    """How weights move.

    Args:
        name: Update rule.
        lr: Learning rate of head and backbone.
        backbone_lr_scale: Learning rate of the backbone, as a multiple of the head's.
        layer_decay: Factor of the learning rate from each block of the backbone to the one before it; 1: none.
        weight_decay: For the network; proxies have none.
        schedule: Learning rate over the steps of a phase; `steps` multiplies it by `decay` at each milestone.
        milestones: Epochs after which the rate decays.
        decay: Factor at a milestone.
        warmup_steps: Steps over which the learning rate rises from 0.
        head_only_epochs: First epochs of a phase, in which the backbone rests.
        clip_norm: Largest norm of the gradient of all that is trained, proxies included; 0: none.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = key(2e-4, above=0)
    backbone_lr_scale: float = 1.0
    layer_decay: float = key(1.0, above=0)
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    milestones: list[int] = key([], above=0)
    decay: float = key(0.5, above=0)
    warmup_steps: int = 0
    head_only_epochs: int = key(0, least=0)
    clip_norm: float = key(0.0, least=0)
