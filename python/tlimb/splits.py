"""Who is trained on, validated on and tested on: persons, never scans, are divided."""

import random

import numpy as np
import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.seeds import seed_for

ROLES = ("train", "validation", "test")


def holdout(people: pd.DataFrame, split: dict, kinds: dict[str, str]) -> pd.Series:
    """Divide persons into train, validation and test.

    people: one row a person, indexed by person, with the columns named in ``split["stratify"]``.
    split: ``validation`` and ``test`` as shares of all persons, ``stratify``, ``seed``, and ``n``, the number of
    training persons to keep (smaller `n` are subsets of larger ones). kinds: label -> regression or classification;
    a regression label is stratified by fifths.

    Returns the role of each person kept, indexed by person. Each person's place in the order is a function of the
    seed and the person alone, so that adding people moves few of the others. Raises ValueError when a part would
    be empty or fewer than `n` persons are left to train on.
    """
    order = pd.Series([seed_for(split["seed"], "split", person) for person in people.index], people.index, dtype="uint64")
    strata = _strata(people, split["stratify"], kinds)
    groups = [(stratum, group.sort_values().index.tolist()) for stratum, group in order.groupby(strata)]
    groups = sorted(groups, key=lambda group: seed_for(split["seed"], "stratum", group[0]))
    queues = [queue for _, queue in groups]
    roles = {}
    for role in ("test", "validation"):
        wanted = round(split[role] * len(people))
        random.Random(seed_for(split["seed"], "ties", role)).shuffle(queues)
        for queue, count in zip(queues, _shares([len(queue) for queue in queues], wanted)):
            roles |= dict.fromkeys(queue[:count], role)
            del queue[:count]
    training = _interleaved(queues)
    if split["n"] is not None:
        if split["n"] > len(training):
            raise ValueError(f"n is {split['n']}, but only {len(training)} persons are left to train on")
        training = training[: split["n"]]
    roles |= dict.fromkeys(training, "train")
    empty = [role for role in ROLES if role not in roles.values()]
    if empty:
        raise ValueError(f"{len(people)} persons are too few: nobody is left for {' and '.join(empty)}")
    return pd.Series(roles, name="role", dtype="str").sort_index()


def draw(people: list[str], n: int, seed: int) -> list[str]:
    """`n` of `people` at random; smaller draws are subsets of larger ones. Raises ValueError when there are fewer."""
    if n > len(people):
        raise ValueError(f"n is {n}, but there are only {len(people)} persons")
    return sorted(people, key=lambda person: (seed_for(seed, "draw", person), person))[:n]


def require_disjoint(rows: pd.DataFrame) -> None:
    """Stop where a person has two roles in one split; rows: columns split, person, role."""
    counts = rows.groupby(["split", "person"])["role"].nunique()
    crossing = counts[counts > 1].index
    if len(crossing):
        raise InputError([Problem(f"split {split}", f"person '{person}' has two roles") for split, person in crossing])


def _strata(people: pd.DataFrame, labels: list[str], kinds: dict[str, str]) -> pd.Series:
    parts = pd.Series("", index=people.index, dtype="str")
    for label in labels:
        column = people[label]
        if kinds[label] == "regression":
            column = pd.qcut(column.rank(method="first"), min(5, len(column)), labels=False)
        parts = parts + "/" + column.astype("str").fillna("")
    return parts


def _shares(sizes: list[int], wanted: int) -> list[int]:
    """`wanted` divided over groups in proportion to their sizes, by largest remainder; of equal ones the first."""
    total = sum(sizes)
    exact = np.array(sizes) * (min(wanted, total) / total if total else 0)
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: min(wanted, total) - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def _interleaved(queues: list[list[str]]) -> list[str]:
    """All persons such that any first part of the list has the proportions of the whole."""
    placed = [((i + 0.5) / len(queue), k, person) for k, queue in enumerate(queues) for i, person in enumerate(queue)]
    return [person for _, _, person in sorted(placed)]
