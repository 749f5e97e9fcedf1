"""Metrics of one class of several. Arguments and shapes as in `metrics.weighted_metric`."""

import numpy as np

from tlimb.evaluation.reliability import bins_of, confidence_and_hits
from tlimb.evaluation.weighted import mean


def accuracy(truth, prediction, probabilities, weights):
    """Share of rows whose prediction is the truth."""
    return mean(truth == prediction, weights)


def balanced_accuracy(truth, prediction, probabilities, weights):
    """Mean recall over the classes that occur in the truth; NaN where only one does."""
    hits, totals, _ = _counts(truth, prediction, probabilities, weights)
    return _several_classes(_mean_where(totals > 0, hits, totals), totals)


def sensitivity(truth, prediction, probabilities, weights):
    """Share of the cases, the second of two classes, that are called; of more classes the mean over those that occur.

    prediction: what is called at the operating point. NaN where there is no case, or one class only of more than two.
    """
    hits, totals, _ = _counts(truth, prediction, probabilities, weights)
    if totals.shape[1] == 2:
        return hits[:, 1] / totals[:, 1]
    return _several_classes(_mean_where(totals > 0, hits, totals), totals)


def specificity(truth, prediction, probabilities, weights):
    """Share of the non-cases, the first of two classes, that are not called; of more classes the mean, over those that
    occur, of the share of the others that are not said to be of that class.

    prediction: what is called at the operating point. NaN where there is no non-case, or one class only.
    """
    hits, totals, said = _counts(truth, prediction, probabilities, weights)
    if totals.shape[1] == 2:
        return hits[:, 0] / totals[:, 0]
    others = weights.sum(axis=1, keepdims=True) - totals
    return _several_classes(_mean_where(totals > 0, others - said + hits, others), totals)


def f1(truth, prediction, probabilities, weights):
    """F1 of the second of two classes, else the mean over classes that occur in truth or prediction."""
    hits, totals, said = _counts(truth, prediction, probabilities, weights)
    if totals.shape[1] == 2:
        return np.where((totals + said)[:, 1] > 0, 2 * hits[:, 1] / (totals + said)[:, 1], np.nan)
    return _mean_where(totals + said > 0, 2 * hits, totals + said)


def mcc(truth, prediction, probabilities, weights):
    """Matthews correlation for k classes (Gorodkin 2004); 0 for constant predictions, NaN for a truth of one class."""
    hits, totals, said = _counts(truth, prediction, probabilities, weights)
    whole = weights.sum(axis=1)
    covariance = hits.sum(axis=1) * whole - (totals * said).sum(axis=1)
    spread = (whole**2 - (said**2).sum(axis=1)) * (whole**2 - (totals**2).sum(axis=1))
    return _several_classes(np.where(spread > 0, covariance / np.sqrt(spread), 0.0), totals)


def brier(truth, prediction, probabilities, weights):
    """Mean squared distance of probabilities from the truth: of the second of two classes, else summed over classes."""
    squares = (probabilities - (truth[:, None] == np.arange(probabilities.shape[1]))) ** 2
    return mean(squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1), weights)


def log_loss(truth, prediction, probabilities, weights):
    """Mean of -log of the probability of the true class, clipped to the resolution of double precision."""
    own = probabilities[np.arange(len(truth)), truth.astype(int)]
    resolution = np.finfo(float).eps
    return mean(-np.log(np.clip(own, resolution, 1 - resolution)), weights)


def calibration_error(truth, prediction, probabilities, weights):
    r"""Expected calibration error, sum_B n_B / n |share of hits in B - mean confidence in B| over bins B.

    Confidence, hits and bins are those of `reliability`; the bins are made once, of all rows. Guo, Pleiss, Sun,
    Weinberger (2017), "On calibration of modern neural networks", ICML.
    """
    confidence, hits = confidence_and_hits(truth, probabilities)
    bins = bins_of(confidence)
    gaps = (hits - confidence)[:, None] * (bins[:, None] == np.unique(bins))
    return np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)


def _counts(truth, prediction, probabilities, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight of each class's hits, of its truths and of its predictions, each (b, classes), two classes at least."""
    highest = max(truth.max(), prediction.max()) + 1 if probabilities is None else probabilities.shape[1]
    classes = np.arange(max(highest, 2))
    true, said = truth[:, None] == classes, prediction[:, None] == classes
    return weights @ (true & said), weights @ true, weights @ said


def _mean_where(known: np.ndarray, parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Mean of parts / wholes over the columns that are known."""
    return np.where(known, parts / wholes, 0).sum(axis=1) / known.sum(axis=1)


def _several_classes(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.where((totals > 0).sum(axis=1) > 1, values, np.nan)
