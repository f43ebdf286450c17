"""What the structure of a backbone decides: whether it is a transformer, and how many features it has."""

from dataclasses import replace

import torch
from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.model.backbones import OWN, TIMM, build_backbone
from dist_plm.model.own_backbone import build_own, is_own
from dist_plm.model.pooling import Pooling

TORCHVISION = ("vit_", "swin_")  # how the names of its transformers begin
# Children by which attention is recognised: the projections to queries, keys and values have these names in timm,
# torchvision and Hugging Face's libraries.
PROJECTIONS = ({"qkv"}, {"kv"}, {"q", "k"}, {"q_proj", "k_proj"}, {"query", "key"})


def is_transformer(model: ModelConfig) -> bool:
    """Whether blocks of the backbone have attention; attention pooling after convolutions does not count.

    Args:
        model: Only `backbone` is read; the network is built without its weights.

    Raises:
        UserError: Your own network can't be imported.
    """
    name = model.backbone
    if is_own(name):
        return has_attention(build_own(name))
    if not name.startswith(TIMM):
        return name not in OWN and name.startswith(TORCHVISION)
    import timm

    with torch.device("meta"):
        return has_attention(timm.create_model(name.removeprefix(TIMM), num_classes=0))


def feature_count(model: ModelConfig) -> int:
    """Number of pooled features F, the largest dimension of a head that is fitted to them.

    Args:
        model: `backbone` and `pooling`; the network is built without its weights.

    Raises:
        UserError: The backbone has no such pooling, or your own network can't be imported.
    """
    with torch.device("cpu" if is_own(model.backbone) else "meta"):
        backbone = build_backbone(replace(model, weights=""))
    return Pooling(model.pooling, backbone, model.backbone).features


def has_attention(network: nn.Module) -> bool:
    """Whether a network computes attention within its blocks."""
    return any(_is_attention(module) for module in network.modules() if "Pool" not in type(module).__name__)


def _is_attention(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    return isinstance(module, nn.MultiheadAttention) or any(wanted <= names for wanted in PROJECTIONS)
