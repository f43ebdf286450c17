"""Replicated classifiers of embeddings: an MLP with batch norm over all ranks and rank-independent dropout."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dist_plm.model.batch_norm import AllReduceSum, SynchronisedRowNorm

Uniform = Callable[[int], Tensor]  # width -> numbers in [0, 1) for each row [b, width], others at each call


class Discriminator(nn.Module):
    """Linear, batch norm over all ranks, ReLU and dropout for each hidden layer; then linear.

    Args:
        dim: Of the rows.
        hidden: Widths of the hidden layers.
        classes: Scores of a row.
        dropout: Share of a hidden layer that is left out.
        seed: Of the weights.
        all_reduce_sum: Differentiable sum over the ranks.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        classes: int,
        *,
        dropout: float = 0.0,
        seed: int,
        all_reduce_sum: AllReduceSum,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        widths = [dim, *hidden]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.linears = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(widths))
            self.scores = nn.Linear(widths[-1], classes)
        self.norms = nn.ModuleList(SynchronisedRowNorm(width, 1e-5, 0.1, all_reduce_sum) for width in hidden)

    def forward(self, rows: Tensor, uniform: Uniform) -> Tensor:
        """Rows [b, D] -> scores [b, classes]. A collective.

        Args:
            uniform: Where dropout draws; the same numbers for a row whichever rank it is on.
        """
        for linear, norm in zip(self.linears, self.norms, strict=True):
            rows = norm(linear(rows)).relu()
            if self.dropout:
                rows = rows * (uniform(rows.shape[1]) >= self.dropout) / (1 - self.dropout)
        return self.scores(rows)
