"""Whether views are large enough for a backbone, by embedding one: before a run directory is made."""

import torch
from torch import nn

from dist_plm.errors import UserError

LARGEST = 512  # pixels; beyond it no smallest size is looked for


@torch.no_grad()
def check_view_size(backbone: nn.Module, name: str, size: int) -> None:
    """Raise a UserError, with the smallest size that fits, where a network takes no views of this size.

    Args:
        backbone: Takes images [b, 3, size, size] in 0-255; left in the mode that it is in.
        name: `model.backbone`.
        size: `views.size`, pixels.
    """
    training = backbone.training
    backbone.eval()
    try:
        if not (fault := _fault(backbone, size)):
            return
        low, high = size, 2 * size
        while high < LARGEST and _fault(backbone, high):
            low, high = high, 2 * high
        while high - low > 1:  # `low` is too small; `high` is large enough, if any size is
            middle = (low + high) // 2
            low, high = (middle, high) if _fault(backbone, middle) else (low, middle)
        hint = "" if _fault(backbone, high) else f": the smallest is {high}"
        raise UserError(f"views.size {size} does not fit model.backbone {name} ({fault}){hint}")
    finally:
        backbone.train(training)


def _fault(backbone: nn.Module, size: int) -> str:
    weight = next(backbone.parameters())
    try:
        backbone(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype))
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error).splitlines()[0].rstrip(".!") or type(error).__name__
    return ""
