"""Similarity estimates from embeddings, by method: the rows of the paper's table 2 and a control."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config, ManifoldConfig
from dist_plm.index.clustering import kmeans_labels, random_walk, ward_labels
from dist_plm.manifold.distance import distance
from dist_plm.methods.piecewise import Pieces, batch_pieces, member_ids, similarity

BLOCK = 512  # points per block


class Similarities(NamedTuple):
    """The estimate for some of the points.

    Args:
        similarity: [r, n] to all points.
        sets: For each of them the ids int64 of its group, itself first.
    """

    similarity: Tensor
    sets: list[Tensor]


class SimilarityEstimate(ABC):
    """An estimate of the similarity of all pairs of n points, and of a group for each point.

    Attributes:
        largest: Upper bound of the size of a group.
        scaled: Whether the similarity is on the scale of equation 6, and so defines a target distance.
    """

    largest: int
    scaled = False

    @abstractmethod
    def view(self, rows: Tensor) -> Similarities:
        """The estimate for the points `rows` (int64 [r])."""

    def within(self, batch: Tensor) -> "SimilarityEstimate":
        """The estimate within a batch, int64 [b]; a method that uses all points for it still does."""
        return _Within(self, batch)


class _Within(SimilarityEstimate):
    def __init__(self, whole: SimilarityEstimate, batch: Tensor) -> None:
        self.whole, self.batch, self.largest = whole, batch, min(whole.largest, len(batch))

    def view(self, rows: Tensor) -> Similarities:
        seen = self.whole.view(self.batch[rows])
        place = torch.full((seen.similarity.shape[1],), -1)
        place[self.batch] = torch.arange(len(self.batch))
        places = [place[ids] for ids in seen.sets]
        return Similarities(seen.similarity[:, self.batch], [group[group >= 0] for group in places])


class Clusters(SimilarityEstimate):
    """1 for a pair in one cluster, 0 otherwise; with a hierarchy, the mean over its levels.

    Args:
        levels: int64 [n] labels of the clusters, one array per level. Groups are those of the first.
    """

    def __init__(self, levels: Sequence[np.ndarray]) -> None:
        self.levels = torch.from_numpy(np.stack(levels))
        order = self.levels[0].argsort(stable=True)
        self.members = order.split(self.levels[0].bincount().tolist())
        self.largest = max(map(len, self.members))

    def view(self, rows: Tensor) -> Similarities:
        clusters = [(row, self.members[int(self.levels[0, row])]) for row in rows]
        sets = [torch.cat([row[None], cluster[cluster != row]]) for row, cluster in clusters]
        return Similarities(torch.stack([(level[rows, None] == level).float() for level in self.levels]).mean(0), sets)


class Walk(SimilarityEstimate):
    """The affinities of MOM's random walk; a point's group is itself and the points that its walk visits most.

    Args:
        embeddings: [n, D] of unit length.
        neighbours: k of the graph, and size of the group, as in MOM.
    """

    def __init__(self, embeddings: Tensor, neighbours: int = 30) -> None:
        self.neighbours = min(neighbours, len(embeddings) - 1)
        self.largest = 1 + self.neighbours
        self.walk = random_walk(embeddings, neighbours=self.neighbours)

    def view(self, rows: Tensor) -> Similarities:
        affinities = torch.from_numpy(np.ascontiguousarray(self.walk.affinities(rows.numpy())))
        others = affinities.clone()
        others[torch.arange(len(rows)), rows] = 0
        most = others.topk(self.neighbours, dim=1)
        reached = (ids[value > 0] for ids, value in zip(most.indices, most.values, strict=True))
        return Similarities(affinities, [torch.cat([row[None], ids]) for row, ids in zip(rows, reached, strict=True)])


class Distance(SimilarityEstimate):
    """Control: similarity 1 - |x_i - x_j| / 2 and the k nearest, without any method."""

    def __init__(self, embeddings: Tensor, k: int) -> None:
        self.points, self.largest = embeddings, 1 + k

    def view(self, rows: Tensor) -> Similarities:
        d = distance(self.points[rows], self.points)
        near = d.scatter(1, rows[:, None], -1).sort(dim=1, stable=True).indices[:, : self.largest]
        return Similarities(1 - d / 2, list(near))

    def within(self, batch: Tensor) -> SimilarityEstimate:
        return Distance(self.points[batch], self.largest - 1)


class Manifold(SimilarityEstimate):
    """The paper's: X_i of section 3.2 among the k nearest of all points, s of section 3.3.

    Args:
        embeddings: [n, D] of unit length.
        config: Settings of neighbourhoods and similarity; whether points are projected onto their own.
        whole: Points of a batch keep their neighbours among all points, as with `manifold.scope: gallery`; otherwise
            their neighbours are those of the batch.
    """

    scaled = True

    def __init__(self, embeddings: Tensor, config: ManifoldConfig, *, whole: bool) -> None:
        self.points, self.config, self.whole, self.largest = embeddings, config, whole, 1 + config.k
        blocks = torch.arange(len(embeddings)).split(BLOCK)
        # Without the distances, which are those of all pairs.
        blockwise = [
            batch_pieces(embeddings[rows], embeddings, rows, config)._replace(distances=None) for rows in blocks
        ]
        self.pieces = Pieces(
            torch.cat([block.basis for block in blockwise]),
            torch.cat([block.members for block in blockwise]),
            torch.cat([block.projected for block in blockwise]),
            torch.cat([block.indices for block in blockwise if block.indices is not None]),
            None,
        )

    def view(self, rows: Tensor) -> Similarities:
        pieces = self.pieces
        assert pieces.indices is not None
        s = similarity(pieces.projected, pieces.basis, member_ids(pieces), rows, self.config)
        return Similarities(s, [pieces.indices[row][pieces.members[row]] for row in rows])

    def within(self, batch: Tensor) -> SimilarityEstimate:
        """In a batch the neighbours are those of the batch, as in training, unless they are to be those of all."""
        return super().within(batch) if self.whole else Manifold(self.points[batch], self.config, whole=False)


def build_estimate(name: str, embeddings: Tensor, clusters: int, config: Config) -> SimilarityEstimate:
    """The estimate called `name` from embeddings [n, D].

    Ward's has a second level, of half the clusters. `plm`, `gallery` and `projected` differ in a batch: neighbours from
    the batch, neighbours from all points, and the latter with all points projected onto their neighbourhoods.
    """
    if name == "k-means":
        return Clusters([kmeans_labels(embeddings, clusters, config.seed)])
    if name == "hierarchical":
        return Clusters([ward_labels(embeddings, count) for count in (clusters, max(1, clusters // 2))])
    if name == "distance":
        return Distance(embeddings, config.manifold.k)
    if name == "random walk":
        return Walk(embeddings)
    manifold = replace(config.manifold, project=False)
    if name == "projected":
        manifold = replace(manifold, project=True, centre="mean")
    return Manifold(embeddings, manifold, whole=name != "plm")
