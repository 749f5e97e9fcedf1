"""Percentile bootstrap over persons: all scans of a person are drawn together.

Reference: Efron B, Tibshirani RJ. An Introduction to the Bootstrap. Chapman & Hall, 1993, chapters 8 and 13.
"""

import math
from dataclasses import dataclass

import numpy as np

from tlimb.seeds import seed_for

BLOCK = 4_000_000  # weights held at once
EQUAL = 1e-12  # apart by no more than rounding


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: resamples of persons, confidence (0 to 1), seed."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def person_bootstrap(statistic, persons: int, *, resamples: int, seed: int) -> np.ndarray:
    """The statistic on each of `resamples` samples of persons drawn with replacement, shape (resamples, ...).

    statistic: function of weights (b, persons), how often each person was drawn, that returns (b, ...) values, NaN
    where one can't be computed. Equal `persons`, `resamples` and `seed` give equal weights, so that models scored on
    the same people are compared in pairs.
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


def percentile_interval(
    values: np.ndarray,
    confidence: float,
    persons: int | None = None,
    *,
    value: float | None = None,
    freedom: int | None = None,
) -> tuple[float | None, float | None]:
    r"""The central `confidence` (0 to 1) of bootstrap values; resamples that gave NaN are left out.

    persons: how many n were drawn from. Resamples spread too little by a factor sqrt((n - 1) / n), and percentiles know
    nothing of Student's t, so that intervals of few persons are too narrow; with `persons` the tails are those of
    Phi(-sqrt(n / (n - 1)) t_{n-1}), Hesterberg's expanded percentile interval. freedom: degrees of freedom of t, where
    they are not n - 1. (None, None) where fewer than half of the resamples gave a value.

    value: what everybody gives. With it percentiles are corrected for bias, as where resamples lie to one side of it:
    with z0 = Phi^-1(share of resamples below it, equal ones counting half), tails Phi(z) become Phi(2 z0 + z).

    Hesterberg (2015), "What teachers should know about the bootstrap", The American Statistician 69, 371-386. Efron
    (1987), "Better bootstrap confidence intervals", JASA 82, 171-185.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or 2 * len(finite) < len(values):
        return None, None
    tail = (1 - confidence) / 2
    if persons is not None and persons > 1:
        tail = _expanded(tail, persons, freedom or persons - 1)
    tails = [tail, 1 - tail] if value is None else _moved(tail, finite, value)
    low, high = np.quantile(finite, tails)
    return float(low), float(high)


def _expanded(tail: float, persons: int, freedom: int) -> float:
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(persons / (persons - 1)) * stdtrit(freedom, tail)))


def _moved(tail: float, values: np.ndarray, value: float) -> np.ndarray:
    from scipy.special import ndtr, ndtri

    below = (values < value - EQUAL).sum() + (np.abs(values - value) <= EQUAL).sum() / 2
    z0 = ndtri((below + 0.5) / (len(values) + 1))
    return ndtr(2 * z0 + ndtri([tail, 1 - tail]))


def interval(
    values: np.ndarray, confidence: float, persons: int | None = None, **correction: float | None
) -> tuple[float | None, float | None]:
    """As `percentile_interval`, but none where all resamples give one value: that is no sign of certainty, but of
    constant predictions, of a single person, or of no error in the sample."""
    return (None, None) if is_single(values) else percentile_interval(values, confidence, persons, **correction)


def is_single(values: np.ndarray) -> bool:
    """Whether all resamples that could be computed gave one value, but for rounding."""
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and np.ptp(finite) <= 1e-9 * max(1.0, float(np.abs(finite).max()))
