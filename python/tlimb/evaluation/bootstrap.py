"""Percentile bootstrap over persons: all scans of a person are drawn together.

Reference: Efron B, Tibshirani RJ. An Introduction to the Bootstrap. Chapman & Hall, 1993, chapters 8 and 13.
"""

import numpy as np

from tlimb.seeds import seed_for

BLOCK = 4_000_000  # weights held at once


def person_bootstrap(statistic, persons: int, *, resamples: int, seed: int) -> np.ndarray:
    """The statistic on each of `resamples` samples of persons drawn with replacement, shape (resamples,).

    statistic: function of weights (b, persons), how often each person was drawn, that returns (b,) values, NaN where it
    can't be computed. Equal `persons`, `resamples` and `seed` give equal weights, so that models scored on the same
    people are compared in pairs.
    """
    rng = np.random.default_rng(seed_for(seed, "bootstrap"))
    rows = max(1, BLOCK // max(persons, 1))
    blocks = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.integers(0, persons, size=(size, persons)) + persons * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * persons).reshape(size, persons)
        blocks.append(statistic(weights.astype(float)))
    return np.concatenate(blocks) if blocks else np.empty(0)


def percentile_interval(values: np.ndarray, confidence: float) -> tuple[float | None, float | None]:
    """The central `confidence` (0 to 1) of bootstrap values; resamples that gave NaN are left out.

    (None, None) where fewer than half of the resamples gave a value.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or 2 * len(finite) < len(values):
        return None, None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
