"""Metrics of several classes at once. Arguments and shapes as in `metrics.weighted_metric`."""

import numpy as np

from tlimb.evaluation.weighted import mean
from tlimb.labels import members


def macro_f1(truth, prediction, probabilities, weights):
    """Mean over the classes that occur in truth or prediction of the F1 of each."""
    true, said = members(truth, probabilities.shape[1]), members(prediction, probabilities.shape[1])
    hits, counted = weights @ (true & said), weights @ true + weights @ said
    occurs = counted > 0
    each = np.where(occurs, 2 * hits / np.where(occurs, counted, 1), 0)
    return each.sum(axis=1) / occurs.sum(axis=1)


def hamming_loss(truth, prediction, probabilities, weights):
    """Share of the classes of a row that are said wrongly."""
    classes = probabilities.shape[1]
    return mean((members(truth, classes) != members(prediction, classes)).mean(axis=1), weights)
