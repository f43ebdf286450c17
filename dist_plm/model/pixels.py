"""Pixels 0-255 to what a network was trained on: subtract a mean and divide by a deviation, channel by channel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """First layer of every backbone, so that the rest of the project handles nothing but RGB in 0-255.

    Args:
        mean: Subtracted, one value or one a channel, on the scale 0-255.
        std: Divided by, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Constants, not weights: not persistent, or files of weights would have to hold them.
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255, uint8 or float -> the same shape in the precision of the network."""
        return (images.to(self.mean.dtype) - self.mean) / self.std
