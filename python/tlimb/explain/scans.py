"""Which test scans are explained, and which of them make one mean map."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.data.targets import Target
from tlimb.labels import members


@dataclass(frozen=True)
class Group:
    """Scans (places in a list) of one class, by its name and number; both are None where all scans stand together."""

    name: str | None
    outcome: int | None
    places: np.ndarray


def drawn(rows: pd.DataFrame, target: Target, count: int, seed: int) -> pd.DataFrame:
    """At most `count` of the rows (scan_id, person, label), one a person, those with a label, sorted by scan_id.

    Of classes as many each as there are, in an order that the seed alone decides.
    """
    known = rows[rows[target.name].notna()].sort_values("scan_id")
    order = np.random.default_rng(seed).permutation(len(known))
    shuffled = known.iloc[order].drop_duplicates("person")
    turn = shuffled.groupby(target.name).cumcount() if target.kind != "regression" else np.arange(len(shuffled))
    taken = shuffled.iloc[np.argsort(np.asarray(turn), kind="stable")[:count]]
    return taken.sort_values("scan_id", ignore_index=True)


def groups(rows: pd.DataFrame, target: Target) -> list[Group]:
    """The scans of each true class, of several at once each under every class that it has; otherwise all together."""
    truth = target.truth(rows[target.name])
    if target.kind == "classification":
        has = truth[:, None] == np.arange(len(target.classes))
    elif target.kind == "multilabel":
        has = members(truth, len(target.classes)) > 0
    else:
        return [Group(None, None, np.arange(len(rows)))]
    every = [Group(name, number, np.flatnonzero(has[:, number])) for number, name in enumerate(target.classes)]
    return [group for group in every if len(group.places)]
