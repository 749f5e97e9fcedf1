"""The nested estimate: how well the whole procedure does, choice of the candidate included.

In each outer fold the candidate is chosen by the validation scores of that fold's inner trials alone, and only the test
score of the chosen one is read, on persons who took no part in its choice.

Reference: Varma S, Simon R. Bias in error estimation when using cross-validation for model selection. BMC
Bioinformatics 2006, 7:91.
"""

import math
import statistics

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.compare import Measure, grouped_mean, mean_metric
from tlimb.ranking.results import Results
from tlimb.ranking.selection import preference


def nested_estimate(results: Results, candidates: list[dict], target: str, measure: Measure) -> dict | None:
    """The key `nested` of ranking.json; null where no trial has an inner fold. candidates: rows with their outcomes.

    value: the mean over outer folds of the mean over the chosen candidate's inner models; low, high: its percentile
    bootstrap over persons. A fold's `test` is null where its chosen candidate has no test score.
    """
    outcomes = [outcome for row in candidates for outcome in row["trials"]]
    if not any(outcome["inner_fold"] is not None for outcome in outcomes):
        return None
    folds, groups = [], []
    for repeat, fold in sorted({(outcome["repeat"], outcome["fold"]) for outcome in outcomes}):
        row, trials = _chosen(candidates, repeat, fold, DIRECTIONS[measure.metric])
        if row is None:
            continue
        tables = list(results.tables(trials, "test", target).values())
        test = mean_metric(tables, measure)
        test = test if math.isfinite(test) else None
        groups += [tables] if test is not None else []
        folds.append({"fold": fold, "repeat": repeat, "candidate": row["candidate"], "name": row["name"], "test": test})
    found = grouped_mean(groups, measure)
    value = {"value": found["mean"], "low": found["low"], "high": found["high"]}
    return {"metric": measure.metric} | value | {"folds": folds}


def _chosen(candidates: list[dict], repeat: int, fold: int, direction: str) -> tuple[dict | None, list[dict]]:
    """The candidate that an outer fold's own validation scores prefer, with its trials there; none where all failed."""
    found = []
    for row in candidates:
        trials = [one for one in row["trials"] if (one["repeat"], one["fold"]) == (repeat, fold)]
        values = [one["validation"] for one in trials if one["status"] == "ok"]
        if values:
            key = preference(statistics.fmean(values), len(trials) - len(values), row, direction)
            found.append((key, row, trials))
    _, row, trials = min(found, key=lambda one: one[0], default=(None, None, []))
    return row, trials
