"""The network f_theta: an image becomes a point on the unit sphere."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dist_plm.config import ModelConfig
from dist_plm.model.backbones import TIMM, build_backbone
from dist_plm.model.batch_norm import AllReduceSum, convert_batch_norm
from dist_plm.model.pooling import Pooling


class Heads(nn.Module):
    """Pooling, one or two linear heads, l2 normalisation: from features of a backbone to embeddings.

    Args:
        pooling: Pooling of the backbone's features.
        head: f.
        wide_head: g, or None.
        norm: Normalisation of the head's output.
    """

    def __init__(self, pooling: Pooling, head: nn.Linear, wide_head: nn.Linear | None, norm: nn.Module) -> None:
        super().__init__()
        self.pooling, self.head, self.wide_head, self.norm = pooling, head, wide_head, norm

    def points(self, pooled: Tensor) -> Tensor:
        """[b, F] -> [b, D] of unit length, or [b, D + wide_dim] with a wide head."""
        with torch.autocast(pooled.device.type, enabled=False):
            f = normalize(self.norm(self.head(pooled)))
            return f if self.wide_head is None else torch.cat([f, normalize(self.wide_head(pooled))], dim=1)

    def pool(self, features: Tensor) -> Tensor:
        """[b, C, h, w], [b, n, C] or [b, F] -> [b, F], in the precision of the head's weights."""
        with torch.autocast(features.device.type, enabled=False):
            return self.pooling(features.to(self.head.weight.dtype))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters except the backbone's."""
        return (value for name, value in self.named_parameters() if not name.startswith("backbone."))


class Encoder(Heads):
    """Backbone, global pooling, linear head, l2 normalisation.

    Args:
        config: Which backbone, weights, pooling and dimension.
        network: A network to take as the backbone instead of `config.backbone`, as in own_backbone.py.
        seed: Of the weights that are drawn: the same seed gives every rank the same network, whatever was drawn before.
        blank: Leave the weights of the heads undrawn, since those of a file follow: shapes are compared first.
        all_reduce_sum: Differentiable sum over the ranks, needed to train with `batch_norm: synchronised`.

    Raises:
        UserError: An unknown backbone, or weights that are missing or fit another network.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        network: nn.Module | None = None,
        seed: int = 0,
        blank: bool = False,
        all_reduce_sum: AllReduceSum | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would also reset the generators of the GPUs.
            torch.default_generator.manual_seed(seed)
            backbone = build_backbone(config, network)
            pooling = Pooling(config.pooling, backbone, config.backbone)
            head = _head(pooling.features, config.dim, blank)
            wide_head = _head(pooling.features, config.wide_dim, blank) if config.wide_dim else None
        super().__init__(pooling, head, wide_head, nn.LayerNorm(config.dim) if config.layer_norm else nn.Identity())
        self.backbone = backbone
        # Image size and unused weights of networks from outside are unknown.
        self.known = network is None and not config.backbone.startswith(TIMM) and ":" not in config.backbone
        convert_batch_norm(self.backbone, config.batch_norm, all_reduce_sum)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images.

        Args:
            images: RGB [b, 3, h, w] in 0-255, uint8 or float.

        Returns:
            [b, D] of unit length, in the precision of the head's weights also under autocast. With a wide head
            [b, D + wide_dim]: f, then g, each of unit length.
        """
        return self.points(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Pooled features of images [b, 3, h, w]: [b, F], in the precision of the head's weights."""
        return self.pool(self.backbone(images))


def _head(features: int, dim: int, blank: bool) -> nn.Linear:
    if blank:
        return nn.utils.skip_init(nn.Linear, features, dim)
    head = nn.Linear(features, dim)
    nn.init.orthogonal_(head.weight)
    nn.init.zeros_(head.bias)
    return head
