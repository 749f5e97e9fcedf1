"""Where a probability of the second of two classes is called a case."""

import numpy as np

from tlimb.evaluate_settings import OperatingPoint


def find_threshold(truth: np.ndarray, case: np.ndarray, point: OperatingPoint) -> float | None:
    """The probability above which a scan is called a case.

    truth: (n,) of 0 and 1, case: (n,) probabilities of 1, both of validation. A `threshold` is taken as it is. For a
    `sensitivity` it is the highest one, for a `specificity` the lowest, that reaches it on these scans; for `youden`
    the one with the largest sensitivity + specificity, the nearest to 1/2 where several have it (Youden 1950, "Index
    for rating diagnostic tests", Cancer 3, 32-35). It lies midway between two probabilities that occur. None where one
    of the classes does not.
    """
    if point.threshold is not None:
        return point.threshold
    cases, others = np.sort(case[truth == 1]), np.sort(case[truth == 0])
    if not len(cases) or not len(others):
        return None
    seen = np.unique(case)
    thresholds = np.r_[0.0, (seen[1:] + seen[:-1]) / 2, 1.0]
    sensitivity = 1 - np.searchsorted(cases, thresholds, side="right") / len(cases)
    specificity = np.searchsorted(others, thresholds, side="right") / len(others)
    if point.sensitivity is not None:
        reached = thresholds[sensitivity >= point.sensitivity - 1e-12]
        return float(reached.max()) if len(reached) else 0.0
    if point.specificity is not None:
        return float(thresholds[specificity >= point.specificity - 1e-12].min())
    both = sensitivity + specificity
    best = thresholds[both >= both.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def wanted(point: OperatingPoint) -> str:
    """What a threshold is to give, in words."""
    if point.threshold is not None:
        return f"a threshold of {point.threshold:g}"
    if point.youden:
        return "the largest sum of sensitivity and specificity"
    name = "sensitivity" if point.sensitivity is not None else "specificity"
    return f"a {name} of {getattr(point, name):g} or more"


def trivial(threshold: float | None, case: str) -> str:
    """What a threshold of 0 or 1 comes to, in words; nothing of any other. case: the second class."""
    return {0.0: f"every scan is called {case}", 1.0: f"no scan is called {case}"}.get(threshold, "")


def call(case: np.ndarray, threshold: float) -> np.ndarray:
    """1.0 where the probability of the second class is above the threshold, else 0.0, (n,)."""
    return (case > threshold).astype(float)
