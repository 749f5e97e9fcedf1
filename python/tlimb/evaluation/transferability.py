"""How well an encoder's features suit a target before anything is fine-tuned: LogME, LEEP, NLEEP, H-score, neighbours.

All look at the target's training scans alone, a row a draw (a scan that a bootstrap drew twice stands twice), and all
are larger where transfer is expected to be better. Scores of one target are compared between encoders, never between
targets or training sets.
"""

import numpy as np

from tlimb.evaluation.metrics import metric

NEIGHBOURS = 5
"""How many scans of other people vote in `knn_score`."""

ENERGY = 0.8
"""The part of the variance of features that NLEEP's principal components keep, as its paper has it."""

COMPONENTS = 5
"""Gaussians for each class of the target in NLEEP, as its paper has it."""

SCORE = {"classification": "balanced_accuracy", "ordinal": "quadratic_kappa", "regression": "r2"}
"""What scores that predict are measured by: larger is better for every kind of target."""

RATIOS = np.logspace(-8, 8, 129)
"""Ratios of the two precisions of LogME that are tried, in units of the mean squared singular value."""


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    r"""The log of the maximum evidence of labels given features, a scan: LogME.

    With features F (n, D), y (n,) one column of labels, weights w ~ N(0, I / a) and y ~ N(F w, I / b),

        LogME = max_{a, b} 1/n log p(y | F, a, b),    p(y | F, a, b) = N(y; 0, I / b + F F^T / a),

    averaged over columns. labels: (n, K), one column 0 and 1 for each class, or one standardised quantity. The evidence
    depends on t = a / b and on b, whose best value for a t is known: b = n / y^T (I + F F^T / t)^{-1} y. What is left
    is a maximum over one number, found on a grid and refined; the authors' fixed point goes to the same place. You,
    Liu, Wang, Long (2021), "LogME: practical assessment of pre-trained models for transfer learning", ICML, equations 2
    to 4.
    """
    from scipy.optimize import minimize_scalar

    left, sizes, _ = np.linalg.svd(np.asarray(features, float), full_matrices=False)
    squares = sizes**2
    unit, n, found = squares.mean() or 1.0, len(features), []
    for column in np.asarray(labels, float).T:
        along, whole = (left.T @ column) ** 2, column @ column

        def evidence(power, along=along, whole=whole):
            ratio = unit * 10.0**power
            rest = whole - (along * squares / (squares + ratio)).sum()
            precision = n / max(rest, np.finfo(float).tiny)
            return 0.5 * (np.log(precision / (2 * np.pi)) - 1 - np.log1p(squares / ratio).sum() / n)

        powers = np.log10(RATIOS)
        best = powers[np.argmax([evidence(power) for power in powers])]
        step = powers[1] - powers[0]
        refined = minimize_scalar(lambda power: -evidence(power), bounds=(best - step, best + step), method="bounded")
        found.append(max(-refined.fun, evidence(best)))
    return float(np.mean(found))


def leep(source: np.ndarray, classes: np.ndarray) -> float:
    r"""The log expected empirical prediction of target classes from the classes of a source head: LEEP.

        LEEP = 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z,    P(y | z) = P(y, z) / P(z),
        P(y, z) = 1/n sum_{i: y_i = y} theta(x_i)_z,    P(z) = sum_y P(y, z),

    theta(x_i)_z the probability that the source head gives class z, `source` (n, Z), and y_i the target's class,
    numbers from 0, `classes` (n,). At most 0. Nguyen, Hassner, Seeger, Archambeau (2020), "LEEP: a new measure to
    evaluate transferability of learned representations", ICML, equations 1 and 2.
    """
    members = one_column_each(classes)
    joint = members.T @ source / len(source)
    marginal = joint.sum(0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    expected = (source @ conditional.T * members).sum(1)
    return float(np.log(expected).mean())


def nleep(features: np.ndarray, classes: np.ndarray, seed: int) -> float:
    r"""LEEP with clusters of the features in the place of source classes: NLEEP.

    theta(x)_v = P(v | x) under a mixture of Gaussians that is fitted to the features' principal components, those that
    keep 80 % of their variance, with 5 Gaussians for each class of the target (at most one for two scans). Covariances
    are diagonal: a full one is not known from few people. Li, Jia, Yu, Zhuang, Yang, Fergus (2021), "Ranking neural
    checkpoints", CVPR, section 3.2.
    """
    from sklearn.mixture import GaussianMixture

    reduced = principal_components(features, ENERGY)
    scale = reduced.std(0).max() or 1.0
    wanted = COMPONENTS * len(np.unique(classes))
    count = max(2, min(wanted, len(features) // 2))
    mixture = GaussianMixture(count, covariance_type="diag", n_init=3, reg_covar=1e-4, random_state=seed % 2**32)
    return leep(mixture.fit(reduced / scale).predict_proba(reduced / scale), classes)


def principal_components(features: np.ndarray, energy: float) -> np.ndarray:
    """The fewest principal components (n, k) of features (n, D) that keep the share `energy` of their variance."""
    centred = features - features.mean(0)
    left, sizes, _ = np.linalg.svd(np.asarray(centred, float), full_matrices=False)
    kept = np.cumsum(sizes**2) / max((sizes**2).sum(), np.finfo(float).tiny)
    count = int(np.searchsorted(kept, energy - 1e-12)) + 1
    return (left * sizes)[:, :count]


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
    r"""H-score: how much of the features' variance, in its own metric, lies between the classes.

        H = tr(cov(f)^{-1} cov(E[f | y])),

    between 0 and K - 1 for K classes. NaN where there are not more scans than features and one: every set of features
    then has the largest value. Bao, Li, Huang, Zhang, Zheng, Zamir, Guibas (2019), "An information-theoretic approach
    to transferability in task transfer learning", ICIP, definition 2.
    """
    if len(features) <= features.shape[1] + 1:
        return float("nan")
    centred, between = _between(features, classes)
    return float(np.trace(np.linalg.pinv(centred.T @ centred, hermitian=True) @ (between.T @ between)))


def shrunk_h_score(features: np.ndarray, classes: np.ndarray) -> float:
    r"""H-score with a shrunk covariance, for fewer scans than features.

        H_a = tr(cov_a(f)^{-1} (1 - a) cov(E[f | y])),    cov_a(f) = (1 - a) cov(f) + a tr(cov(f)) / D I,

    with the shrinkage a of Ledoit and Wolf. Ibrahim, Ponomareva, Mazumder (2022), "Newer is not always better:
    rethinking transferability metrics, their peculiarities, stability and performance", ECML, equation 6. Covariances
    divide by n.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    centred, between = _between(features, classes)
    shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    n, width = centred.shape
    covariance = centred.T @ centred / n
    mean = np.trace(covariance) / width
    if mean == 0:
        return 0.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(width)
    if shrinkage == 0:
        return float(np.trace(np.linalg.pinv(shrunk, hermitian=True) @ (between.T @ between)) / n)
    return float((1 - shrinkage) * np.trace(np.linalg.solve(shrunk, between.T @ between)) / n)


def _between(features: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred features (n, D), and for each scan the centred mean of its class."""
    centred = np.asarray(features, float) - features.mean(0)
    members = one_column_each(classes)
    means = members.T @ centred / members.sum(0)[:, None]
    return centred, members @ means


def knn_score(features: np.ndarray, truth: np.ndarray, persons: np.ndarray, kind: str, classes: int = 0) -> float:
    """How well the 5 nearest scans of other people tell a scan's label: each person left out once.

    Distances are Euclidean on standardised features; neighbours vote (classes) or are averaged (quantities). truth (n,)
    as metrics take it; the metric is that of `SCORE`. NaN where nobody else is there, or it can't be computed.
    """
    spread = features.std(0)
    standard = np.divide(features - features.mean(0), spread, out=np.zeros(features.shape), where=spread > 0)
    squares = (standard**2).sum(1)
    distance = squares[:, None] + squares[None] - 2 * standard @ standard.T
    distance[persons[:, None] == persons[None]] = np.inf
    count = min(NEIGHBOURS, int(np.isfinite(distance).sum(1).min()))
    if count == 0:
        return float("nan")
    nearest = truth[np.argsort(distance, axis=1, kind="stable")[:, :count]]
    if kind == "regression":
        return metric(SCORE[kind], truth, nearest.mean(1))
    shares = (nearest[:, :, None] == np.arange(classes)).mean(1)
    return metric(SCORE[kind], truth, shares.argmax(1), shares)


def one_column_each(classes: np.ndarray) -> np.ndarray:
    """Class numbers (n,) as (n, K) of 0 and 1, a column for each class that occurs."""
    return (classes[:, None] == np.unique(classes)[None]).astype(float)
