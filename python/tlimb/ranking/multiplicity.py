"""Several tests read together."""

import numpy as np


def holm(p: list[float | None]) -> list[float | None]:
    """p values adjusted so that the chance of any false finding among them stays below the level; None stays None.

    The i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_j).

    Reference: Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 1979,
    6:65-70.
    """
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for before, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - before) * value))
        adjusted[place] = highest
    return adjusted


def bootstrap_p(values: np.ndarray, persons: int) -> float | None:
    """Two-sided p of "no difference" from bootstrap differences (b,) of n persons; None where most are not known.

    With s the smaller of the shares <= 0 and >= 0, counted as (k + 1) / (b + 1) so that it is never 0, and expanded as
    the interval is, p = 2 F(sqrt((n - 1) / n) Phi^-1(s)), F Student's with n - 1 degrees of freedom: p is below 0.05
    where the 95 % interval does not hold 0.

    References: Efron B, Tibshirani RJ. An Introduction to the Bootstrap. Chapman & Hall, 1993, sections 13.3 and 15.4.
    Hesterberg T. What teachers should know about the bootstrap. The American Statistician 2015, 69:371-386.
    """
    from scipy.special import ndtri, stdtr

    known = values[np.isfinite(values)]
    if len(known) == 0 or 2 * len(known) < len(values) or persons < 2:
        return None
    least = min((known <= 0).sum(), (known >= 0).sum())
    z = min(0.0, ndtri(min((least + 1) / (len(known) + 1), 0.5)))
    return float(2 * stdtr(persons - 1, np.sqrt((persons - 1) / persons) * z))
