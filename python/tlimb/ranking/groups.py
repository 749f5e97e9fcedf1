"""Scores of the selected candidates by groups of people: the key `groups` of ranking.json.

`evaluate.groups` names label columns. Classes are groups; ages go by decades, other numbers by quarters of the scans
of the set. A list with one entry for each selected candidate, set (test, then each external cohort) and column:

    {"candidate": "77b1...", "name": "full", "selected": "best", "set": "test", "column": "sex",
     "metric": "balanced_accuracy", "n_persons": 120, "value": 0.74, "low": 0.66, "high": 0.81,
     "groups": [{"group": "f", "n_persons": 61, "value": 0.78, "low": 0.67, "high": 0.88, "why": ""},
                {"group": "m", "n_persons": 55, "value": 0.70, "low": 0.57, "high": 0.81, "why": ""},
                {"group": "unknown", "n_persons": 4, "value": null, "low": null, "high": null,
                 "why": "fewer than 10 persons"}],
     "worst": {"group": "m", "difference": -0.08, "low": -0.23, "high": 0.08}, "spread": 0.08, "note": ""}

`value` is the metric on everybody, as defined in `pooled`: on folds it may differ a little from `test_mean`, which is a
mean over folds. `difference` is the worst group minus everybody else; as the worst of several is picked after looking,
its interval is too narrow, the more so the more groups there are. `spread` is the largest minus the smallest value;
both are null with fewer than two groups that have one. `why` says why a group has no value, `note` why an entry has no
groups.
"""

import math

import numpy as np
import pandas as pd

from tlimb.evaluation.bootstrap import percentile_interval
from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.labels import NUMBERS, class_name
from tlimb.ranking.compare import Measure, interval_of, persons_of
from tlimb.ranking.pooled import means, pools, set_names
from tlimb.ranking.results import Results

LEAST = 10
"""Persons that a group needs to have a score of its own."""

UNKNOWN = "unknown"


def group_scores(results: Results, selected: list[dict], target: str, measure: Measure) -> list[dict]:
    """The key `groups` of ranking.json; empty where `evaluate.groups` names no column. selected: rows with outcomes."""
    columns = results.sweep.get("evaluate", {}).get("groups", [])
    found = []
    for row in selected if columns else []:
        for part in set_names(results, row["trials"]):
            tables = pools(results.tables(row["trials"], part, target), part)
            ids = {key: row[key] for key in ("candidate", "name", "selected")} | {"set": part}
            if tables:
                found += [ids | _by_column(results, tables, column, measure) for column in columns]
    return found


def group_of(results: Results, column: str, scan_ids: pd.Series) -> tuple[pd.Series, list[str]]:
    """The group of each of these scans by a label column, with their index, and the names of all groups in order.

    The last group is that of scans without the label, where there are some.
    """
    values = scan_ids.map(results.table.set_index("scan_id")[column])
    label = results.cohort["labels"].get(column, {})
    if label.get("kind") in NUMBERS:
        return _by_numbers(values, column)
    names = values.map(lambda value: class_name(value) if isinstance(value, float) else str(value), na_action="ignore")
    order = [name for name in label.get("classes", []) if name in set(names.dropna())]
    order += sorted(set(names.dropna()) - set(order))
    return _named(names, order)


def _by_numbers(values: pd.Series, column: str) -> tuple[pd.Series, list[str]]:
    known = values.dropna()
    if column.casefold() == "age":
        decades = known // 10 * 10
        order = [f"{int(start)} to {int(start) + 9}" for start in sorted(set(decades))]
        return _named(decades.map(lambda start: f"{int(start)} to {int(start) + 9}").reindex(values.index), order)
    ends = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75, 1])) if len(known) else np.array([])
    if len(ends) < 2:
        return _named(known.map(lambda value: f"{value:g}").reindex(values.index), [f"{end:g}" for end in ends])
    pairs = list(zip(ends[:-1], ends[1:]))
    order = [f"{low:.3g} to {high:.3g}" for low, high in pairs]
    order = order if len(set(order)) == len(order) else [f"{low!r} to {high!r}" for low, high in pairs]
    places = np.searchsorted(ends[1:-1], known.to_numpy(float), side="left")
    return _named(pd.Series([order[place] for place in places], known.index).reindex(values.index), order)


def _named(names: pd.Series, order: list[str]) -> tuple[pd.Series, list[str]]:
    return names.astype("object").fillna(UNKNOWN), order + [UNKNOWN] * bool(names.isna().any())


def _by_column(results: Results, tables: list[pd.DataFrame], column: str, measure: Measure) -> dict:
    about = {"column": column, "metric": measure.metric}
    if results.table is None or column not in results.table:
        nothing = {"n_persons": len(persons_of(tables)), "value": None, "low": None, "high": None, "groups": []}
        return about | nothing | {"worst": None, "spread": None, "note": f"there is no label column '{column}'"}
    persons = persons_of(tables)
    scans = pd.concat(tables)["scan_id"].drop_duplicates()
    group, names = group_of(results, column, scans.set_axis(scans))
    parts = {name: [table[table["scan_id"].map(group) == name] for table in tables] for name in names}
    counts = {name: len(persons_of(own)) for name, own in parts.items()}
    large = [name for name in names if counts[name] >= LEAST]
    values, draws = means([tables, *(parts[name] for name in large)], persons, measure)
    whole = _with_interval(values[0], draws[:, 0], len(persons), tables, measure)
    scored = {
        name: _with_interval(values[place], draws[:, place], counts[name], parts[name], measure)
        for place, name in enumerate(large, start=1)
    }
    rows = [
        {"group": name, "n_persons": counts[name], **scored.get(name, NONE), "why": _why(name, scored)}
        for name in names
    ]
    known = {name: one["value"] for name, one in scored.items() if one["value"] is not None and name != UNKNOWN}
    spread = max(known.values()) - min(known.values()) if len(known) > 1 else None
    worst = _worst(known, parts, tables, persons, draws[:, 1:][:, [large.index(name) for name in known]], measure)
    return about | {"n_persons": len(persons), **whole, "groups": rows, "worst": worst, "spread": spread, "note": ""}


NONE = {"value": None, "low": None, "high": None}


def _with_interval(value: float, draws: np.ndarray, persons: int, tables: list, measure: Measure) -> dict:
    if not math.isfinite(value):
        return NONE
    low, high = interval_of(value, draws, persons, tables, measure)
    return {"value": float(value), "low": low, "high": high}


def _why(name: str, scored: dict[str, dict]) -> str:
    if name not in scored:
        return f"fewer than {LEAST} persons"
    return "" if scored[name]["value"] is not None else "can't be computed, as where all have one class"


def _worst(known: dict[str, float], parts, tables, persons, draws: np.ndarray, measure: Measure) -> dict | None:
    """The group with the worst value, minus everybody else; draws: (resamples, groups) of `known`."""
    if len(known) < 2:
        return None
    worst = (min if DIRECTIONS[measure.metric] == "max" else max)(known, key=known.get)
    inside = [set(part["scan_id"]) for part in parts[worst]]
    others = [table[~table["scan_id"].isin(scans)] for table, scans in zip(tables, inside)]
    (rest,), rested = means([others], persons, measure)
    draws = draws[:, list(known).index(worst)] - rested[:, 0]
    low, high = percentile_interval(draws, measure.confidence, len(persons))
    difference = float(known[worst] - rest) if math.isfinite(rest) else None
    return {"group": worst, "difference": difference, "low": low, "high": high}
