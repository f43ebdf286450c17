"""Clustering of a data set's embeddings: for pseudo-labels, and the baselines of the paper's table 2.

k-means is linear in the number of points. Ward's tree and the random walk store all pairs, n^2 / 2 and n^2
float64: 140 MB and 290 MB for the 6,000 images of CUB, 14 and 29 GB for the 60,000 of SOP.
"""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dist_plm.index.faiss_library import find_faiss
from dist_plm.index.flat import nearest
from dist_plm.index.proposals import gpu_search

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["RandomWalk", "kmeans_labels", "random_walk", "random_walk_labels", "ward_labels"]

MOST_POINTS = 20_000  # limit of methods that store all pairs: 3.2 GB


def kmeans_labels(embeddings: Tensor | np.ndarray, clusters: int, seed: int, iterations: int = 25) -> np.ndarray:
    """k-means of embeddings [n, D], read as float32 -> int64 [n]; the cluster of every row.

    Uses faiss if it is installed, else scikit-learn.
    """
    points = _points(embeddings)
    faiss = find_faiss()
    if faiss is None:
        from sklearn.cluster import KMeans

        model = KMeans(clusters, n_init=1, max_iter=iterations, random_state=seed)
        return model.fit_predict(points).astype(np.int64)
    # The default bounds on points per centroid would subsample to 256 per cluster, and warn below 39.
    k_means = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
        gpu=int(gpu_search(faiss)),  # the first one; True is all of them, which belong to other ranks
    )
    k_means.train(points)
    return k_means.index.search(points, 1)[1][:, 0]


def ward_labels(embeddings: np.ndarray | Tensor, clusters: int) -> np.ndarray:
    """Ward's hierarchical clustering of [n, D], cut where it has `clusters` clusters -> int64 [n].

    Deterministic. Raises ValueError if n exceeds MOST_POINTS or is below `clusters`.
    """
    from sklearn.cluster import AgglomerativeClustering

    points = _bounded(embeddings)
    if not 1 <= clusters <= len(points):
        raise ValueError(f"{clusters} clusters of {len(points)} points")
    if clusters == len(points):
        return np.arange(clusters)
    return AgglomerativeClustering(clusters, linkage="ward").fit_predict(points).astype(np.int64)


class RandomWalk:
    """Diffusion on a graph of nearest neighbours: F = (I - a S)^-1, S = D^-1/2 A D^-1/2, a the damping.

    Iscen et al., Mining on manifolds: metric learning without labels, CVPR 2018, section 3 (MOM).

    Attributes:
        graph: A, SciPy CSR [n, n], symmetric.
        degrees: [n] row sums of A. The stationary distribution is proportional to the degree.
    """

    def __init__(self, graph: "csr_array", damping: float) -> None:
        from scipy import linalg

        self.graph = graph
        self.degrees = np.asarray(graph.sum(axis=1)).ravel()
        scale = np.divide(1, np.sqrt(self.degrees), where=self.degrees > 0, out=np.zeros_like(self.degrees))
        laplacian = -damping * graph.toarray()
        laplacian *= scale[:, None]
        laplacian *= scale
        laplacian[np.diag_indices_from(laplacian)] += 1
        # The eigenvalues of S lie in [-1, 1]: I - a S is positive definite.
        self._factor = linalg.cho_factor(laplacian, lower=True, overwrite_a=True, check_finite=False)

    def __len__(self) -> int:
        return len(self.degrees)

    def affinities(self, rows: np.ndarray) -> np.ndarray:
        """F[rows], float64 [r, n]: expected visits of every point by a walk with restarts from each row; all >= 0."""
        from scipy import linalg

        start = np.zeros((len(self), len(rows)))
        start[rows, np.arange(len(rows))] = 1
        return linalg.cho_solve(self._factor, start, overwrite_b=True, check_finite=False).T

    def anchors(self) -> np.ndarray:
        """MOM's anchors: the points where the stationary distribution has a local maximum on the graph, int64 [a].

        It is proportional to the degree, as for any walk on an undirected graph. Ties go to the lower row.
        """
        order = np.lexsort((np.arange(len(self)), -self.degrees))
        rank = np.empty(len(self), dtype=np.int64)
        rank[order] = np.arange(len(self))
        first, second = self.graph.nonzero()
        best = rank.copy()
        np.minimum.at(best, first, rank[second])
        return np.flatnonzero((best == rank) & (self.degrees > 0))


def random_walk(
    embeddings: np.ndarray | Tensor, *, neighbours: int = 30, power: float = 3, damping: float = 0.99
) -> RandomWalk:
    """The random walk of MOM over embeddings [n, D] of unit length.

    Args:
        embeddings: [n, D].
        neighbours: k of the mutual k-nearest-neighbour graph.
        power: The weight of an edge is max(0, x_i'x_j)^power.
        damping: a in (I - a S)^-1, the probability to continue.

    Raises:
        ValueError: n exceeds MOST_POINTS.
    """
    from scipy import sparse

    points = _bounded(embeddings)
    n = len(points)
    ids, _ = nearest(points, points, min(neighbours, n - 1), exclude=np.arange(n), backend="auto")
    rows = np.repeat(np.arange(n), ids.shape[1])
    cosines = np.einsum("rd,rd->r", points[rows], points[ids.ravel()], dtype=np.float64)
    weights = sparse.csr_array((np.maximum(cosines, 0) ** power, (rows, ids.ravel())), shape=(n, n))
    return RandomWalk(weights.minimum(weights.T).tocsr(), damping)


def random_walk_labels(embeddings: np.ndarray | Tensor, clusters: int, **options: float) -> np.ndarray:
    """Clusters around the `clusters` most visited anchors of the random walk -> int64 [n], -1 if unreachable.

    An interpretation: MOM mines pairs around its anchors and defines no clusters. Here a point belongs to the anchor
    whose walk visits it most. `options` are those of `random_walk`.
    """
    walk = random_walk(embeddings, **options)  # type: ignore[arg-type]
    anchors = walk.anchors()
    anchors = anchors[np.argsort(-walk.degrees[anchors], kind="stable")][:clusters]
    affinities = walk.affinities(anchors)
    return np.where(affinities.max(axis=0) > 1e-12, affinities.argmax(axis=0), -1)


def _points(embeddings: np.ndarray | Tensor) -> np.ndarray:
    points = embeddings.detach().cpu().float().numpy() if isinstance(embeddings, Tensor) else embeddings
    return np.ascontiguousarray(points, dtype=np.float32)


def _bounded(embeddings: np.ndarray | Tensor) -> np.ndarray:
    points = _points(embeddings)
    if len(points) > MOST_POINTS:
        raise ValueError(f"{len(points)} points exceed the limit of {MOST_POINTS}: use k-means")
    return points
