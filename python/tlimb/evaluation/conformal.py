"""Split conformal prediction: sets and intervals that hold the truth as often as they say, of scans like those of
validation.

Vovk, Gammerman, Shafer (2005), Algorithmic Learning in a Random World, Springer. Sadinle, Lei, Wasserman (2019), "Least
ambiguous set-valued classifiers with bounded error levels", JASA 114, 223-234. Lei, G'Sell, Rinaldo, Tibshirani,
Wasserman (2018), "Distribution-free predictive inference for regression", JASA 113, 1094-1111.
"""

import math

import numpy as np

from tlimb.evaluation.reliability import wilson

NOTE = (
    "calibrated on the validation scans, which also chose the epoch and the candidate: they are slightly too easy for "
    "the model, so coverage may fall a little short"
)


def fit_quantile(misfit: np.ndarray, coverage: float) -> float | None:
    """The ceil((n + 1) coverage)-th smallest of n values of misfit; None, unbounded, where n is too small for it."""
    place = math.ceil((len(misfit) + 1) * coverage - 1e-9)
    return float(np.sort(misfit)[place - 1]) if place <= len(misfit) else None


def class_misfit(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """1 - probability of the true class, (n,)."""
    return 1 - probabilities[np.arange(len(truth)), truth.astype(int)]


def prediction_sets(probabilities: np.ndarray, quantile: float | None) -> np.ndarray:
    """Which classes (n, classes) belong to the set of each scan: 1 - p <= quantile, all where it is unbounded. A set
    may be empty: no class is as probable as true ones usually are."""
    if quantile is None:
        return np.ones(probabilities.shape, bool)
    return 1 - probabilities <= quantile


def prediction_intervals(prediction: np.ndarray, quantile: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Ends (n,) and (n,) of the intervals prediction -+ quantile, infinite where it is unbounded."""
    reach = math.inf if quantile is None else quantile
    return prediction - reach, prediction + reach


def fit_conformal(truth: np.ndarray, prediction: np.ndarray, probabilities: np.ndarray | None, coverage: float) -> dict:
    """{"coverage", "quantile", "n"} on validation: of 1 - p of the true class, or of the absolute residual where
    there are no probabilities. Several targets have one each; together they cover less."""
    misfit = np.abs(truth - prediction) if probabilities is None else class_misfit(truth, probabilities)
    return {"coverage": coverage, "quantile": fit_quantile(misfit, coverage), "n": len(misfit)}


def covered(truth: np.ndarray, prediction: np.ndarray, probabilities: np.ndarray | None, fitted: dict) -> np.ndarray:
    """Whether the set or interval of each scan holds its truth, (n,)."""
    misfit = np.abs(truth - prediction) if probabilities is None else class_misfit(truth, probabilities)
    return np.full(len(truth), True) if fitted["quantile"] is None else misfit <= fitted["quantile"]


def sizes(rows: int, probabilities: np.ndarray | None, fitted: dict) -> np.ndarray:
    """Classes in the set of each scan, or how wide its interval is, (rows,)."""
    if probabilities is None:
        return np.full(rows, math.inf if fitted["quantile"] is None else 2 * fitted["quantile"])
    return prediction_sets(probabilities, fitted["quantile"]).sum(axis=1).astype(float)


def reached(
    truth: np.ndarray,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    fitted: dict,
    level: float,
    persons: int | None = None,
) -> dict | None:
    """What came of it on other scans: {"coverage": wanted, "reached": share covered, "low", "high": Wilson's interval
    at `level`, "size": mean number of classes or width in the label's unit (None: unbounded), "empty": share of empty
    sets (None of intervals), "n": scans, "note"}; None without scans.

    persons: whose scans these are, for Wilson's interval, since scans of one person go together; as many as scans where
    None.
    """
    if not len(truth):
        return None
    inside = float(covered(truth, prediction, probabilities, fitted).mean())
    low, high = wilson(inside, persons or len(truth), level)
    size = sizes(len(truth), probabilities, fitted)
    return {
        "coverage": fitted["coverage"],
        "reached": inside,
        "low": low,
        "high": high,
        "size": float(size.mean()) if np.isfinite(size).all() else None,
        "empty": None if probabilities is None else float((size == 0).mean()),
        "n": len(truth),
        "note": NOTE,
    }
