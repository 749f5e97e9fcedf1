"""How familiar a scan is to a model: the distance of its features from those of the validation scans.

Mahalanobis' distance of the features that the encoder gives to the heads, as in Lee, Lee, Lee, Shin (2018), "A simple
unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS, without their classes:

    d(f)^2 = (f - m)' C^-1 (f - m),    C = (1 - s) S + s (tr S / F) 1

m and S are mean and covariance of the validation scans' F features, s the shrinkage of Ledoit and Wolf (2004), "A
well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88, 365-411.
Of more than `WHOLE` features the first `KEPT` eigenvalues of C stand apart and one mean stands for the rest (as in
probabilistic principal components), so that what the validation scans never did counts, too.

A distance is held against those that validation scans have by the mean and covariance of other persons.
"""

from collections.abc import Sequence

import numpy as np

WHOLE = 64
"""Features up to which every eigenvalue is kept."""

KEPT = 32
"""Eigenvalues kept of more features."""

LEAST = 10
"""Validation scans below which nothing can be said."""

MOST = 500
"""Validation scans that are looked at; of more, as many that lie evenly among them."""

FOLDS = 5
"""Parts of the persons of which each is held out once."""

RARE = 0.01
"""Share of familiar scans that may be called unfamiliar, where there are enough scans to tell."""


def fit_familiar(features: np.ndarray, persons: Sequence[str] | None = None) -> dict | None:
    """What `familiarity` needs, fit for JSON, from features (n, F) of validation scans.

    persons: whose scan each is; each scan is another person's where None. None where fewer than `LEAST` scans can be
    held out, features are not finite, or features do not vary.
    """
    features = np.asarray(features, np.float64)
    names = np.arange(len(features)) if persons is None else np.asarray(persons)
    few = np.linspace(0, len(features) - 1, min(len(features), MOST)).astype(int)
    features, names = features[few], names[few]
    if len(features) < LEAST or not np.isfinite(features).all() or not features.std(axis=0).any():
        return None
    fold = np.unique(names, return_inverse=True)[1] % FOLDS
    held_out = np.full(len(features), np.inf)
    for number in range(FOLDS):
        out = fold == number
        if out.any() and (~out).sum() > 1 and features[~out].std(axis=0).any():
            held_out[out] = _distance(_shrunk(features[~out]), features[out])
    held_out = np.sort(held_out[np.isfinite(held_out)])
    if len(held_out) < LEAST:
        return None
    facts = _shrunk(features) | {"held_out": held_out}
    return {"n": len(features)} | {name: _rounded(np.asarray(value)) for name, value in facts.items()}


def familiarity(facts: dict, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,) of features (n, F) by what `fit_familiar` gave, and p (n,): the share of familiar scans as far or
    farther, (1 + number of held-out distances >= d) / (1 + number of them). Features that are not finite have the
    distance infinity."""
    distance = _distance(facts, np.asarray(features, np.float64))
    held_out = np.asarray(facts["held_out"])
    nearer = np.searchsorted(held_out, distance, side="left")
    return distance, (1 + len(held_out) - nearer) / (1 + len(held_out))


def unfamiliar(facts: dict, p: np.ndarray) -> np.ndarray:
    """Which p (n,) say that a scan is unfamiliar: at most `RARE`, or as low as they can be with few held-out scans."""
    return p <= max(RARE, 1 / (1 + len(facts["held_out"])))


def _shrunk(features: np.ndarray) -> dict:
    """Mean (F,), axes (k, F), variances (k,) along them and `rest`, the variance along every other direction."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    mean = features.mean(axis=0)
    centred = features - mean
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    width, own = features.shape[1], sizes**2 / len(features)
    level = own.sum() / width
    kept = min(len(own), width if width <= WHOLE else KEPT)
    variances = (1 - shrinkage) * own[:kept] + shrinkage * level
    others = (level * width - variances.sum()) / (width - kept) if kept < width else level
    least = 1e-12 * level
    return {"mean": mean, "axes": axes[:kept], "variances": np.maximum(variances, least), "rest": max(others, least)}


def _distance(facts: dict, features: np.ndarray) -> np.ndarray:
    centred = features - np.asarray(facts["mean"])
    along = centred @ np.asarray(facts["axes"]).T
    beside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
    squared = (along**2 / np.asarray(facts["variances"])).sum(axis=1) + beside / facts["rest"]
    return np.sqrt(np.where(np.isfinite(squared), squared, np.inf))


def _rounded(values: np.ndarray):
    """Numbers with five significant digits, as lists: a file of them is a third of one with all."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{float(values):.5g}")
