"""A trained network ready for use: images in, points on the unit sphere out, without gradient."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.model.encoder import Encoder
from dist_plm.parallel.strategy import PRECISIONS


@dataclass(frozen=True)
class Embedder:
    """A network f, what its images go through before, and where it comes from.

    Args:
        network: f, as `ready` returns it.
        model: The network's architecture.
        views: `resize` and `size` of its images; the rest is for training.
        precision: In which it was trained and embeds, as `train.precision`.
        source: run, model (student or teacher), step, epochs, fingerprint of the data, versions.
    """

    network: Encoder
    model: ModelConfig
    views: ViewsConfig
    precision: str
    source: dict[str, Any]

    @property
    def dim(self) -> int:
        """D, the dimension of the embedding."""
        return self.model.dim

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.head.weight.device

    def embed(self, views: Tensor) -> Tensor:
        """RGB views [b, 3, size, size] in 0-255 on any device -> embeddings [b, D] on the network's device."""
        lower = self.precision in ("fp16", "bf16")
        dtype = PRECISIONS[self.precision] if lower else None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=lower):
            return self.network(views.to(self.device, non_blocking=True))

    def __str__(self) -> str:
        return f"{self.source['model']} of {self.source['run']}, step {self.source['step']}"


def ready(network: Encoder, precision: str, device: torch.device) -> Encoder:
    """The network in evaluation mode, without gradients, where and in the precision in which it embeds."""
    dtype = PRECISIONS["fp64"] if precision == "fp64" else PRECISIONS["fp32"]
    # Convolutions over channels-last maps, as in training: the same kernels and so the same bits.
    return network.to(device, dtype).to(memory_format=torch.channels_last).requires_grad_(False).eval()
