"""Networks and optimizer."""

from dataclasses import dataclass, field
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class LoraConfig:
    """Low-rank adapters on the linear layers of a transformer (Hu et al., ICLR 2022), by peft: W + alpha / rank B A.

    The original weights are frozen, and shared by student and momentum encoder; an export has the merged weights.

    Args:
        rank: Rank of the adapters; 0: none. They replace full training of the blocks that `model.trainable` names.
        alpha: Scale of the adapters, divided by the rank.
        targets: Names of the adapted layers, such as `qkv` or `fc1`; empty: all linear layers of the blocks.
    """

    rank: int = key(0, least=0)
    alpha: float = key(16.0, above=0)
    targets: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """Student and momentum encoder.

    Args:
        backbone: `bvlc_googlenet` (this literature's Caffe network), `small`, a classifier of torchvision, `timm/NAME`
            for any network of timm, or `package.module:function` for your own (docs/python.md).
        weights: Pretrained weights: empty (random), `imagenet` (torchvision), `pretrained` (timm), or a file
            (.safetensors, .pth, .bin, .caffemodel).
        dim: Embedding dimension (D).
        wide_dim: Dimension of a second head (g), the teacher's in `stml`; 0: none.
        layer_norm: Layer normalisation of the head's output, before l2 normalisation.
        pooling: Global pooling before the head, over positions or patches; `avg_max` is the sum of both. `cls` is the
            class token (or attention pooling, as in SigLIP), `cls_avg` its concatenation with the mean of the patches,
            `gem` the generalised mean with a learnable exponent.
        batch_norm: Batch normalisation: `frozen` and `synchronised` are independent of the world size, `per_rank` is
            not.
        momentum: EMA momentum of the teacher (gamma, eq. 1).
        head_start: Initialisation of the heads: a random `orthogonal` projection, or the principal directions (`pca`)
            of the pooled features of the training images, each divided by its standard deviation (`whitened`).
        trainable: Trainable part: `all`, the `head`, or the last N blocks of the backbone and the head, `blocks:N`. The
            rest is frozen: no gradient, no optimizer state, one copy for student and teacher.
        lora: Low-rank adapters.
        checkpointing: Activation checkpointing: less memory, a third more time, the same gradients.
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
    """Optimizer and learning-rate schedule.

    Args:
        name: Optimizer.
        lr: Learning rate of head and backbone.
        backbone_lr_scale: Learning rate of the backbone, as a multiple of the head's.
        layer_decay: Layer-wise learning-rate decay per block, from the head down; 1: none.
        weight_decay: Weight decay of the network; proxies have none.
        schedule: Schedule over the steps of a phase; `steps` multiplies the rate by `decay` at each milestone.
        milestones: Epochs after which the rate decays.
        decay: Factor at a milestone.
        warmup_steps: Steps of linear learning-rate warm-up.
        head_only_epochs: First epochs of a phase with the backbone frozen.
        clip_norm: Gradient clipping: largest norm of the gradient of all parameters, proxies included; 0: none.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = key(2e-4, above=0)
    backbone_lr_scale: float = key(1.0, least=0)
    layer_decay: float = key(1.0, above=0)
    weight_decay: float = key(1e-4, least=0)
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    milestones: list[int] = key([], above=0)
    decay: float = key(0.5, above=0)
    warmup_steps: int = key(0, least=0)
    head_only_epochs: int = key(0, least=0)
    clip_norm: float = key(0.0, least=0)
