"""Which training scans an epoch draws, in an order that is a function of seed, stage and epoch alone.

A sampler's class is made with the training part's rows (a row a scan, with its labels; a scan that a bootstrap drew k
times stands k times), the seed and the stage's name, then the user's arguments. tlimb sets its `epoch` before each one.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tlimb.data.dataset import EpochOrder
from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import class_name


class BalancedSampler(EpochOrder):
    """Every class equally often: an epoch is as long as the training part, and classes differ by one scan at most.

    label: a label column of kind classification: a target of the stage or another, such as site. Within a class every
    scan is drawn as often as every other, give or take one. Raises InputError for a label that is not there, is missing
    for a scan or is no class.
    """

    def __init__(self, rows: pd.DataFrame, seed: int, stage: str, label: str):
        super().__init__(len(rows), seed, stage)
        classes = _labels(rows, label, "BalancedSampler")
        if pd.api.types.is_float_dtype(classes):
            message = f"'{label}' is a number; expected a label of classes"
            raise InputError([Problem("sampler BalancedSampler", message)])
        self._members = [np.flatnonzero(classes == name) for name in sorted(classes.unique())]

    def __iter__(self) -> Iterator[int]:
        random = self.generator()
        share, rest = divmod(self.n, len(self._members))
        more = set(random.permutation(len(self._members))[:rest].tolist())
        drawn = [_rounds(members, share + (k in more), random) for k, members in enumerate(self._members)]
        yield from random.permutation(np.concatenate(drawn)).tolist()


class WeightedSampler(EpochOrder):
    """As many draws as there are training scans, with replacement, each scan in proportion to its weight.

    label: a label column. weights: class -> weight, a number's class being its text ("1" for 1.0); null where the label
    itself is the weight. Raises InputError for a label that is not there or missing for a scan, a class without a
    weight, and weights that are no finite numbers, negative or all 0.
    """

    def __init__(self, rows: pd.DataFrame, seed: int, stage: str, label: str, weights: dict | None = None):
        super().__init__(len(rows), seed, stage)
        values = _labels(rows, label, "WeightedSampler")
        if weights is not None:
            values = values.map(class_name) if pd.api.types.is_numeric_dtype(values) else values
            unknown = sorted(set(values) - set(weights))
            if unknown:
                where = "sampler.init_args.weights"
                raise InputError([Problem(where, f"no weight for the class '{name}'") for name in unknown])
            values = values.map({name: _number(weight) for name, weight in weights.items()})
        elif not pd.api.types.is_numeric_dtype(values):
            raise InputError([Problem("sampler.init_args.weights", f"missing; '{label}' has classes, not numbers")])
        self._weights = values.to_numpy(dtype="float64")
        if not (np.isfinite(self._weights).all() and self._weights.min() >= 0 and self._weights.sum() > 0):
            message = "weights are not finite, negative or all 0; expected numbers of at least 0, some above"
            raise InputError([Problem("sampler WeightedSampler", message)])

    def __iter__(self) -> Iterator[int]:
        weights = self._weights / self._weights.sum()
        yield from self.generator().choice(self.n, self.n, p=weights).tolist()


def _labels(rows: pd.DataFrame, label: str, sampler: str) -> pd.Series:
    if label not in rows:
        known = [name for name in rows.columns if name not in ("split", "scan_id", "person", "role", "times")]
        message = f"no label '{label}' in this stage"
        raise InputError([Problem("sampler.init_args.label", message, nearest(label, known))])
    missing = int(rows[label].isna().sum())
    if missing:
        message = f"{missing} training scans have no '{label}'; set `missing` to \"drop\" or choose another label"
        raise InputError([Problem(f"sampler {sampler}", message)])
    return rows[label].reset_index(drop=True)


def _number(weight) -> float:
    return float(weight) if isinstance(weight, (int, float)) else np.nan


def _rounds(members: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` of the members, each round of all of them in a new order."""
    rounds = [random.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate([members[:0], *rounds])[:count]
