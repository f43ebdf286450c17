"""Bootstrap confidence intervals of a mean over queries."""

from typing import NamedTuple

import numpy as np

DRAWS = 2_000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Mean of `values` [n >= 1] with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    For a difference between two networks pass the differences query by query: the interval of paired values is much
    narrower than that of two independent recalls.
    """
    levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n = int(counts.sum())
    # Drawing n queries with replacement is a multinomial draw over the distinct values, of which hits have two.
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=DRAWS) @ levels / n
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(counts @ levels / n), float(low), float(high))
