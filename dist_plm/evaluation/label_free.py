"""Statistics of an embedding without labels, from two independent random views of each held-out image.

Each has a standard error, to distinguish a change from noise. docs/verdict.md has the measured correlation of each
statistic with recall.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dist_plm.index.flat import nearest
from dist_plm.manifold import effective_rank

STRONG_RECALL = "strong_view_recall"  # view_recall with stronger crops and colour changes
DEPTH = 10  # neighbours whose agreement is measured
ROWS = 1_024


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


class TwoViews:
    """Embeddings of two random views of n images, first and second [n, D], of unit length."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first.float(), second.float()

    @cached_property
    def hits(self) -> Tensor:
        """float64 [n]: 1 where the second view of an image is nearest to its first, among the second views of all."""
        rows = torch.arange(len(self.first))
        return (torch.from_numpy(nearest(self.first, self.second, 1)[0])[:, 0] == rows).double()

    @cached_property
    def near(self) -> list[Tensor]:
        """Two tensors int64 [n, DEPTH]: the nearest other images by the first views, and by the second."""
        return [neighbours(z) for z in (self.first, self.second)]

    @cached_property
    def shared(self) -> Tensor:
        """float64 [n]: overlap of an image's DEPTH nearest images by the first views and by the second."""
        return overlap(*self.near)

    def statistics(self) -> dict[str, Estimate]:
        """The statistics of `label_free`."""
        n, occurrence = len(self.first), torch.bincount(self.near[0].flatten(), minlength=len(self.first))
        counts = torch.bincount(self.near[0][:, 0], minlength=n)
        return {
            "view_recall": self.recall(),
            "agreement": _mean(self.shared),
            "effective_rank": _of_halves(_rank, self.first, self.second),
            "uniformity": _of_halves(uniformity, self.first, self.second),
            "hubness": Estimate(int(counts.max()) / n, math.sqrt(int(counts.max())) / n),
            "skewness": _skewness(occurrence.double()),
        }

    def recall(self) -> Estimate:
        """Mean of `hits`."""
        return _mean(self.hits)

    def recall_since(self, start: "TwoViews") -> Estimate:
        """Paired change of `recall` since `start`, embeddings of the same views by another network."""
        return _mean(self.hits - start.hits)

    def change_since(self, start: "TwoViews") -> dict[str, Estimate]:
        """Change of each statistic since `start`, embeddings of the same views by another network.

        Standard errors are of paired differences: by image for means over images, by draw of views for effective
        rank and uniformity.
        """
        now, before = self.statistics(), start.statistics()
        changes = {
            "view_recall": self.recall_since(start),
            "agreement": _mean(self.shared - start.shared),
        }
        for name, statistic in (("effective_rank", _rank), ("uniformity", uniformity)):
            moved = [statistic(a) - statistic(b) for a, b in ((self.first, start.first), (self.second, start.second))]
            changes[name] = Estimate(sum(moved) / 2, abs(moved[0] - moved[1]) / 2)
        for name in ("hubness", "skewness"):
            changes[name] = Estimate(
                now[name].value - before[name].value, math.hypot(now[name].error, before[name].error)
            )
        return changes


def label_free(first: Tensor, second: Tensor) -> dict[str, Estimate]:
    """Statistics of embeddings of two random views of n images, first and second [n, D], of unit length.

    Returns:
        view_recall: Share of the images whose first view has their own second view as its nearest neighbour, among
            the second views of all images.
        agreement: Mean overlap of the DEPTH nearest images by the first views and by the second.
        effective_rank: Effective number of dimensions of the embeddings (Roy & Vetterli, EUSIPCO 2007).
        uniformity: -log of the mean of exp(-2 |z_i - z_j|^2) over pairs (Wang & Isola, ICML 2020); larger values mean
            a wider spread.
        hubness: Largest share of the images that have the same image as their nearest neighbour.
        skewness: Skewness of the number of times that an image is among the DEPTH nearest of others (Radovanovic et
            al., JMLR 2010).
    """
    return TwoViews(first, second).statistics()


def neighbours(z: Tensor) -> Tensor:
    """The DEPTH nearest other rows of each row of z [n, D], or all n - 1: int64 [n, depth]."""
    rows = torch.arange(len(z))
    return torch.from_numpy(nearest(z, z, min(DEPTH, len(z) - 1), exclude=rows)[0])


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Share of common neighbours of two searches [n, depth], float64 [n]."""
    return (one[:, :, None] == other[:, None, :]).any(2).double().mean(1)


def uniformity(z: Tensor) -> float:
    """-log of the mean over pairs i != j of exp(-2 |z_i - z_j|^2), z [n, D]."""
    total = sum(float((-2 * torch.cdist(rows, z).square()).exp().double().sum()) for rows in z.split(ROWS))
    return -math.log((total - len(z)) / (len(z) * (len(z) - 1)))


def _rank(z: Tensor) -> float:
    return float(effective_rank(z - z.mean(0)))


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def _of_halves(statistic: Callable[[Tensor], float], first: Tensor, second: Tensor) -> Estimate:
    """Mean of a statistic over two independent draws of views; its error is half their difference."""
    values = [statistic(first), statistic(second)]
    return Estimate(sum(values) / 2, abs(values[0] - values[1]) / 2)


def _skewness(values: Tensor) -> Estimate:
    """Third standardised moment, with the error of a normal sample, sqrt(6 / n)."""
    offset = values - values.mean()
    deviation = offset.square().mean().sqrt()
    skewness = float(offset.pow(3).mean() / deviation.pow(3)) if deviation > 0 else 0.0
    return Estimate(skewness, math.sqrt(6 / len(values)))
