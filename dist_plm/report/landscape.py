"""A map of the embedding: t-SNE of a sample of the test images."""

import numpy as np
from sklearn.manifold import TSNE

from dist_plm.report.retrieved import Retrieved

MOST_POINTS = 1_200  # limits the page to a few MB of thumbnails, and t-SNE to seconds
FEWEST_POINTS = 10
COINCIDENT = 1e-6  # rounding of coordinates of unit vectors


def landscape(retrieved: Retrieved, *, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions [n] among the queries and their places [n, 2] in the unit square; None for too few images.

    t-SNE rather than UMAP, since scikit-learn is a dependency already.
    """
    count = len(retrieved.rows)
    if count < FEWEST_POINTS:
        return None
    positions = np.random.default_rng(seed).permutation(count)[:MOST_POINTS]
    vectors = retrieved.queries.vectors[retrieved.rows[positions]]
    if np.ptp(vectors, axis=0).max() < COINCIDENT:  # collapsed embeddings, on which t-SNE divides by 0
        return positions, np.full((len(positions), 2), 0.5)
    perplexity = min(30.0, (len(positions) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    return positions, (places - low) / np.maximum(high - low, 1e-9)


def hues(labels: np.ndarray, places: np.ndarray) -> dict[int, int]:
    """A hue in [0, 360) for each class, by the direction of its mean place: map neighbours have similar colours."""
    classes = np.unique(labels)
    centres = np.array([places[labels == number].mean(axis=0) for number in classes]) - places.mean(axis=0)
    order = np.argsort(np.arctan2(centres[:, 1], centres[:, 0]), kind="stable")
    return {int(classes[number]): 360 * rank // len(classes) for rank, number in enumerate(order)}
