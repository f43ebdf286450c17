"""A trained network for inference: images to unit vectors, without gradient."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view
from dist_plm.model.digest import digest
from dist_plm.model.encoder import Encoder
from dist_plm.parallel.strategy import PRECISIONS


@dataclass(frozen=True)
class Embedder:
    """A network f with its preprocessing and origin.

    Args:
        network: f, as `ready` returns it.
        model: The network's architecture.
        views: `resize` and `size` of its images; the rest is for training.
        precision: Precision of training and inference, as `train.precision`.
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
        """Device of the network."""
        return self.network.head.weight.device

    def identity(self) -> str:
        """Digest of all that an embedding of an image depends on.

        Weights alone don't identify a network: pooling has none, and neither have preprocessing and precision.
        """
        views = self.views.size, self.views.resize, self.views.interpolation
        facts = digest(self.network), sorted(asdict(self.model).items()), views, self.precision
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def embed(self, views: Tensor) -> Tensor:
        """RGB views [b, 3, size, size] in 0-255 on any device -> embeddings [b, D] on the network's device."""
        lower = self.precision in ("fp16", "bf16")
        dtype = PRECISIONS[self.precision] if lower else None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=lower):
            return self.network(views.to(self.device, non_blocking=True))

    def __str__(self) -> str:
        return f"{self.source['model']} of {self.source['run']}, step {self.source['step']}"


def ready(network: Encoder, precision: str, device: torch.device) -> Encoder:
    """The network in evaluation mode, without gradients, on its device and in its precision."""
    dtype = PRECISIONS["fp64"] if precision == "fp64" else PRECISIONS["fp32"]
    # Channels-last, as in training: the same kernels, and so bitwise identical results.
    return network.to(device, dtype).to(memory_format=torch.channels_last).requires_grad_(False).eval()


def embed_ids(embedder: Embedder, store: Store, ids: np.ndarray, batch_size: int) -> Tensor:
    """Embeddings of the evaluation views of images `ids` of a split: float32 [n, D] on the CPU."""
    embedded = []
    for block in np.split(ids, range(batch_size, len(ids), batch_size)):
        views = np.stack([eval_view(store.read_image(int(id)), config=embedder.views) for id in block])
        embedded.append(embedder.embed(torch.from_numpy(views)).float().cpu())
    return torch.cat(embedded)
