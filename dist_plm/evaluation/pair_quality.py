"""Quality of a method's self-supervision, measured by labels (section 4.3 of the paper).

Pairs are processed in blocks and only moments are kept, so that there is no matrix of all pairs.
"""

import math
from dataclasses import astuple, dataclass, field
from operator import add
from typing import Self

import torch
from torch import Tensor

from dist_plm.evaluation.retrieval import average_precision


@dataclass(frozen=True)
class PairMoments:
    """Count, means and centred second moments of pairs (x, y); those of disjoint sets add up (Chan et al., 1983).

    Centred, because all pairs are 1.8e9 on SOP and 1 in 5,000 of them is positive: plain sums of squares would cancel.
    """

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "PairMoments":
        """Moments of the entries of x and y, two tensors of one shape."""
        x, y = x.flatten().double(), y.flatten().double()
        if not x.numel():
            return cls()
        dx, dy = x - x.mean(), y - y.mean()
        return cls(x.numel(), float(x.mean()), float(y.mean()), float(dx @ dx), float(dy @ dy), float(dx @ dy))

    def __add__(self, other: "PairMoments") -> "PairMoments":
        count = self.count + other.count
        if not count:
            return self
        dx, dy, weight = other.mean_x - self.mean_x, other.mean_y - self.mean_y, self.count * other.count / count
        return PairMoments(
            count,
            self.mean_x + dx * other.count / count,
            self.mean_y + dy * other.count / count,
            self.xx + other.xx + dx * dx * weight,
            self.yy + other.yy + dy * dy * weight,
            self.xy + other.xy + dx * dy * weight,
        )

    @property
    def correlation(self) -> float:
        """Pearson's correlation of x and y; nan where one of them is constant."""
        scale = math.sqrt(self.xx * self.yy)
        return self.xy / scale if scale else math.nan


@dataclass(frozen=True)
class Sums:
    """Sums over a set; those of disjoint sets add up, field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Attraction(Sums):
    """Pairs whose target distance is below their current one, so that the loss attracts them."""

    positives: int = 0
    negatives: int = 0
    attracted_positives: int = 0
    attracted_negatives: int = 0

    @classmethod
    def of(cls, target: Tensor, distance: Tensor, positive: Tensor, pairs: Tensor) -> "Attraction":
        """Counts over [b, G]: target and present distance, whether the labels agree, and which pairs count (bool)."""
        attracted, negative = pairs & (target < distance), pairs & ~positive
        positive = pairs & positive
        counts = torch.stack([positive, negative, positive & attracted, negative & attracted]).flatten(1).sum(1)
        return cls(*counts.tolist())

    @property
    def shares(self) -> dict[str, float]:
        """Share of the positive and of the negative pairs that are attracted; nan where there are none."""
        return {
            "positives_attracted": self.attracted_positives / (self.positives or math.nan),
            "negatives_attracted": self.attracted_negatives / (self.negatives or math.nan),
        }


@dataclass(frozen=True)
class Ranking(Sums):
    """MAP@R of a similarity as a ranking: the queries that have a positive, and the sum over them."""

    queries: int = 0
    precision: float = 0.0

    @classmethod
    def of(cls, similarity: Tensor, distance: Tensor, positive: Tensor, self_columns: Tensor) -> "Ranking":
        """Sums over b queries against G points.

        Args:
            similarity: [b, G].
            distance: [b, G]; orders points of equal similarity, nearest first, then by row.
            positive: bool [b, G], the points of the query's class, without itself.
            self_columns: int64 [b], the row of the query itself, which is not ranked.
        """
        nearest = distance.sort(dim=1, stable=True).indices
        ranked = similarity.scatter(1, self_columns[:, None], -torch.inf).gather(1, nearest)
        order = nearest.gather(1, ranked.sort(dim=1, descending=True, stable=True).indices)
        count = positive.sum(1)
        known = count > 0
        precision = average_precision(positive.gather(1, order)[known], count[known])
        return cls(len(precision), float(precision.sum()))

    @property
    def map_at_r(self) -> float:
        """The mean over the queries; nan where there is none."""
        return self.precision / (self.queries or math.nan)


@dataclass(frozen=True)
class Purity(Sums):
    """Sums over points, each with its set: its neighbourhood or cluster.

    Args:
        points: Points that count.
        size: Sum of the sizes of their sets, the point itself included.
        majority: Sum of the shares of the most frequent label. For clusters its mean is the usual purity.
        same: Sum of the shares of the *other* members that have the point's label.
        others: Points whose set has other members.
    """

    points: int = 0
    size: int = 0
    majority: float = 0.0
    same: float = 0.0
    others: int = 0

    @classmethod
    def of(cls, labels: Tensor, members: Tensor) -> "Purity":
        """Sums over sets given as rows.

        Args:
            labels: int64 [b, s], the labels of those who may be in the set of each point; column 0 is the point itself.
                Points labelled -1 do not count, neither as points nor as members.
            members: bool [b, s], who is.
        """
        known = labels[:, 0] >= 0
        labels, members = labels[known], (members & (labels >= 0))[known]
        if not len(labels):
            return cls()
        size = members.sum(1)
        ordered = labels.masked_fill(~members, -1).sort(dim=1).values
        # In a sorted row, the k-th equals the (k + r)-th where a run of more than r equal labels begins.
        largest = torch.ones_like(size)
        for run in range(1, int(size.max())):
            repeated = ((ordered[:, run:] == ordered[:, :-run]) & (ordered[:, run:] >= 0)).any(1)
            if not repeated.any():
                break
            largest += repeated
        others = size - 1
        same = ((labels == labels[:, :1]) & members).sum(1) - 1
        shared = same[others > 0].double() / others[others > 0]
        return cls(
            len(labels), int(size.sum()), float((largest.double() / size).sum()), float(shared.sum()), len(shared)
        )

    @property
    def means(self) -> dict[str, float]:
        """Means over the points; nan where there is none."""
        points, others = self.points or math.nan, self.others or math.nan
        return {"purity": self.majority / points, "same_label": self.same / others, "size": self.size / points}


@dataclass(frozen=True)
class BatchJudge:
    """Quality of the targets within a batch; pairs of views of one image, always positive, are excluded.

    Args:
        purity: Of X_i without its own views.
        control: Of as many nearest other images.
        attraction: Of pairs of different images.
    """

    purity: Purity = field(default_factory=Purity)
    control: Purity = field(default_factory=Purity)
    attraction: Attraction = field(default_factory=Attraction)

    @classmethod
    def of(
        cls,
        target: Tensor,
        distance: Tensor,
        indices: Tensor | None,
        members: Tensor,
        *,
        rows: Tensor,
        labels: Tensor,
        images: Tensor,
    ) -> "BatchJudge":
        """Judge b points, which are `rows` (int64 [b]) of the c points of the batch.

        Args:
            target: [b, c] target distances.
            distance: [b, c] present ones.
            indices: int64 [b, k + 1], columns of the point itself and then of its neighbours, nearest first; None
                where the neighbours are not in the batch, and the purity of X_i is not judged.
            members: bool [b, k + 1], which of them are in X_i.
            rows: Columns of the points themselves.
            labels: int64 [c], -1 is unlabelled.
            images: int64 [c], the image of each point.
        """
        pairs = (images[rows, None] != images) & (labels[rows, None] >= 0) & (labels >= 0)
        attraction = Attraction.of(target, distance, labels[rows, None] == labels, pairs)
        if indices is None:
            return cls(attraction=attraction)
        kept = images[indices] != images[rows, None]
        kept[:, 0] = True
        order = (~kept).sort(dim=1, stable=True).indices
        near, members = labels[indices].gather(1, order), (members & kept).gather(1, order)
        control = torch.arange(near.shape[1], device=near.device) < members.sum(1, keepdim=True)
        return cls(Purity.of(near, members), Purity.of(near, control), attraction)

    @property
    def sums(self) -> list[float]:
        """All sums as a list, which can be added over ranks and passed to `from_sums`."""
        return [float(value) for part in (self.purity, self.control, self.attraction) for value in astuple(part)]

    @classmethod
    def from_sums(cls, sums: list[float]) -> "BatchJudge":
        """The inverse of `sums`."""
        purity, control = (
            Purity(int(points), int(size), majority, same, int(others))
            for points, size, majority, same, others in (sums[:5], sums[5:10])
        )
        return cls(purity, control, Attraction(*(int(value) for value in sums[10:])))

    @property
    def shares(self) -> dict[str, float]:
        """The numbers by name, without undefined ones."""
        purity, control = self.purity.means, self.control.means
        shares = {"label_purity": purity["purity"], "label_purity_control": control["purity"]}
        shares |= {"same_label": purity["same_label"], "same_label_control": control["same_label"]}
        return {name: share for name, share in (shares | self.attraction.shares).items() if math.isfinite(share)}


def usage(owner: Tensor, count: int) -> dict[str, float]:
    """How evenly points are assigned to `count` proxies, from assignments int64 [n].

    Returns:
        `used`, the share of assigned proxies, and `effective`, exp of the entropy of the assignments: count if even.
    """
    share = torch.bincount(owner, minlength=count).double() / max(1, len(owner))
    return {"used": float((share > 0).double().mean()), "effective": float(torch.special.entr(share).sum().exp())}
