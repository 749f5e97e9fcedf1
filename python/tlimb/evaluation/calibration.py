"""Temperature scaling: how sure probabilities are, held against scans that the model was not trained on.

Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks", ICML.
"""

from collections.abc import Callable

import numpy as np

RANGE = (0.05, 20.0)
"""Temperatures that are looked at."""

NEAR = 0.01
"""How near to an end of these, as a part of it, a temperature counts as being there: the search never quite ends."""

TINY = np.finfo(float).tiny


def best_temperature(surprise: Callable[[float], float]) -> float:
    """The T from 0.05 to 20 for which surprise(T), the mean of -log of the probability of the truth, is least."""
    from scipy.optimize import minimize_scalar

    search = {"method": "bounded", "bounds": np.log(RANGE).tolist(), "options": {"xatol": 1e-4}}
    found = minimize_scalar(lambda logarithm: surprise(float(np.exp(logarithm))), **search)
    return float(np.exp(found.x))


def limit_of(temperature: float | None) -> float | None:
    """The end of `RANGE` at which a temperature lies, since the search found nothing better within; None elsewhere."""
    if temperature is None:
        return None
    return next((end for end in RANGE if abs(temperature / end - 1) < NEAR), None)


def fit_temperature(truth: np.ndarray, probabilities: np.ndarray, kind: str) -> float | None:
    """The temperature of a classifier or of ordered classes on validation.

    truth: (n,) indices; probabilities: (n, classes). None where it can't be told: without rows, and where no row is
    held for less probable than another class, since then nothing speaks against ever more certainty.
    """
    own = probabilities[np.arange(len(truth)), truth.astype(int)]
    if len(truth) == 0 or (own >= probabilities.max(axis=1)).all():
        return None

    def surprise(temperature: float) -> float:
        scaled = rescaled(probabilities, temperature, kind)
        return float(-np.log(np.maximum(scaled[np.arange(len(truth)), truth.astype(int)], TINY)).mean())

    return best_temperature(surprise)


def rescaled(probabilities: np.ndarray, temperature: float, kind: str) -> np.ndarray:
    """Probabilities (n, classes) of a head whose outputs are divided by a temperature.

    Of a softmax p_k^(1/T) / sum_j p_j^(1/T), since its logarithms are the outputs up to a constant. Of ordered classes
    the outputs are those of the thresholds, o_j = log P(y > j) - log P(y = j), and
    P(y = j) = (1 - s_j) prod_{i<j} s_i with s_j = 1 / (1 + exp(-o_j / T)).
    """
    logarithms = np.log(np.maximum(probabilities, TINY))
    if kind != "ordinal":
        powers = np.exp((logarithms - logarithms.max(axis=1, keepdims=True)) / temperature)
        return powers / powers.sum(axis=1, keepdims=True)
    beyond = np.cumsum(probabilities[:, :0:-1], axis=1)[:, ::-1]
    outputs = (np.log(np.maximum(beyond, TINY)) - logarithms[:, :-1]) / temperature
    shares = 1 / (1 + np.exp(-np.clip(outputs, -700, 700)))
    ones = np.ones((len(shares), 1))
    return np.cumprod(np.hstack([ones, shares]), axis=1) * np.hstack([1 - shares, ones])
