"""Targets: labels as numbers that a network learns, and its outputs as values that people read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.errors import InputError, Problem, nearest


@dataclass(frozen=True)
class Target:
    """One label to learn; mean and sd (of the training part, in the label's unit) are set for regression only."""

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    mean: float | None = None
    sd: float | None = None

    @property
    def outputs(self) -> int:
        """Width of the head: 1, or the number of classes."""
        return 1 if self.kind == "regression" else len(self.classes)

    def encode(self, labels: pd.Series) -> np.ndarray:
        """Labels (n,) as float32: the standardised value or the index of the class, NaN where missing.

        Raises InputError for a class that is not among `classes`.
        """
        if self.kind == "regression":
            return ((labels.astype("float64").to_numpy() - self.mean) / self.sd).astype("float32")
        return self.truth(labels).astype("float32")

    def truth(self, labels: pd.Series) -> np.ndarray:
        """Labels (n,) as float64 in their own unit, or the index of the class; NaN where missing."""
        if self.kind == "regression":
            return labels.astype("float64").to_numpy()
        index = {name: float(number) for number, name in enumerate(self.classes)}
        missing = labels.isna()
        unknown = sorted(set(labels[~missing]) - set(index))
        if unknown:
            raise InputError(
                [Problem(f"label {self.name}", f"unknown class '{name}'", nearest(name, index)) for name in unknown]
            )
        return labels.map(index).astype("float64").to_numpy()

    def decode(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A head's outputs (n, outputs) as predictions (n,) in the label's unit and None, or class indices and
        probabilities (n, classes)."""
        outputs = outputs.astype("float64")
        if self.kind == "regression":
            return outputs[:, 0] * self.sd + self.mean, None
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        return probabilities.argmax(axis=1).astype("float64"), probabilities

    def facts(self) -> dict:
        """What is saved with a model: kind and classes, or mean and sd."""
        scale = {"mean": self.mean, "sd": self.sd} if self.kind == "regression" else {}
        return {"kind": self.kind, "classes": list(self.classes), **scale}


def fit_targets(labels: dict, names: Sequence[str], train: pd.DataFrame) -> list[Target]:
    """The targets `names` with their scaling fitted on the training scans, and on nothing else.

    labels: name -> {"kind", "classes"}; train: a row a training scan, a column a label. The sd is that of a population
    (divided by n). Raises InputError for a target without labels, with equal values or with one class only.
    """
    fitted, problems = [], []
    for name in names:
        kind, known = labels[name]["kind"], train[name].dropna()
        if known.nunique() < 2:
            found = f"only the value {known.tolist()[0]!r}" if len(known) else "no label"
            problems.append(
                Problem(f"label {name}", f"the {len(train)} training scans have {found}; nothing can be learned")
            )
        elif kind == "regression":
            values = known.astype("float64")
            fitted.append(Target(name, kind, (), float(values.mean()), float(values.std(ddof=0))))
        else:
            fitted.append(Target(name, kind, tuple(labels[name]["classes"])))
    if problems:
        raise InputError(problems)
    return fitted


def read_targets(facts: dict) -> list[Target]:
    """The targets that a model was saved with: name -> facts."""
    return [
        Target(name, item["kind"], tuple(item["classes"]), item.get("mean"), item.get("sd"))
        for name, item in facts.items()
    ]
