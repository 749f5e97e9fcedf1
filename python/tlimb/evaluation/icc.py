"""How far two or more measurements of the same things agree: the intraclass correlation."""

import numpy as np


def icc(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""ICC(A, 1), two-way random effects, absolute agreement, one measurement; what Shrout and Fleiss call ICC(2, 1).

    ratings: (n, k), k measurements of n things; weights: (b, n), how often each was drawn. Gives (b,), NaN where fewer
    than two things were drawn or all measurements are equal.

        (MS_R - MS_E) / (MS_R + (k - 1) MS_E + k / n (MS_C - MS_E))

    with the mean squares between things (R), between measurements (C) and of what is left (E).

    McGraw, Wong (1996), "Forming inferences about some intraclass correlation coefficients", Psychological Methods 1,
    30-46. Shrout, Fleiss (1979), "Intraclass correlations: uses in assessing rater reliability", Psychological Bulletin
    86, 420-428.
    """
    ratings = ratings - ratings.mean()  # what is squared below stays small
    n, k = weights.sum(axis=1), ratings.shape[1]
    columns = weights @ ratings / n[:, None]
    grand = columns.mean(axis=1)
    rows = ratings.mean(axis=1)
    total = weights @ (ratings**2).sum(axis=1) - n * k * grand**2
    between = k * (weights @ rows**2 - n * grand**2)
    measured = n * ((columns - grand[:, None]) ** 2).sum(axis=1)
    left = np.maximum(total - between - measured, 0) / ((n - 1) * (k - 1))
    between, measured = between / (n - 1), measured / (k - 1)
    whole = between + (k - 1) * left + k / n * (measured - left)
    known = (n > 1) & (total > 1e-12 * n * k * (ratings**2).mean())
    return np.where(known, (between - left) / np.where(known, whole, 1), np.nan)
