"""The paper's table 2: label purity of sets and correlation of similarity with ground truth, on one data set."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dist_plm.evaluation.pair_quality import Attraction, PairMoments, Purity, Ranking
from dist_plm.manifold.distance import distance
from dist_plm.supervision.estimates import SimilarityEstimate

ROWS = 256  # points per block


@dataclass(frozen=True)
class Judgement:
    """Statistics of an estimate; those of disjoint sets of points add up.

    Args:
        moments: Of similarity and ground truth over pairs of different points.
        purity: Of the sets.
        control: Of as many nearest neighbours.
        attraction: Of pairs.
        ranking: Of the points by their similarity.
        sizes: How many sets have each size.
    """

    moments: PairMoments = field(default_factory=PairMoments)
    purity: Purity = field(default_factory=Purity)
    control: Purity = field(default_factory=Purity)
    attraction: Attraction = field(default_factory=Attraction)
    ranking: Ranking = field(default_factory=Ranking)
    sizes: dict[int, int] = field(default_factory=dict)

    def __add__(self, other: "Judgement") -> "Judgement":
        sizes = {size: self.sizes.get(size, 0) + other.sizes.get(size, 0) for size in {**self.sizes, **other.sizes}}
        return Judgement(
            self.moments + other.moments,
            self.purity + other.purity,
            self.control + other.control,
            self.attraction + other.attraction,
            self.ranking + other.ranking,
            dict(sorted(sizes.items())),
        )

    def result(self) -> dict[str, Any]:
        """The numbers as a JSON object."""
        purity, control, attraction = self.purity.means, self.control.means, self.attraction
        return {
            "purity": purity["purity"],
            "purity_control": control["purity"],
            "same_label": purity["same_label"],
            "same_label_control": control["same_label"],
            "mean_size": purity["size"],
            "correlation": self.moments.correlation,
            "pairs": self.moments.count,
            "positive_share": self.moments.mean_y,
            "map_at_r": self.ranking.map_at_r,
            **(attraction.shares if attraction.positives else {}),
            "sizes": self.sizes,
        }


def judge(
    estimate: SimilarityEstimate,
    points: Tensor,
    labels: Tensor,
    neighbours: Tensor,
    *,
    delta: float,
    progress: Callable[[int], None],
) -> Judgement:
    """Evaluate an estimate by labels.

    Args:
        estimate: Over these points.
        points: [n, D].
        labels: int64 [n]; points labelled -1 count nowhere.
        neighbours: int64 [n, depth], the nearest others of each point, nearest first; sets larger than 1 + depth are
            compared with that many.
        delta: Of equation 6.
        progress: Called with the number of points done after each block.
    """
    total = Judgement()
    for rows in torch.arange(len(points)).split(ROWS):
        similarity, sets = estimate.view(rows)
        pairs = (labels[rows, None] >= 0) & (labels >= 0) & (rows[:, None] != torch.arange(len(points)))
        positive = labels[rows, None] == labels
        d, attraction = distance(points[rows], points), Attraction()
        if estimate.scaled:
            attraction = Attraction.of(delta * (1 - similarity), d, positive, pairs)
        size = torch.tensor([len(group) for group in sets])
        nearest = torch.cat([rows[:, None], neighbours[rows]], 1)[:, : int(size.max())]
        sizes, count = size.unique(return_counts=True)
        total += Judgement(
            PairMoments.of(similarity[pairs], positive[pairs]),
            Purity.of(*_padded([labels[group] for group in sets])),
            Purity.of(labels[nearest], torch.arange(nearest.shape[1]) < size[:, None]),
            attraction,
            Ranking.of(similarity, d, positive & pairs, rows),
            dict(zip(sizes.tolist(), count.tolist(), strict=True)),
        )
        progress(len(rows))
    return total


def judge_batches(
    estimate: SimilarityEstimate,
    points: Tensor,
    labels: Tensor,
    batches: Tensor,
    *,
    delta: float,
    progress: Callable[[int], None],
) -> Judgement:
    """The same among the points of each of the batches, int64 [steps, b], and summed."""
    total = Judgement()
    for batch in batches:
        x = points[batch]
        order = distance(x, x).fill_diagonal_(-1).sort(dim=1, stable=True).indices[:, 1:]
        total += judge(estimate.within(batch), x, labels[batch], order, delta=delta, progress=lambda _: None)
        progress(1)
    return total


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as [b, longest] and which entries are theirs."""
    size = torch.tensor([len(row) for row in rows])
    return pad_sequence(rows, batch_first=True, padding_value=-1), torch.arange(int(size.max())) < size[:, None]
