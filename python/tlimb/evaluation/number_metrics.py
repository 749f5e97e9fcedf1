"""Metrics of quantities, and of ordered classes as numbers. Arguments and shapes as in `metrics.weighted_metric`."""

import numpy as np

from tlimb.evaluation.concordance import concordance
from tlimb.evaluation.icc import icc
from tlimb.evaluation.weighted import mean, variance


def mae(truth, prediction, probabilities, weights):
    """Mean absolute error."""
    return mean(np.abs(truth - prediction), weights)


def rmse(truth, prediction, probabilities, weights):
    """Square root of the mean squared error."""
    return np.sqrt(mean((truth - prediction) ** 2, weights))


def r2(truth, prediction, probabilities, weights):
    """1 - sum of squared residuals / sum of squares about the mean; NaN where the truth is constant."""
    spread = variance(truth, weights)
    return np.where(spread > 0, 1 - mean((truth - prediction) ** 2, weights) / spread, np.nan)


def r(truth, prediction, probabilities, weights):
    """Pearson's correlation; NaN where truth or prediction is constant."""
    spread = variance(truth, weights) * variance(prediction, weights)
    truth, prediction = truth - truth.mean(), prediction - prediction.mean()
    covariance = mean(truth * prediction, weights) - mean(truth, weights) * mean(prediction, weights)
    return np.where(spread > 0, np.clip(covariance / np.sqrt(spread), -1, 1), np.nan)


def agreement(truth, prediction, probabilities, weights):
    """ICC(A, 1) of truth and prediction as two measurements of the same scans."""
    return np.round(icc(np.stack([truth, prediction], axis=1), weights), 12) + 0.0


def quadratic_kappa(truth, prediction, probabilities, weights):
    """Agreement beyond chance, 1 - sum_ij (i - j)^2 O_ij / sum_ij (i - j)^2 E_ij, with O the shares of truth i said to
    be j and E those of independent ones; NaN where both are constant.

    Cohen (1968), "Weighted kappa", Psychological Bulletin 70, 213-220.
    """
    apart = (mean(truth, weights) - mean(prediction, weights)) ** 2
    chance = variance(truth, weights) + variance(prediction, weights) + apart
    kappa = 1 - mean((truth - prediction) ** 2, weights) / np.where(chance > 0, chance, np.nan)
    return np.round(kappa, 12) + 0.0  # of constant predictions it is 0, and not what rounding leaves of it


def c_index(truth, prediction, probabilities, weights):
    """Harrell's C of times (negative where the event was not seen) and risks."""
    return concordance(truth, prediction, weights)
