"""The oracle: what a linear model reaches that is given the planted factors themselves instead of an image."""

import numpy as np
import pandas as pd

from tlimb.demo.people import people
from tlimb.demo.recipe import FACTOR_NAMES
from tlimb.seeds import seed_for

TARGETS = {"age": "lifespan", "sex": "lifespan", "diagnosis": "clinic", "diagnosis_null": "clinic"}
POSITIVE = {"sex": "female", "diagnosis": "patient", "diagnosis_null": "patient"}


def oracle(scans: int, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Score least squares on the planted factors: fitted on the first half of the persons, tested on the other half.

    Classes are coded -1 and 1 and cut at 0, which for two equally frequent classes is Fisher's discriminant.
    Returns one row a target: target, n_train, n_test, metric (`mae` in years or `balanced_accuracy`), value and
    the 95 % percentile bootstrap interval over the persons tested (low, high).
    """
    table = people(scans, seed)
    parts = {target: table[table.cohort == cohort] for target, cohort in TARGETS.items()}
    return pd.DataFrame([_fitted(rows, target, seed, draws) for target, rows in parts.items()])


def _fitted(rows: pd.DataFrame, target: str, seed: int, draws: int) -> dict:
    design = np.column_stack([np.ones(len(rows)), rows[list(FACTOR_NAMES)].to_numpy(float)])
    truth = coded(rows[target], target)
    half = len(rows) // 2
    weights = np.linalg.lstsq(design[:half], truth[:half], rcond=None)[0]
    return scored(truth[half:], design[half:] @ weights, target, half, seed, draws)


def coded(labels: pd.Series, target: str) -> np.ndarray:
    """Labels as numbers: years, or 1 for the positive class and -1 for the other."""
    return np.where(labels == POSITIVE[target], 1.0, -1.0) if target in POSITIVE else labels.to_numpy(float)


def scored(truth, predicted, target: str, n_train: int, seed: int, draws: int = 1000) -> dict:
    """One row of `oracle`: the score of predictions for `coded` truth, with its interval."""
    name, metric = ("balanced_accuracy", _balanced_accuracy) if target in POSITIVE else ("mae", _mean_absolute_error)
    rng = np.random.default_rng(seed_for(seed, "demo", "oracle", target))
    samples = (rng.integers(len(truth), size=len(truth)) for _ in range(draws))
    low, high = np.percentile([metric(truth[i], predicted[i]) for i in samples], [2.5, 97.5])
    counts = {"target": target, "n_train": n_train, "n_test": len(truth)}
    return counts | {"metric": name, "value": metric(truth, predicted), "low": low, "high": high}


def _mean_absolute_error(truth, predicted) -> float:
    return float(np.abs(truth - predicted).mean())


def _balanced_accuracy(truth, predicted) -> float:
    correct = (truth > 0) == (predicted > 0)
    return float((correct[truth > 0].mean() + correct[truth < 0].mean()) / 2)
