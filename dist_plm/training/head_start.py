"""Where the head starts: a random orthogonal projection, or the principal directions of the data's own features."""

from collections.abc import Callable

import torch
from torch import Tensor

from dist_plm.config import ModelConfig
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.rows import BLOCK, Rows
from dist_plm.model import Encoder


def principal_projection(features: Rows, dim: int, *, whiten: bool) -> tuple[Tensor, Tensor]:
    """Centre features [n, C] and project them on their `dim` strongest principal directions.

    Args:
        features: [n, C], n > dim, at least `dim` directions with variance; read twice, a block at a time.
        dim: D.
        whiten: Divide each direction by its standard deviation.

    Returns:
        weight [D, C] and bias [D] in float64. The weight's norm is sqrt(D), that of an orthogonal one: the
        length of an embedding is normalised away, and a rate of Adam moves both alike.

    Raises:
        UserError: Fewer than `dim` directions.
    """
    count = len(features)
    mean = sum((block.double().sum(dim=0) for _, block in features.blocks(BLOCK)), torch.zeros(())) / count
    centred = (block.double() - mean for _, block in features.blocks(BLOCK))
    covariance = sum((block.T @ block for block in centred), torch.zeros(())) / count
    variance, directions = torch.linalg.eigh(covariance)
    variance, directions = variance.flip(0)[:dim], directions.flip(1)[:, :dim]
    if len(variance) < dim or count <= dim or (whiten and variance[-1] <= 1e-9 * variance[0]):
        raise UserError(
            f"model.head_start needs {dim} directions (model.dim), the features of {count} images have fewer: "
            "lower it, or set --model.head_start orthogonal, in another run_dir"
        )
    # An eigenvector's sign is arbitrary: its largest entry is made positive, so that all machines agree.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    weight = (directions * largest.sign()).T
    if whiten:
        weight = weight / variance.sqrt()[:, None]
    weight = weight * (dim**0.5 / weight.norm())
    return weight, -(weight @ mean)


@torch.no_grad()
def fit_heads(student: Encoder, config: ModelConfig, features: Callable[[], Rows], world: World) -> None:
    """Set the heads as `model.head_start` says. A collective.

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
            # All ranks fit, and so meet the same mistake; in near eigenvalues they may part, so the first's hold.
            fitted = principal_projection(found, head.out_features, whiten=whiten)
            weight, bias = (world.from_first(each.cpu) for each in fitted)
            head.weight.copy_(weight)
            head.bias.copy_(bias)
