"""Predictions that lean towards the mean: the young look older and the old younger than they are.

De Lange, Cole (2020), "Commentary: correction procedures in brain-age prediction", NeuroImage: Clinical 26, 102229.
Smith, Vidaurre, Alfaro-Almagro, Nichols, Miller (2019), "Estimation of brain age delta from brain imaging", NeuroImage
200, 528-539.
"""

import numpy as np


def fit_line(truth: np.ndarray, prediction: np.ndarray) -> dict | None:
    """{"slope": a, "intercept": b} of prediction = a truth + b by least squares, on validation; None where there are
    fewer than 3 values or the truth is constant."""
    if len(truth) < 3 or np.ptp(truth) == 0:
        return None
    slope = _slope(truth, prediction)
    return {"slope": slope, "intercept": float(prediction.mean() - slope * truth.mean())}


def corrected_gap(truth: np.ndarray, prediction: np.ndarray, line: dict) -> np.ndarray:
    """Corrected prediction minus truth, (n,): the corrected one is prediction + (truth - (a truth + b)).

    It needs the truth, so it serves to compare people and groups of equal age, and never accuracy.
    """
    return prediction - (line["slope"] * truth + line["intercept"])


def age_bias(truth: np.ndarray, prediction: np.ndarray, line: dict | None) -> dict | None:
    """{"slope", "corrected_slope"} of the gap, prediction minus truth, on the truth, before and after correction by the
    line of validation (None without one); None where there are fewer than 3 values or the truth is constant."""
    if len(truth) < 3 or np.ptp(truth) == 0:
        return None
    after = None if line is None else _slope(truth, corrected_gap(truth, prediction, line))
    return {"slope": _slope(truth, prediction - truth), "corrected_slope": after}


def _slope(truth: np.ndarray, values: np.ndarray) -> float:
    centred = truth - truth.mean()
    return float(centred @ (values - values.mean()) / (centred @ centred))
