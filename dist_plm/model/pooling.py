"""Global pooling of a backbone's map or tokens to one vector."""

import torch
from torch import Tensor, nn

from dist_plm.errors import UserError

GEM_POWER = 3.0  # initial exponent of GeM (Radenovic et al., TPAMI 2019)
GEM_LEAST = 1e-6  # lower clamp: a power of a non-positive number has no gradient


class Pooling(nn.Module):
    """[b, C, h, w] or [b, n, C] -> [b, F].

    `avg`, `max`, `avg_max` (their sum) and `gem` (mean of p-th powers, p learnable) pool the positions of a map, or the
    patch tokens of a transformer. `cls` takes the class token, or the output of attention pooling of a network that has
    that instead; `cls_avg` joins it with the mean of the patch tokens. Vectors [b, C] pass as they are.

    Args:
        kind: As `ModelConfig.pooling`.
        backbone: Of which `features` is C, and `summary` whether the first of its tokens is not a patch but the class
            token or the output of attention pooling.
        name: Of the backbone, for errors.

    Attributes:
        features: F.

    Raises:
        UserError: The backbone has no such token.
    """

    def __init__(self, kind: str, backbone: nn.Module, name: str) -> None:
        super().__init__()
        self.kind, self.summary = kind, bool(getattr(backbone, "summary", False))
        if kind in ("cls", "cls_avg") and not self.summary:
            raise UserError(f"model.pooling {kind}: {name} has no class token: set --model.pooling avg, gem or avg_max")
        if kind == "cls_avg" and getattr(backbone, "patches", True) is False:
            raise UserError(f"model.pooling cls_avg: {name} returns only its class token: set --model.pooling cls")
        channels: int = backbone.features  # type: ignore[assignment]
        self.features = 2 * channels if kind == "cls_avg" else channels
        if kind == "gem":
            self.p = nn.Parameter(torch.tensor(GEM_POWER))

    def forward(self, features: Tensor) -> Tensor:
        # Reductions, not pooling layers: the backward of adaptive max pooling is not deterministic on a GPU.
        if features.ndim == 2:
            return features
        over = (2, 3) if features.ndim == 4 else (1,)
        token = features[:, :, 0, 0] if features.ndim == 4 else features[:, 0]
        patches = features if features.ndim == 4 else features[:, int(self.summary) :]
        if self.kind == "cls":
            return token
        if self.kind == "cls_avg":
            return torch.cat([token, patches.mean(over)], dim=1)
        if self.kind == "gem":
            return patches.clamp_min(GEM_LEAST).pow(self.p).mean(over).pow(1 / self.p)
        if self.kind == "avg":
            return patches.mean(over)
        if self.kind == "max":
            return patches.amax(over)
        return patches.mean(over) + patches.amax(over)
