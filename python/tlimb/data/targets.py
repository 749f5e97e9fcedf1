"""Targets: labels as numbers that a network learns, and its outputs as values that people read.

Kinds, by what a scan's label is: a quantity (regression), one class of several (classification), one class of several
that have an order (ordinal), any number of classes (multilabel), or a time until an event (survival). A time until
which nothing was seen to happen is negative here, -t for "later than t".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tlimb.data.bins import Bins, fit_bins
from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import CLASSES, ONE_CLASS, classes_in, members, together

MOST_CLASSES = 50
"""Classes that one multilabel target can have: a set of them is a sum of powers of 2 that a double holds exactly."""


@dataclass(frozen=True)
class Target:
    """One label to learn; mean and sd (of the training part, in the label's unit) are set for regression only, and bins
    where its head is a soft-bin one. counts: training scans of each class; none for numbers, and where they were not
    kept."""

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None
    bins: Bins | None = None
    counts: tuple[int, ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the head: the number of classes (one less where they have an order) or of bins, else 1."""
        if self.kind in CLASSES:
            return len(self.classes) - (self.kind == "ordinal")
        return self.bins.count if self.bins else 1

    def encode(self, labels: pd.Series) -> np.ndarray:
        """Labels (n,) as float32, NaN where missing: (n,) standardised values, indices of classes or times (negative
        where the event was not seen), or (n, classes) of 0 and 1 for multilabel.

        Raises InputError for a class that is not among `classes`.
        """
        values = self.truth(labels)
        if self.kind == "regression":
            values = (values - self.mean) / self.sd
        if self.kind == "multilabel":
            values = np.where(np.isnan(values)[:, None], np.nan, members(np.nan_to_num(values), len(self.classes)))
        return values.astype("float32")

    def truth(self, labels: pd.Series) -> np.ndarray:
        """Labels (n,) as float64, NaN where missing: in their own unit, the index of the class, or for several classes
        the sum of 2^index."""
        if self.kind in ("regression", "survival"):
            return labels.astype("float64").to_numpy()
        index = {name: number for number, name in enumerate(self.classes)}
        one = self.kind in ONE_CLASS
        cells = zip(labels, labels.isna())
        sets = [None if missing else [cell] if one else classes_in(cell) for cell, missing in cells]
        unknown = sorted({name for names in sets for name in names or [] if name not in index})
        if unknown:
            raise InputError(
                [Problem(f"label {self.name}", f"unknown class '{name}'", nearest(name, index)) for name in unknown]
            )
        codes = index if one else {name: 2**number for name, number in index.items()}
        return np.array([np.nan if names is None else sum(codes[name] for name in names) for names in sets], float)

    def decode(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A head's outputs (n, outputs) as predictions (n,) of the form of `truth` and probabilities (n, classes).

        Quantities and risks (the higher, the sooner) have None for probabilities.
        """
        outputs = outputs.astype("float64")
        if self.kind == "survival":
            return outputs[:, 0], None
        if self.kind == "regression":
            return (softmax(outputs) @ self.bins.centres if self.bins else outputs[:, 0] * self.sd + self.mean), None
        if self.kind == "ordinal":
            shares = sigmoid(outputs)
            return (np.cumprod(shares, axis=1) > 0.5).sum(axis=1).astype("float64"), continued(shares)
        if self.kind == "multilabel":
            probabilities = sigmoid(outputs)
            return (probabilities >= 0.5) @ (2.0 ** np.arange(len(self.classes))), probabilities
        probabilities = softmax(outputs)
        return probabilities.argmax(axis=1).astype("float64"), probabilities

    def compare(self, labels: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(truth, prediction, probabilities), as metrics take them, of the scans that have a label.

        labels: as `encode` gives them, float64; outputs: (n, outputs) of the head, float32.
        """
        known = ~np.isnan(labels).reshape(len(labels), -1).any(axis=1)
        truth = labels[known]
        if self.kind == "regression":
            truth = truth * self.sd + self.mean
        if self.kind == "multilabel":
            truth = truth @ (2.0 ** np.arange(len(self.classes)))
        return truth, *self.decode(outputs[known])

    def names(self, values: np.ndarray) -> list[str | None]:
        """What people call values (n,) of the form of `truth`: classes, ';' between several; None for numbers."""
        if self.kind == "multilabel":
            sets = members(np.nan_to_num(values), len(self.classes))
            named = [together([name for name, has in zip(self.classes, row) if has]) for row in sets]
            return [None if missing else name for name, missing in zip(named, np.isnan(values))]
        known = dict(enumerate(self.classes))
        return [known.get(value) for value in values]

    def facts(self) -> dict:
        """What is saved with a model: kind and classes, mean and sd of a quantity, bins and counts where known."""
        scale = {"mean": self.mean, "sd": self.sd} if self.kind == "regression" else {}
        bins = {"bins": self.bins.facts()} if self.bins else {}
        counts = {"counts": list(self.counts)} if self.counts else {}
        return {"kind": self.kind, "classes": list(self.classes), **scale, **bins, **counts}


def softmax(outputs: np.ndarray) -> np.ndarray:
    """exp(o_k) / sum_j exp(o_j) along each row."""
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(outputs: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-o)), without overflow."""
    small = np.exp(-np.abs(outputs))
    return np.where(outputs >= 0, 1, small) / (1 + small)


def continued(shares: np.ndarray) -> np.ndarray:
    """Probabilities (n, k) of ordered classes from shares[:, j] = P(y > j | y >= j), (n, k - 1):
    P(y = j) = (1 - shares_j) prod_{i<j} shares_i."""
    ones = np.ones((len(shares), 1))
    return np.cumprod(np.hstack([ones, shares]), axis=1) * np.hstack([1 - shares, ones])


def fit_targets(labels: dict, names: Sequence[str], train: pd.DataFrame, heads: dict | None = None) -> list[Target]:
    """The targets `names` with their scaling, bins and counts fitted on the training scans, and on nothing else.

    labels: name -> {"kind", "classes"}; train: a row a training scan, a column a label. heads: name -> the stage's
    `heads`, of which `bins` matter here. The sd is that of a population (divided by n). Raises InputError for a target
    without labels, with equal values or one class only, without any event, and for bins that do not fit the labels.
    """
    fitted, problems = [], []
    for name in names:
        bins = ((heads or {}).get(name) or {}).get("bins")
        try:
            fitted.append(_fit(name, labels[name], train[name], bins))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return fitted


def _fit(name: str, label: dict, column: pd.Series, bins: dict | None) -> Target:
    kind, classes, known = label["kind"], tuple(label["classes"]), column.dropna()
    problem = _unlearnable(kind, known, len(column))
    if bins and kind != "regression":
        problem = f"bins are for quantities, and its kind is {kind}"
    if len(classes) > MOST_CLASSES and kind == "multilabel":
        problem = f"has {len(classes)} classes; several at once can be learned of at most {MOST_CLASSES}"
    if problem:
        raise InputError([Problem(f"label {name}", problem)])
    if kind in CLASSES:
        unfitted = Target(name, kind, classes)
        return replace(unfitted, counts=_counts(unfitted, known))
    if kind != "regression":
        return Target(name, kind)
    values = known.astype("float64")
    fitted = fit_bins(bins, name, values.to_numpy()) if bins else None
    return Target(name, kind, (), float(values.mean()), float(values.std(ddof=0)), fitted)


def _counts(target: Target, known: pd.Series) -> tuple[int, ...]:
    """How many of the known labels have each class."""
    codes = target.truth(known)
    if target.kind == "multilabel":
        return tuple(members(codes, len(target.classes)).sum(axis=0).astype(int).tolist())
    return tuple(np.bincount(codes.astype(int), minlength=len(target.classes)).tolist())


def _unlearnable(kind: str, known: pd.Series, scans: int) -> str:
    """Why nothing can be learned from the known labels of the training scans; empty where something can."""
    if known.nunique() < 2:
        found = f"only the value {known.tolist()[0]!r}" if len(known) else "no label"
        return f"the {scans} training scans have {found}; nothing can be learned"
    if kind == "survival" and not (known > 0).any():
        return f"the event was seen in none of the {len(known)} training scans with a time; nothing can be learned"
    return ""


def read_targets(facts: dict) -> list[Target]:
    """The targets that a model was saved with: name -> facts."""
    return [
        Target(
            name,
            item["kind"],
            tuple(item["classes"]),
            item.get("mean"),
            item.get("sd"),
            Bins(**item["bins"]) if item.get("bins") else None,
            tuple(item.get("counts", ())),
        )
        for name, item in facts.items()
    ]


def known_targets(facts: dict, labels: dict, names: Sequence[str], where: str) -> list[Target]:
    """The targets `names` as a trained network knows them, for labels that it is to predict without any training.

    facts: name -> facts of the network's targets; labels: name -> {"kind", "classes"} of the data; where: what to call
    the network. Raises InputError for a target that it has not learned, of another kind, with classes new to it, or
    with its classes in another order; the data may lack some.
    """
    problems = []
    for name in names:
        if name not in facts:
            problems.append(Problem(where, f"has not learned '{name}'", nearest(name, facts)))
        elif facts[name]["kind"] != labels[name]["kind"]:
            message = f"learned '{name}' as {facts[name]['kind']}, and here it is {labels[name]['kind']}"
            problems.append(Problem(where, message))
        elif labels[name]["classes"] != [one for one in facts[name]["classes"] if one in labels[name]["classes"]]:
            known, found = (", ".join(item[name]["classes"]) for item in (facts, labels))
            problems.append(Problem(where, f"learned the classes {known} of '{name}', and the data have {found}"))
    if problems:
        raise InputError(problems)
    return read_targets({name: facts[name] for name in names})
