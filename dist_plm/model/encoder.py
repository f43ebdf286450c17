"""The network f_theta: an image becomes a point on the unit sphere."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dist_plm.config import ModelConfig
from dist_plm.model.backbones import build_backbone
from dist_plm.model.batch_norm import AllReduceSum, convert_batch_norm


class Encoder(nn.Module):
    """Backbone, global pooling, linear head, l2 normalisation.

    Args:
        config: Which backbone, weights, pooling and dimension.
        seed: Of the weights that are drawn: the same seed gives every rank the same network, whatever was drawn before.
        blank: Leave the weights of the heads undrawn, since those of a file follow: shapes are compared first.
        all_reduce_sum: Differentiable sum over the ranks, needed to train with `batch_norm: synchronised`.

    Raises:
        UserError: An unknown backbone, or weights that are missing or fit another network.
    """

    def __init__(
        self, config: ModelConfig, *, seed: int = 0, blank: bool = False, all_reduce_sum: AllReduceSum | None = None
    ) -> None:
        super().__init__()
        self.pooling = config.pooling
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would also reset the generators of the GPUs.
            torch.default_generator.manual_seed(seed)
            self.backbone = build_backbone(config)
            self.head = _head(self.backbone.features, config.dim, blank)  # type: ignore[arg-type]
            self.wide_head: nn.Linear | None = None
            if config.wide_dim:
                self.wide_head = _head(self.backbone.features, config.wide_dim, blank)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(config.dim) if config.layer_norm else nn.Identity()
        convert_batch_norm(self.backbone, config.batch_norm, all_reduce_sum)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images.

        Args:
            images: RGB [b, 3, h, w] in 0-255, uint8 or float.

        Returns:
            [b, D] of unit length, in the precision of the head's weights also under autocast. With a wide head
            [b, D + wide_dim]: f, then g, each of unit length.
        """
        pooled = self.pooled(images)
        with torch.autocast(pooled.device.type, enabled=False):
            f = normalize(self.norm(self.head(pooled)))
            return f if self.wide_head is None else torch.cat([f, normalize(self.wide_head(pooled))], dim=1)

    def pooled(self, images: Tensor) -> Tensor:
        """What the heads see of images [b, 3, h, w]: [b, C], in the precision of the head's weights."""
        maps = self.backbone(images)
        with torch.autocast(maps.device.type, enabled=False):
            return self._pool(maps.to(self.head.weight.dtype))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but the backbone's."""
        return (value for name, value in self.named_parameters() if not name.startswith("backbone."))

    def _pool(self, maps: Tensor) -> Tensor:
        # Reductions, not pooling layers: the backward of adaptive max pooling is not deterministic on a GPU.
        if self.pooling == "avg":
            return maps.mean((2, 3))
        if self.pooling == "max":
            return maps.amax((2, 3))
        return maps.mean((2, 3)) + maps.amax((2, 3))


def _head(features: int, dim: int, blank: bool) -> nn.Linear:
    if blank:
        return nn.utils.skip_init(nn.Linear, features, dim)
    head = nn.Linear(features, dim)
    nn.init.orthogonal_(head.weight)
    nn.init.zeros_(head.bias)
    return head
