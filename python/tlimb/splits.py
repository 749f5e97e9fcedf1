"""Who is trained on, validated on and tested on: persons, never scans, are divided.

A person's place is a function of the seed and the person: no other row moves it, but that the parts keep their sizes.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.labels import NUMBERS
from tlimb.seeds import seed_for

ROLES = ("train", "validation", "test")

USED = {
    "holdout": {"validation", "test", "repeats", "repeat"},
    "kfold": {"validation", "repeats", "repeat", "folds", "fold"},
    "nested": {"repeats", "repeat", "folds", "fold", "inner_folds", "inner_fold"},
    "site": {"validation", "repeats", "repeat", "column", "held_out", "fold"},
    "file": {"file", "fold"},
}
"""The settings of a split that each scheme uses, beside those that all do."""

ALWAYS = {"scheme", "stratify", "seed", "n", "replicates", "replicate"}

PART = ("repeat", "fold", "inner_fold", "held_out", "replicate")
"""What tells the trials of one candidate apart, beside the seed."""

Strata = list[tuple[str, list[str]]]


def resolved(split: dict, sites: Sequence[list[str]] = (), file_folds: int = 1) -> list[dict]:
    """Every concrete split that `split` asks for: one for each repeat, fold, inner fold and replicate, or those picked.

    split: all fields of `tlimb.config.Split`. sites: the parts that are held out in turn by the scheme `site`.
    file_folds: how many folds the split file has. What a scheme does not use is null in the result, as are counts that
    change no part's people. Raises ValueError for a pick that is out of range.
    """
    counts = {"kfold": split["folds"], "nested": split["folds"], "site": len(sites), "file": file_folds}
    choices = {
        "repeat": _picked(split, "repeat", split["repeats"]),
        "fold": _picked(split, "fold", counts.get(split["scheme"])),
        "inner_fold": _picked(split, "inner_fold", split["inner_folds"] if split["scheme"] == "nested" else None),
        "replicate": _picked(split, "replicate", split["replicates"]),
    }
    kept = (USED[split["scheme"]] | ALWAYS) - {"repeats", "replicates", "file"}
    base = {name: value if name in kept else None for name, value in split.items()}
    found = [base | dict(zip(choices, values)) for values in product(*choices.values())]
    return [one | {"held_out": sites[one["fold"]] if one["scheme"] == "site" else None} for one in found]


def _picked(split: dict, name: str, count: int | None) -> list:
    """The values that `name` takes: all below `count`, the one that is picked, or nothing to choose from."""
    pick = split[name]
    if count is None or pick is None:
        return [None] if count is None else list(range(count))
    if pick >= count:
        raise ValueError(f"{name} is {pick}, but there {'is' if count == 1 else 'are'} only {count}, counted from 0")
    return [pick]


def candidate_spec(spec: dict) -> dict:
    """What all trials of a candidate have in common: a trial's spec without its seed and its part of the split."""
    split = {key: value for key, value in spec["split"].items() if key not in PART}
    return {key: value for key, value in spec.items() if key != "seed"} | {"split": split}


def divide(people: pd.DataFrame, split: dict, kinds: dict[str, str], listed: dict | None = None) -> pd.DataFrame:
    """Who has which role in one concrete split, and how often a training person is drawn.

    people: one row a person, indexed by person, with the columns of ``split["stratify"]`` and, for the scheme `site`,
    ``split["column"]`` as text. split: one of `resolved`. kinds: label -> what it is, as in cohort.json; quantities and
    times are stratified by fifths. listed: role -> persons, of the scheme `file`; who is not listed takes no part.

    Returns columns role and times (1 unless a replicate drew the person more often), indexed by person, sorted. Smaller
    `n` are subsets of larger ones; validation and test depend on neither `n` nor `replicate`. Raises ValueError when a
    part would be empty, fewer than `n` persons are left to train on, or nobody has a label of ``split["stratify"]``.
    """
    people, seed = people.sort_index(), split["seed"]
    if split["repeat"]:
        seed = seed_for(seed, "repeat", split["repeat"])
    if listed is not None:
        people = people[people.index.isin({person for part in listed.values() for person in part})]
    if people.empty:
        raise ValueError("there is nobody to divide")
    strata = _strata(people, split["stratify"], kinds, seed)
    roles = dict.fromkeys(_test_part(strata, people, split, seed, listed), "test")
    roles |= dict.fromkeys(_validation_part(strata, len(people), split, seed, listed), "validation")
    times = dict.fromkeys(roles, 1)
    training = _training(strata, split, seed)
    found = pd.DataFrame({"role": roles | dict.fromkeys(training, "train"), "times": times | training})
    empty = [role for role in ROLES if role not in set(found["role"])]
    if empty:
        raise ValueError(f"{len(people)} persons are too few: nobody is left for {' and '.join(empty)}")
    return found.astype({"role": "str", "times": "int64"}).sort_index()


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


def _test_part(strata: Strata, people: pd.DataFrame, split: dict, seed: int, listed: dict | None) -> list[str]:
    """The persons of the test part, taken out of `strata`."""
    if split["scheme"] == "holdout":
        return _taken(strata, _count(split["test"], len(people)), seed, "test")
    if split["scheme"] == "site":
        return _removed(strata, people.index[people[split["column"]].isin(split["held_out"])])
    if split["scheme"] == "file":
        return _removed(strata, listed["test"])
    return _removed(strata, _folds(strata, split["folds"], seed)[split["fold"]])


def _validation_part(strata: Strata, total: int, split: dict, seed: int, listed: dict | None) -> list[str]:
    """The persons of the validation part, taken out of `strata`; total: how many persons are divided."""
    if split["scheme"] == "nested":
        inner = seed_for(seed, "inner", split["fold"])
        return _removed(strata, _folds(strata, split["inner_folds"], inner)[split["inner_fold"]])
    if split["scheme"] == "file":
        return _removed(strata, listed["validation"])
    return _taken(strata, _count(split["validation"], total), seed, "validation")


def _training(strata: Strata, split: dict, seed: int) -> dict[str, int]:
    """Person -> how often, of the training persons kept or drawn from who is left in `strata`."""
    pool = sum(len(queue) for _, queue in strata)
    wanted = pool if split["n"] is None else split["n"]
    if wanted > pool:
        raise ValueError(f"n is {wanted}, but only {pool} persons are left to train on")
    if split["replicate"] is None:
        return dict.fromkeys(_interleaved(strata)[:wanted], 1)
    seed = seed_for(seed, "replicate", split["replicate"])
    strata = random.Random(seed).sample(strata, len(strata))
    counts = Counter(k for k, _ in _places([len(queue) for _, queue in strata])[:wanted])
    times = {}
    for k, (_, queue) in enumerate(strata):
        times |= _drawn(queue, counts[k], seed)
    return times


def _drawn(people: list[str], count: int, seed: int) -> dict[str, int]:
    """Person -> how often, in `count` independent draws with replacement.

    Everybody arrives again and again after waiting times that are exponential with mean 1 and his own; the first
    `count` arrivals of all are such draws (the superposition of Poisson processes of one rate). So one person more
    takes the places of `count` / (people + 1) draws in expectation and leaves the others as they are.
    """
    if not count:
        return {}
    steps, latest, complete_until = 12, np.inf, 0.0
    while complete_until <= latest:
        waits = [np.random.default_rng(seed_for(seed, person)).standard_exponential(steps) for person in people]
        arrivals = np.cumsum(waits, axis=1)
        latest, complete_until = np.partition(arrivals, count - 1, axis=None)[count - 1], arrivals[:, -1].min()
        steps *= 2
    times = (arrivals <= latest).sum(axis=1)
    return {person: int(number) for person, number in zip(people, times) if number}


def _count(share: float, total: int) -> int:
    """Persons that a share of `total` means; a whole number means itself."""
    return share if isinstance(share, int) else round(share * total)


def _strata(people: pd.DataFrame, labels: list[str], kinds: dict[str, str], seed: int) -> Strata:
    """Each stratum's name and its persons in the order that the seed gives them."""
    order = pd.Series([seed_for(seed, "split", person) for person in people.index], people.index, dtype="uint64")
    names = _stratum_names(people, labels, kinds)
    strata = [(name, group.sort_values().index.tolist()) for name, group in order.groupby(names)]
    return sorted(strata, key=lambda stratum: seed_for(seed, "stratum", stratum[0]))


def _stratum_names(people: pd.DataFrame, labels: list[str], kinds: dict[str, str]) -> pd.Series:
    parts = pd.Series("", index=people.index, dtype="str")
    for label in labels:
        column = people[label]
        if column.isna().all():
            raise ValueError(f"nobody has '{label}', by which the split is stratified")
        if kinds[label] in NUMBERS:
            column = _fifths(column)
        parts = parts + "/" + column.astype("str").fillna("")
    return parts


def _fifths(numbers: pd.Series) -> pd.Series:
    """The part from 0 to 4, by rank, that each known number falls in; fewer parts where fewer than five are known.

    Those of `pandas.qcut` on the ranks, but that one known number is a part too; missing ones stay missing.
    """
    known = numbers.count()
    places = (numbers.rank(method="first") - 1) * min(5, known)
    parts = (-(-places // max(known - 1, 1)) - 1).clip(lower=0)
    return parts.astype("int64") if known == len(numbers) else parts


def _taken(strata: Strata, wanted: int, seed: int, role: str) -> list[str]:
    """The first persons of each stratum in proportion to its size, `wanted` in all, taken out of `strata`."""
    random.Random(seed_for(seed, "ties", role)).shuffle(strata)
    part = []
    for (_, queue), count in zip(strata, _shares([len(queue) for _, queue in strata], wanted)):
        part += queue[:count]
        del queue[:count]
    return part


def _removed(strata: Strata, persons) -> list[str]:
    """Those of `persons` who stand in `strata`, taken out of it."""
    chosen = set(persons)
    part = [person for _, queue in strata for person in queue if person in chosen]
    for _, queue in strata:
        queue[:] = [person for person in queue if person not in chosen]
    return part


def _shares(sizes: list[int], wanted: int) -> list[int]:
    """`wanted` divided over groups in proportion to their sizes, by largest remainder; of equal ones the first."""
    total = sum(sizes)
    exact = np.array(sizes) * (min(wanted, total) / total if total else 0)
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: min(wanted, total) - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def _folds(strata: Strata, k: int, seed: int) -> list[list[str]]:
    """The persons in k parts whose sizes differ by at most one, in every stratum and all together.

    Part after part takes its share of each stratum rounded down, and one more from as many strata as it needs to have
    its own size: those with the largest rest, of equal ones as the seed orders their names.
    """
    queues, parts = {name: list(queue) for name, queue in strata}, []
    for fold in range(k):
        left = k - fold
        lacking = -(-sum(map(len, queues.values())) // left) - sum(len(queue) // left for queue in queues.values())
        order = sorted(queues, key=lambda name: (-(len(queues[name]) % left), seed_for(seed, "fold", fold, name)))
        sizes = {name: len(queues[name]) // left + (place < lacking) for place, name in enumerate(order)}
        parts.append([person for name, queue in queues.items() for person in queue[: sizes[name]]])
        queues = {name: queue[sizes[name] :] for name, queue in queues.items()}
    return parts


def _interleaved(strata: Strata) -> list[str]:
    """All persons such that any first part of the list has the proportions of the whole."""
    queues = [queue for _, queue in strata]
    return [queues[k][i] for k, i in _places([len(queue) for queue in queues])]


def _places(sizes: list[int]) -> list[tuple[int, int]]:
    """(group, place in it) of all members, such that any first part of the list has the proportions of the whole.

    So the first n + 1 are the first n and one more, which largest remainders do not warrant for three groups or more.
    """
    placed = sorted(((i + 0.5) / size, k, i) for k, size in enumerate(sizes) for i in range(size))
    return [(k, i) for _, k, i in placed]
