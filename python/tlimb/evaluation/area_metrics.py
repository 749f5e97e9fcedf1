"""Areas under curves of ranked scores. Arguments and shapes as in `metrics.weighted_metric`."""

import numpy as np

from tlimb.labels import members


def auroc(truth, prediction, probabilities, weights):
    """Probability that a case scores above a non-case, ties counting half (Mann-Whitney); NaN if a class is absent."""
    return _one_versus_rest(_roc_area, truth, probabilities, weights)


def auprc(truth, prediction, probabilities, weights):
    """Average precision: precision at each threshold weighted by the gain in recall; NaN where a class is absent."""
    return _one_versus_rest(_precision_area, truth, probabilities, weights)


def mean_auroc(truth, prediction, probabilities, weights):
    """Mean over several classes at once of each one's AUROC."""
    return _mean_area(_roc_area, members(truth, probabilities.shape[1]), probabilities, weights)


def mean_auprc(truth, prediction, probabilities, weights):
    """Mean over several classes at once of each one's average precision."""
    return _mean_area(_precision_area, members(truth, probabilities.shape[1]), probabilities, weights)


def _roc_area(positive, negative):
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return (positive * (below + negative / 2)).sum(axis=1) / pairs


def _precision_area(positive, negative):
    found = np.cumsum(positive[:, ::-1], axis=1)
    called = found + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.where(called > 0, found / called, 0)
    return (positive[:, ::-1] * precision).sum(axis=1) / positive.sum(axis=1)


def _one_versus_rest(area, truth, probabilities, weights):
    """Mean of `area` over classes, only the second of two; NaN where a class is absent."""
    classes = probabilities.shape[1]
    chosen = [1] if classes == 2 else list(range(classes))
    return _mean_area(area, truth[:, None] == chosen, probabilities[:, chosen], weights)


def _mean_area(area, case, scores, weights):
    """Mean of `area` over the columns of case and scores, (n, classes); NaN where a class has no case or nothing else.

    area: function of the weights of cases and of non-cases at each distinct score, rising, each (b, scores), to (b,).
    """
    total, complete = np.zeros(len(weights)), np.ones(len(weights), bool)
    for column in range(case.shape[1]):
        order = np.argsort(scores[:, column], kind="stable")
        rising, own = scores[order, column], case[order, column]
        starts = np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])
        positive = np.add.reduceat(weights[:, order] * own, starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * ~own, starts, axis=1)
        complete &= (positive.sum(axis=1) > 0) & (negative.sum(axis=1) > 0)
        total += area(positive, negative)
    return np.where(complete, total / case.shape[1], np.nan)
