"""Initialisation of the head: a random orthogonal projection, or the principal directions of the features."""

from collections.abc import Callable

import torch
from torch import Tensor

from dist_plm.config import ModelConfig
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.index.rows import BLOCK, Rows
from dist_plm.model import Encoder


def principal_projection(features: Rows, dim: int, *, whiten: bool) -> tuple[Tensor, Tensor]:
    """Projection of features [n, C] onto their first `dim` principal directions, centred.

    Args:
        features: [n, C] with n > dim and rank >= dim; read twice, in blocks.
        dim: D.
        whiten: Divide each direction by its standard deviation.

    Returns:
        weight [D, C] and bias [D] in float64. The norm of the weight is sqrt(D), that of an orthogonal one: embeddings
        are normalised, and the same learning rate of Adam then suits both.

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
    # The sign of an eigenvector is arbitrary: make its largest entry positive, so that all machines agree.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    weight = (directions * largest.sign()).T
    if whiten:
        weight = weight / variance.sqrt()[:, None]
    weight = weight * (dim**0.5 / weight.norm())
    return weight, -(weight @ mean)


@torch.no_grad()
def fit_heads(student: Encoder, config: ModelConfig, features: Callable[[], Rows], world: World) -> None:
    """Initialise the heads as `model.head_start` says. A collective.

    Args:
        student: Changed in place, except for `orthogonal`.
        config: `head_start`.
        features: Returns the pooled features of the training images [n, C], the same on all ranks; called if needed.
    """
    if config.head_start == "orthogonal":
        return
    rows = features()
    for head in (student.head, student.wide_head):
        if head is not None:
            # The wide head has about as many dimensions as the features: whitening would amplify the noise of the last.
            whiten = config.head_start == "whitened" and head is student.head
            # All ranks fit, and so raise the same error; near-equal eigenvalues may differ, so rank 0's result is used.
            fitted = principal_projection(rows, head.out_features, whiten=whiten)
            weight, bias = (world.from_first(tensor.cpu) for tensor in fitted)
            head.weight.copy_(weight)
            head.bias.copy_(bias)
