"""Where the head starts: a random orthogonal projection, or the principal directions of the data's own features."""

from collections.abc import Callable

import torch
from torch import Tensor

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import Encoder


def principal_projection(features: Tensor, dim: int, *, whiten: bool) -> tuple[Tensor, Tensor]:
    """Centre features [n, C] and project them on their `dim` strongest principal directions.

    Args:
        features: [n, C], n > dim, at least `dim` directions with variance.
        dim: D.
        whiten: Divide each direction by its standard deviation.

    Returns:
        weight [D, C] and bias [D] in the features' format. The weight's norm is sqrt(D), that of an orthogonal one: the
        length of an embedding is normalised away, and a rate of Adam moves both alike.

    Raises:
        UserError: Fewer than `dim` directions.
    """
    points = features.double()
    mean = points.mean(dim=0)
    covariance = (points - mean).T @ (points - mean) / len(points)
    variance, directions = torch.linalg.eigh(covariance)
    variance, directions = variance.flip(0)[:dim], directions.flip(1)[:, :dim]
    if len(variance) < dim or (whiten and variance[-1] <= 1e-9 * variance[0]):
        raise UserError(
            f"model.head_start needs {dim} directions (model.dim), the features of {len(points)} images have fewer: "
            "lower it, or set --model.head_start orthogonal"
        )
    # An eigenvector's sign is arbitrary: its largest entry is made positive, so that all machines agree.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    weight = (directions * largest.sign()).T
    if whiten:
        weight = weight / variance.sqrt()[:, None]
    weight = weight * (dim**0.5 / weight.norm())
    return weight.to(features), -(weight @ mean).to(features)


@torch.no_grad()
def fit_heads(student: Encoder, config: ModelConfig, features: Callable[[], Tensor]) -> None:
    """Set the heads as `model.head_start` says.

    Args:
        student: Changed in place, but for `orthogonal`.
        config: `head_start`.
        features: Called where needed: what the heads see of the training images [n, C], alike on all ranks.
    """
    if config.head_start == "orthogonal":
        return
    found = features()
    for head in (student.head, student.wide_head):
        if head is not None:
            # About as wide as the features: its last directions are noise, which whitening would bring to the front.
            whiten = config.head_start == "whitened" and head is student.head
            weight, bias = principal_projection(found, head.out_features, whiten=whiten)
            head.weight.copy_(weight)
            head.bias.copy_(bias)
