"""Means and variances of rows under many sets of weights at once."""

import numpy as np


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of values (n,) for each row of weights (b, n), shape (b,)."""
    return weights @ values / weights.sum(axis=1)


def variance(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The variance (divided by the sum of weights), (b,), exactly 0 where all rows drawn hold one value."""
    values = values - values.mean()
    spread = np.maximum(mean(values**2, weights) - mean(values, weights) ** 2, 0)
    drawn = weights > 0
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    return np.where(highest > np.where(drawn, values, np.inf).min(axis=1), spread, 0.0)
