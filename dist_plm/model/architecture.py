"""What kind of network a backbone is."""

from dataclasses import replace

import torch
from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.model.backbones import OWN, build_backbone
from dist_plm.model.own_backbone import is_own


def is_transformer(model: ModelConfig) -> bool:
    """Whether a backbone has several layers of self-attention; a single one is the pooling of a convolutional network.

    Recognised by the names of their classes, as `Attention`, `WindowAttention` or `MultiheadAttention`.

    Raises:
        UserError: As `build_backbone` does.
    """
    if model.backbone in OWN:
        return False
    plain = replace(model, weights="")
    with torch.device("cpu" if is_own(model.backbone) else "meta"):  # code of one's own may not run without data
        network = build_backbone(plain)
    return sum(_is_attention(layer) for layer in network.modules()) > 1


def _is_attention(layer: nn.Module) -> bool:
    name = type(layer).__name__.lower()
    return "attention" in name and "pool" not in name
