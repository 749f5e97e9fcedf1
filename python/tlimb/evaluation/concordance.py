"""Harrell's C of times until an event, on weighted rows.

Harrell, Lee, Mark (1996), "Multivariable prognostic models: issues in developing models, evaluating assumptions and
adequacy, and measuring and reducing errors", Statistics in Medicine 15, 361-387.
"""

import numpy as np

BLOCK = 4_000_000
"""Pairs of rows held at once."""


def concordance(times: np.ndarray, risks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """C = P(risk_i > risk_j) over pairs in which the event of i came before anything is known to have happened to j.

    times: (n,), negative where the event was not seen until then; risks: (n,), the higher, the sooner; weights: (b, n),
    how often each row was drawn. Gives (b,), NaN where there is no such pair. A pair counts if the event of i was seen
    and t_i < t_j, or t_i = t_j and that of j was not seen; equal risks count half. A row is never paired with itself.
    """
    moments, events = np.abs(times), np.flatnonzero(times > 0)
    agreeing, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in np.array_split(events, max(1, -(-len(events) * len(times) // BLOCK))):
        first = moments[rows][:, None]
        comparable = (first < moments) | ((first == moments) & (times < 0))
        higher, equal = risks[rows][:, None] > risks, risks[rows][:, None] == risks
        agreeing += _paired(weights, rows, comparable * (higher + equal / 2))
        pairs += _paired(weights, rows, comparable.astype(float))
    return np.where(pairs > 0, agreeing / pairs, np.nan)


def _paired(weights: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over pairs of weight times weight times value, (b,)."""
    return (weights[:, rows] * (weights @ values.T)).sum(axis=1)
