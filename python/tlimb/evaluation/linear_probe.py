"""Linear probes: a linear model on frozen features, its penalty chosen by cross-validation over persons."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.architectures.linear_fit import cross_entropy
from tlimb.data.targets import Target, softmax
from tlimb.evaluation.metrics import metric
from tlimb.evaluation.transferability import SCORE

PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01)
"""What is tried, strongest first, in units of a standardised feature's mean square."""

FOLDS = 5

METRICS = {
    "classification": ("balanced_accuracy", "auroc", "log_loss"),
    "ordinal": ("quadratic_kappa", "balanced_accuracy", "log_loss"),
    "regression": ("r2", "mae", "r"),
}
"""What a probe is measured by on people whom it was not fitted on."""


@dataclass(frozen=True)
class Labelled:
    """Features (n, F) of scans, their truth (n,) in its unit or as class numbers, and their persons (n,)."""

    features: np.ndarray
    truth: np.ndarray
    persons: np.ndarray


@dataclass(frozen=True)
class Part:
    """Scans of a role: their rows (labels, site, covariates) and, in the same order, features and truth."""

    table: pd.DataFrame
    labelled: Labelled


def parts_of(
    rows: pd.DataFrame, role: str, features: np.ndarray, row: dict[str, int], target: Target
) -> tuple[Part, Part]:
    """The training scans, each as often as it was drawn (`times`), and those of `role`, sorted by scan_id.

    row: scan_id -> its row of features (n, F). Scans without one or without a label of the target are left out.
    """
    rows = rows[rows["scan_id"].isin(row) & rows[target.name].notna()].sort_values("scan_id")
    train = rows[rows["role"] == "train"]
    train = train.loc[train.index.repeat(train["times"])]
    parts = []
    for table in (train, rows[rows["role"] == role]):
        own = features[[row[scan] for scan in table["scan_id"]]]
        parts.append(Part(table, Labelled(own, target.truth(table[target.name]), table["person"].to_numpy(str))))
    return parts[0], parts[1]


def says_nothing(train: Part, shown: Part) -> str:
    """Why no probe of the training scans can be measured on those shown; empty where one can."""
    if len(shown.table) and len(set(train.labelled.truth)) > 1:
        return ""
    return "no scan of one part has a label and finite features, or all training labels are equal"


@dataclass(frozen=True)
class Probe:
    r"""A linear probe: features (n, F) -> outputs (n, K), logits of classes or one quantity.

    On features standardised on the scans it was fitted on (mean 0, sd 1; a constant one counts nowhere), weights W and
    constants c minimise 1/n sum_i (y_i - c - W x_i)^2 + penalty |W|^2 for a quantity, and
    1/n sum_i -log softmax(c + W x_i)[y_i] + penalty / 2 |W|^2 for classes.
    """

    mean: np.ndarray
    basis: np.ndarray
    weights: np.ndarray
    constants: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) @ self.basis @ self.weights.T + self.constants


def fit_probe(features: np.ndarray, truth: np.ndarray, kind: str, classes: int, penalty: float) -> Probe:
    """The probe of labels (n,) on features (n, F). classes: how many, where they are not quantities.

    Features are turned into the n directions that scans span, which changes no prediction of a penalised model.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    mean, spread = features.mean(0), features.std(0)
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    _, sizes, right = np.linalg.svd((features - mean) * inverse, full_matrices=False)
    right = right[sizes > 1e-10 * max(sizes[0], 1e-300)]
    basis = inverse[:, None] * right.T
    turned = (features - mean) @ basis
    if kind == "regression":
        model = Ridge(penalty * len(truth)).fit(turned, truth)
        return Probe(mean, basis, model.coef_[None], np.atleast_1d(model.intercept_))
    model = LogisticRegression(C=1 / (penalty * len(truth)), max_iter=2000).fit(turned, truth)
    return Probe(mean, basis, *_of_all_classes(model, classes))


def _of_all_classes(model, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and constants of all classes; one that was not among the labels is next to impossible."""
    known, own, constant = model.classes_.astype(int), model.coef_, model.intercept_
    if len(known) == 2:
        own, constant = np.concatenate([-own, own]) / 2, np.concatenate([-constant, constant]) / 2
    weights, constants = np.zeros((classes, own.shape[1])), np.full(classes, constant.min() - 30.0)
    weights[known], constants[known] = own, constant
    return weights, constants


def probed(train: Labelled, features: np.ndarray, kind: str, classes: int, seed: int) -> np.ndarray:
    """Outputs (n, K) for features of the probe of training scans whose penalty `cross_validated` chose."""
    _, penalty = cross_validated(train, kind, classes, seed)
    return fit_probe(train.features, train.truth, kind, classes, penalty)(features)


def cross_validated(train: Labelled, kind: str, classes: int, seed: int) -> tuple[float, float]:
    """The probe's score on people left out, and its penalty: that with the least loss there.

    Folds part persons; classes are spread over them. The score is by the metric of `transferability.SCORE`. NaN, with
    the strongest penalty, where there are too few people: a class of one person, or fewer than four in all.
    """
    folds = _folds(train, kind, seed)
    if not folds:
        return float("nan"), PENALTIES[0]
    losses, outputs = [], []
    for penalty in PENALTIES:
        found = np.zeros((len(train.truth), 1 if kind == "regression" else classes))
        for kept, left in folds:
            fitted = fit_probe(train.features[kept], train.truth[kept], kind, classes, penalty)
            found[left] = fitted(train.features[left])
        losses.append(_loss(found, train.truth, kind))
        outputs.append(found)
    best = int(np.argmin(losses))
    return measured(outputs[best], train.truth, kind)[SCORE[kind]], PENALTIES[best]


def _folds(train: Labelled, kind: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows kept and left out; no person stands on both sides, every class is kept in each."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    persons = len(set(train.persons))
    if kind == "regression":
        if persons < 4:
            return []
        parts = GroupKFold(min(FOLDS, persons), shuffle=True, random_state=seed % 2**32)
        return list(parts.split(train.features, groups=train.persons))
    least = min(len(set(train.persons[train.truth == one])) for one in np.unique(train.truth))
    if least < 2 or persons < 4 or len(np.unique(train.truth)) < 2:
        return []
    parts = StratifiedGroupKFold(min(FOLDS, least), shuffle=True, random_state=seed % 2**32)
    folds = list(parts.split(train.features, train.truth, groups=train.persons))
    return [(kept, left) for kept, left in folds if len(left) and len(set(train.truth[kept])) > 1]


def _loss(outputs: np.ndarray, truth: np.ndarray, kind: str) -> float:
    return float(np.mean((outputs[:, 0] - truth) ** 2)) if kind == "regression" else cross_entropy(outputs, truth)


def measured(outputs: np.ndarray, truth: np.ndarray, kind: str) -> dict[str, float]:
    """Metric -> value of a probe's outputs (n, K); NaN where one can't be computed."""
    prediction, shares = predicted(outputs, kind)
    return {name: metric(name, truth, prediction, shares) for name in METRICS[kind]}


def predicted(outputs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A probe's outputs (n, K) as predictions (n,) and probabilities (n, K) of classes, None for quantities."""
    return (outputs[:, 0], None) if kind == "regression" else (outputs.argmax(1).astype(float), softmax(outputs))


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """Numbers, null where there is none."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
