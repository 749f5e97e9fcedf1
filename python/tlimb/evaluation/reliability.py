"""How often what a model is so sure of is so: confidence, hits and bins of them, and intervals of shares."""

from statistics import NormalDist

import numpy as np

MOST, LEAST = 15, 10
"""Bins at most, and rows that each needs at least."""


def confidence_and_hits(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of two classes the probability of the second and whether it is the truth; of more the highest probability and
    whether its class is. truth: (n,) indices; probabilities: (n, classes). Both (n,) float64."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], (truth == 1).astype(float)
    return probabilities.max(axis=1), (truth == probabilities.argmax(axis=1)).astype(float)


def bins_of(confidence: np.ndarray, scans: float | None = None) -> np.ndarray:
    """The bin of each row, (n,) integers that rise with confidence: as equal in count as ties allow, 15 at most and of
    10 scans at least. Rows of equal confidence share a bin, so that their order changes nothing.

    scans: how many scans the rows are of, where several are of one; else as many as there are rows.
    """
    rows = len(confidence)
    count = min(MOST, max(1, round(rows if scans is None else scans) // LEAST))
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    return below * count // rows


def reliability(
    confidence: np.ndarray, hits: np.ndarray, weights: np.ndarray, persons: np.ndarray, level: float
) -> list[dict]:
    """A reliability curve: {"n", "confidence", "observed", "low", "high"} of each bin, rising.

    weights: (n,), what each row counts as: 1 / k where k models predicted a scan. persons: (n,), whose scan it is. n:
    the sum of weights; confidence, observed: means; low, high: Wilson's interval of the observed share at `level`, of
    as many as there are persons: somebody's scans in a bin count as one at most, since they are alike.
    """
    curve, bins = [], bins_of(confidence, weights.sum())
    for number in np.unique(bins):
        own, rows = weights[bins == number], bins == number
        observed, count = float(np.average(hits[rows], weights=own)), float(own.sum())
        low, high = wilson(observed, _people(persons[rows], own), level)
        sure = float(np.average(confidence[rows], weights=own))
        curve.append({"n": count, "confidence": sure, "observed": observed, "low": low, "high": high})
    return curve


def _people(persons: np.ndarray, weights: np.ndarray) -> float:
    """How many persons these rows are of, one whose rows weigh less than 1 together counting as much."""
    _, codes = np.unique(persons, return_inverse=True)
    return float(np.minimum(np.bincount(codes, weights), 1).sum())


def wilson(share: float, n: float, level: float) -> tuple[float, float]:
    r"""The interval of a share of n > 0 independent ones, (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 +
    z^2 / n).

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z**2 / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    whole = 1 + z**2 / n
    return float(min(max((centre - reach) / whole, 0.0), share)), float(max(min((centre + reach) / whole, 1.0), share))
