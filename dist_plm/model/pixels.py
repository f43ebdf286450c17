"""Normalisation of pixels in 0-255 by mean and standard deviation of a network's pretraining."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """First layer of every backbone, so that all inputs are RGB in 0-255.

    Args:
        mean: Subtracted, one value or one a channel, on the scale 0-255.
        std: Divided by, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Not persistent, since files of weights don't have them.
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255, uint8 or float -> the same shape in the precision of the network."""
        return (images.to(self.mean.dtype) - self.mean) / self.std
