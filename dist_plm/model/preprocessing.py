"""Preprocessing of a pretrained backbone: image size, resize filter and pooling of its pretraining."""

from dataclasses import replace

import torch

from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.errors import UserError
from dist_plm.model.backbones import TIMM
from dist_plm.model.encoder import Encoder

LARGEST_TRIED = 512  # pixels


def with_filter(model: ModelConfig, views: ViewsConfig) -> ViewsConfig:
    """The views with the filter that `interpolation: auto` means for this backbone."""
    if views.interpolation != "auto":
        return views
    if not model.backbone.startswith(TIMM):
        return replace(views, interpolation="bilinear")
    from dist_plm.model.timm_backbone import check_timm, interpolation

    check_timm(model.backbone, "")
    return replace(views, interpolation=interpolation(model.backbone))


def own_views(model: ModelConfig, views: ViewsConfig, *, size: int, resize: int) -> ViewsConfig:
    """The views with the size, crop and filter of the backbone's pretraining.

    Args:
        size: Side of the crop instead, pixels; 0: that of the pretraining.
        resize: Shorter side before the crop instead; 0: in the pretraining's relation to the crop.
    """
    default_size, share = views.size, views.size / views.resize
    if model.backbone.startswith(TIMM):
        from dist_plm.model.timm_backbone import check_timm, timm_settings

        check_timm(model.backbone, model.weights)
        settings = timm_settings(model.backbone)
        default_size, share = settings["input_size"][-1], settings["crop_pct"]
    size = size or default_size
    resize = resize or round(size / share)
    if not 0 < size <= resize:
        raise UserError(f"a centre crop of {size} px does not fit into a shorter side of {resize} px: --size, --resize")
    return with_filter(model, replace(views, size=size, resize=resize))


def own_pooling(model: ModelConfig) -> str:
    """The pooling of the backbone's pretraining: `cls` where it has a class token or attention pooling, else `avg`."""
    if not model.backbone.startswith(TIMM):
        return "cls" if model.backbone.startswith("vit_") else "avg"
    from dist_plm.model.timm_backbone import pools_by_token

    return "cls" if pools_by_token(model.backbone) else "avg"


@torch.no_grad()
def check_size(network: Encoder, backbone: str, size: int) -> None:
    """Raise UserError, with the next larger valid size, if the network does not support this image size.

    Args:
        network: Run on one image; its mode is unchanged.
        backbone: `model.backbone`.
        size: `views.size`, pixels.
    """
    training = network.training
    network.eval()
    try:
        if not (reason := _refusal(network, size)):
            return
        low, high = size, 2 * size
        while high < LARGEST_TRIED and _refusal(network, high):
            low, high = high, 2 * high
        while high - low > 1:  # `low` is too small; `high` fits, if any size does
            middle = (low + high) // 2
            low, high = (middle, high) if _refusal(network, middle) else (low, middle)
        mend = "set another size" if _refusal(network, high) else f"the smallest is {high}"
        raise UserError(f"views.size {size}: {backbone} does not support this size ({reason}); {mend}")
    finally:
        network.train(training)


def _refusal(network: Encoder, size: int) -> str:
    """Why the network does not support this image size; empty if it does."""
    weight = network.head.weight
    try:
        network(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype))
    except (AssertionError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""
