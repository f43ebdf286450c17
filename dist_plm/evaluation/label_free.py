"""What can be said of an embedding without labels, from two independent random views of each held-out image.

Each number comes with its standard error, so that a difference can be told from noise. docs/verdict.md has how well
each of them predicts recall where there are labels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dist_plm.index.flat import nearest
from dist_plm.manifold import effective_rank

DEPTH = 10  # neighbours whose agreement is measured
ROWS = 1_024


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


def label_free(first: Tensor, second: Tensor) -> dict[str, Estimate]:
    """Statistics of embeddings of two random views of n images, first and second [n, D], of unit length.

    Returns:
        view_recall: Share of the images whose second view is nearest to their first, among the second views of all.
        agreement: Mean share of the DEPTH nearest images of an image that both draws of views agree on.
        effective_rank: Directions that the embeddings take up (Roy & Vetterli, EUSIPCO 2007).
        uniformity: -log of the mean of exp(-2 |z_i - z_j|^2) over pairs (Wang & Isola, ICML 2020); larger is wider
            spread.
        hubness: Largest share of the images that have one and the same image as their nearest.
        skewness: Of how often an image is among the DEPTH nearest of others (Radovanovic et al., JMLR 2010).
    """
    n, depth = len(first), min(DEPTH, len(first) - 1)
    own = torch.arange(n)
    hit = torch.from_numpy(nearest(first, second, 1)[0])[:, 0] == own
    near = [torch.from_numpy(nearest(z, z, depth, exclude=own)[0]) for z in (first, second)]
    shared = (near[0][:, :, None] == near[1][:, None, :]).any(2).double().mean(1)
    counts = torch.bincount(near[0][:, 0], minlength=n)
    occurrence = torch.bincount(near[0].flatten(), minlength=n).double()
    return {
        "view_recall": _mean(hit.double()),
        "agreement": _mean(shared),
        "effective_rank": _of_halves(lambda z: float(effective_rank(z - z.mean(0))), first, second),
        "uniformity": _of_halves(uniformity, first, second),
        "hubness": Estimate(int(counts.max()) / n, math.sqrt(int(counts.max())) / n),
        "skewness": _skewness(occurrence),
    }


def uniformity(z: Tensor) -> float:
    """-log of the mean over pairs i != j of exp(-2 |z_i - z_j|^2), z [n, D]."""
    total = sum(float((-2 * torch.cdist(rows, z).square()).exp().double().sum()) for rows in z.split(ROWS))
    return -math.log((total - len(z)) / (len(z) * (len(z) - 1)))


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def _of_halves(statistic: Callable[[Tensor], float], first: Tensor, second: Tensor) -> Estimate:
    """Of all images, with the deviation between two independent draws of views as its error."""
    values = [statistic(first.float()), statistic(second.float())]
    return Estimate(sum(values) / 2, abs(values[0] - values[1]) / 2)


def _skewness(values: Tensor) -> Estimate:
    """Third standardised moment, with the error of a normal sample, sqrt(6 / n)."""
    offset = values - values.mean()
    deviation = offset.square().mean().sqrt()
    skewness = float(offset.pow(3).mean() / deviation.pow(3)) if deviation > 0 else 0.0
    return Estimate(skewness, math.sqrt(6 / len(values)))
