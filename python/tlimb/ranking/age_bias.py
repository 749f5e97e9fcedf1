"""Gaps between predicted and true quantities, corrected for the lean towards the mean: `age_bias` of ranking.json.

A list with one entry for each selected candidate and set (test, each external cohort) of a quantity such as age:

    {"candidate": "77b1...", "name": "full", "selected": "best", "set": "test", "n_persons": 120, "trials": 3,
     "slope": -0.31, "corrected_slope": 0.02, "gap": 0.8, "low": -0.2, "high": 1.9, "uncorrected": 0.5,
     "groups": [{"column": "diagnosis", "group": "patient", "n_persons": 48, "gap": 3.1, "low": 1.6, "high": 4.5,
                 "uncorrected": 2.6, "why": ""}]}

`slope` is that of prediction minus truth on the truth, a mean over trials, and `corrected_slope` the same after
correction by the line that was fitted on validation. `gap` is the mean corrected gap over scans (of each scan the mean
over trials), low and high its interval over persons, `uncorrected` the mean of prediction minus truth. Groups are those
of `evaluate.groups`; those of fewer than 10 persons have null and say why. Corrected values need the truth: they
compare people and groups, and no measure of accuracy is computed from them.
"""

import numpy as np
import pandas as pd

from tlimb.evaluation.age_bias import age_bias, corrected_gap
from tlimb.evaluation.bootstrap import interval, person_bootstrap
from tlimb.evaluation.fitted import read_fitted
from tlimb.ranking.compare import Measure
from tlimb.ranking.groups import LEAST, group_of
from tlimb.ranking.pooled import set_names
from tlimb.ranking.results import Results

NONE = {"gap": None, "low": None, "high": None, "uncorrected": None}


def age_biases(results: Results, selected: list[dict], target: str, measure: Measure) -> list[dict]:
    """The key `age_bias` of ranking.json; empty for what is no quantity. selected: rows with outcomes."""
    found = []
    for row in selected if measure.kind == "regression" else []:
        lines = {one["id"]: _line(results, one["id"], target) for one in row["trials"] if one["status"] == "ok"}
        known = [one for one in row["trials"] if lines.get(one["id"]) is not None]
        for part in set_names(results, known):
            pairs = [(table, lines[one["id"]]) for one in known for table in _tables(results, one, part, target)]
            ids = {key: row[key] for key in ("candidate", "name", "selected")} | {"set": part}
            found += [ids | _gaps(results, pairs, measure)] if pairs else []
    return found


def _line(results: Results, trial: str, target: str) -> dict | None:
    facts = read_fitted(results.scores_folder / trial)
    return facts["targets"].get(target, {}).get("age_bias") if facts else None


def _tables(results: Results, outcome: dict, part: str, target: str) -> list[pd.DataFrame]:
    return [table for table in results.tables([outcome], part, target).values() if len(table)]


def _gaps(results: Results, pairs: list[tuple[pd.DataFrame, dict]], measure: Measure) -> dict:
    slopes, rows = [], []
    for table, line in pairs:
        truth, prediction = table["truth"].to_numpy(float), table["prediction"].to_numpy(float)
        slopes.append(age_bias(truth, prediction, line))
        gaps = {"gap": corrected_gap(truth, prediction, line), "uncorrected": prediction - truth}
        rows.append(table[["scan_id", "person"]].assign(**gaps))
    slopes = [one for one in slopes if one is not None]
    scans = pd.concat(rows).groupby(["scan_id", "person"], as_index=False).mean()
    names = ("slope", "corrected_slope")
    about = {name: float(np.mean([one[name] for one in slopes])) if slopes else None for name in names}
    whole = {"n_persons": int(scans["person"].nunique()), "trials": len(pairs)} | about | _mean(scans, measure)
    groups = [_by_group(results, scans, column, measure) for column in _columns(results)]
    return whole | {"groups": [group for column in groups for group in column]}


def _columns(results: Results) -> list[str]:
    columns = results.sweep.get("evaluate", {}).get("groups", [])
    return [column for column in columns if results.table is not None and column in results.table]


def _by_group(results: Results, scans: pd.DataFrame, column: str, measure: Measure) -> list[dict]:
    group, names = group_of(results, column, scans["scan_id"])
    found = []
    for name in names:
        own = scans[group == name]
        persons = int(own["person"].nunique())
        few = persons < LEAST
        about = {"column": column, "group": name, "n_persons": persons} | (NONE if few else _mean(own, measure))
        found.append(about | {"why": f"fewer than {LEAST} persons" if few else ""})
    return found


def _mean(scans: pd.DataFrame, measure: Measure) -> dict:
    """Mean gap over scans with its interval over persons."""
    persons, codes = np.unique(scans["person"].to_numpy(str), return_inverse=True)
    gap = scans["gap"].to_numpy(float)
    if not np.isfinite(gap).all():
        return NONE
    sums, counts = np.bincount(codes, gap), np.bincount(codes)
    draws = person_bootstrap(
        lambda weights: weights @ sums / (weights @ counts),
        len(persons),
        resamples=measure.resamples,
        seed=measure.seed,
    )
    low, high = interval(draws, measure.confidence, len(persons))
    return {"gap": float(gap.mean()), "low": low, "high": high, "uncorrected": float(scans["uncorrected"].mean())}
