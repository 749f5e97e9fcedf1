"""The best against the best of each other strategy on test, by three tests.

As it stands in ranking.json ("comparisons"), a row for each other selected candidate:

    {"a": best, "b": other, "set": "test", "difference": 0.04, "low": -0.01, "high": 0.09,   a minus b
     "n_persons": 120, "trials": 3, "tests": {
       "bootstrap": {"p": 0.11, "p_holm": 0.22} | null,    paired bootstrap over persons, of the ranked metric
       "resampled_t": {"t", "df", "p", "splits", "p_holm"} | null,   over folds and repeats, of the ranked metric
       "delong": {"difference", "se", "low", "high", "z", "df", "p", "p_holm"} | null}}     of the area under the ROC
                                                                                           curve

p_holm is Holm's over the rows of this table, for each test by itself. The interval is of one comparison by itself.
`bootstrap` (and the interval) and `delong` speak of other people and of training anew, of people alone where there is a
single training (`training_chance`).
`resampled_t` needs two splits that test different people: replicates of a training sample that are all tested on the
same people vary too little to judge by. It also needs both sides to learn from as many people (`split.n`), since what
it knows of how splits vary together is of one size of training set. `delong` needs two classes.
"""

import statistics

import pandas as pd

from tlimb.ranking.compare import Measure, paired_difference
from tlimb.ranking.delong import delong
from tlimb.ranking.multiplicity import holm
from tlimb.ranking.resampled import corrected_t
from tlimb.ranking.results import Results, key_of

TESTS = ("bootstrap", "resampled_t", "delong")
Tables = dict[tuple, pd.DataFrame]


def compare_on_test(results: Results, selected: list[dict], test: dict[str, Tables], measure: Measure) -> list[dict]:
    """Best minus each other selected candidate on test, over the seeds, folds and replicates that both finished.

    selected: rows of ranking.json with the test scores of their trials, the best first. test: candidate -> its
    prediction tables by key.
    """
    rows = []
    for other in selected[1:]:
        one, two = test[selected[0]["candidate"]], test[other["candidate"]]
        keys = [key for key in one if key in two]
        pairs = [(one[key], two[key]) for key in keys]
        found = paired_difference(pairs, measure, keys)
        if found:
            p = found.pop("p")
            tests = {"bootstrap": None if p is None else {"p": p}}
            tests["resampled_t"] = _over_splits(results, selected[0], other)
            tests["delong"] = delong(pairs, measure.confidence, keys) if _two_classes(pairs, measure) else None
            ids = {"a": selected[0]["candidate"], "b": other["candidate"], "set": "test"}
            rows.append(ids | found | {"tests": tests})
    for test_name in TESTS:
        known = [row["tests"][test_name] for row in rows]
        for one, p in zip(known, holm([one and one["p"] for one in known])):
            if one:
                one["p_holm"] = p
    return rows


def _over_splits(results: Results, best: dict, other: dict) -> dict | None:
    """The corrected resampled t-test over (repeat, fold), differences averaged over the trials of each."""
    if other_sizes(best, other):
        return None
    values = [{key_of(one): one for one in row["trials"] if one["test"] is not None} for row in (best, other)]
    splits: dict[tuple, list] = {}
    for key in values[0]:
        if key in values[1]:
            one, two = values[0][key], values[1][key]
            splits.setdefault((one["repeat"], one["fold"]), []).append((one, two))
    trials = [one["id"] for pairs in splits.values() for pair in pairs for one in pair]
    trained = [results.models[trial].get("n", {}).get("train") for trial in trials]
    if len(splits) < 2 or not all(trained):
        return None
    tested = [results.scores(trial, "test")["n"]["scans"] for trial in trials]
    differences = [statistics.fmean(one["test"] - two["test"] for one, two in pairs) for pairs in splits.values()]
    return corrected_t(differences, statistics.fmean(tested) / statistics.fmean(trained))


def other_sizes(best: dict, other: dict) -> bool:
    """Were these rows of ranking.json asked to learn from different numbers of people?"""
    return best["spec"]["split"].get("n") != other["spec"]["split"].get("n")


def _two_classes(pairs: list[tuple], measure: Measure) -> bool:
    if measure.kind != "classification":
        return False
    return all(len(row) == 2 for table in pairs[0] for row in table["probabilities"].iloc[:1])
