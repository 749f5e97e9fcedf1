"""The number of training persons from which one strategy stays ahead of another, with its interval."""

import numpy as np


def crossing(sizes, difference, draws, confidence: float) -> dict | None:
    """Where two learning curves cross; None where one is ahead at every size.

    sizes: (K,) training persons, rising. difference: (K,) score of the first minus that of the second, larger better.
    draws: (B, K) the same of resampled replicates and persons, NaN where unknown. The crossing is the size from which
    the curve that is ahead at the largest size stays ahead, on straight lines between sizes on a logarithmic axis.

    Returns {"first_ahead": "below" | "above", "n", "low", "high", "share"}: the interval is that of the crossings of
    draws; one that does not cross counts as a crossing beyond the sizes, so that an end of null lies there. share: of
    draws that cross within them.
    """
    sizes, difference = np.asarray(sizes, float), np.asarray(difference, float)
    sign = 1.0 if difference[-1] > 0 else -1.0
    point = last_change(sizes, sign * difference)
    if not np.isfinite(point) or difference[-1] == 0:
        return None
    draws = np.asarray(draws, float)
    known = draws[np.isfinite(draws).all(1)]
    if not len(known):
        return {"first_ahead": "above" if sign > 0 else "below", "n": point, "low": None, "high": None, "share": None}
    places = np.array([last_change(sizes, sign * row) for row in known])
    share = float(np.isfinite(places).mean())
    low, high = np.quantile(places, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    ends = {"low": float(low) if np.isfinite(low) else None, "high": float(high) if np.isfinite(high) else None}
    return {"first_ahead": "above" if sign > 0 else "below", "n": point, **ends, "share": share}


def last_change(sizes: np.ndarray, lead: np.ndarray) -> float:
    """The size from which `lead` (K,) stays above 0: -inf where it always is, inf where it is not at the largest."""
    behind = np.flatnonzero(lead <= 0)
    if not len(behind):
        return -np.inf
    place = behind[-1]
    if place == len(sizes) - 1:
        return np.inf
    share = -lead[place] / (lead[place + 1] - lead[place])
    return float(np.exp((1 - share) * np.log(sizes[place]) + share * np.log(sizes[place + 1])))
