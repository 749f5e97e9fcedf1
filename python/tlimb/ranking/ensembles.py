"""What the trials of a selected candidate predict together: the key `ensembles` of ranking.json.

On test the members are the seeds of one fold, repeat and replicate; on an external cohort, which every trial predicts
whole, all trials of the candidate. A list with one entry for each selected candidate and set that has two members or
more:

    {"candidate": "77b1...", "name": "full", "selected": "best", "set": "test", "over": "seeds", "members": 3,
     "metric": "balanced_accuracy", "n_persons": 120,
     "ensemble": {"value": 0.77, "low": 0.69, "high": 0.84}, "single": {"value": 0.74, "low": 0.67, "high": 0.81},
     "difference": {"value": 0.03, "low": -0.01, "high": 0.06},
     "uncertainty": {"spread": 0.06, "correlation": 0.31, "low": 0.12, "high": 0.48}}

The ensemble averages probabilities, or predictions where there are none; `single` is the mean over members of what each
reaches alone, `difference` the ensemble minus that on the same resampled persons. `over` is `seeds`, `folds` or `seeds
and folds`; `members` the least number where folds have different ones. `spread` is the mean over scans of the standard
deviation between members; `correlation` Spearman's between that of a scan and its error: the absolute error of a
quantity, else whether it is wrong (0 or 1). It is null for times.
"""

import math

import numpy as np
import pandas as pd

from tlimb.evaluation.bootstrap import interval, percentile_interval, person_bootstrap
from tlimb.evaluation.metrics import weighted_metric
from tlimb.evaluation.together import together
from tlimb.labels import CLASSES
from tlimb.ranking.compare import Measure, interval_of, persons_of
from tlimb.ranking.pooled import means, pools, set_names
from tlimb.ranking.results import KEY, Results

SEED, FOLDS = KEY.index("seed"), [KEY.index(name) for name in KEY if name != "seed"]


def ensembles(results: Results, selected: list[dict], target: str, measure: Measure) -> list[dict]:
    """The key `ensembles` of ranking.json. selected: rows with outcomes."""
    found = []
    for row in selected:
        ids = {key: row[key] for key in ("candidate", "name", "selected")}
        for part in set_names(results, row["trials"]):
            teams = _teams(results.tables(row["trials"], part, target), part)
            found += [ids | {"set": part} | _ensemble(teams, part, measure)] if teams else []
    return found


def averaged(tables: list[pd.DataFrame], kind: str) -> pd.DataFrame:
    """One prediction table of several of the same scans, those that all predicted, with a column `spread`.

    A case is called where most members call it (in a tie it is not), in a column `called` where all have one.
    """
    common = sorted(set.intersection(*(set(table["scan_id"]) for table in tables)))
    tables = [table.set_index("scan_id").loc[common] for table in tables]
    shares = [np.array(table["probabilities"].tolist(), float) for table in tables] if kind in CLASSES else None
    predictions = np.stack([table["prediction"].to_numpy(float) for table in tables])
    prediction, probabilities, spread = together(kind, predictions, None if shares is None else np.stack(shares))
    table = tables[0].assign(prediction=prediction, spread=spread)
    table["probabilities"] = [None] * len(table) if probabilities is None else list(probabilities)
    if all("called" in one for one in tables):
        votes = np.stack([one["called"].to_numpy(float) for one in tables])
        table["called"] = np.where(np.isnan(votes).any(axis=0), np.nan, votes.mean(axis=0) > 0.5)
    return table.reset_index()


def _teams(tables: dict[tuple, pd.DataFrame], part: str) -> dict[tuple, dict[tuple, pd.DataFrame]]:
    """Key without the seed -> key -> table, of teams of two or more; outside of test all trials are one team, ()."""
    teams: dict[tuple, dict[tuple, pd.DataFrame]] = {}
    for key, table in tables.items():
        name = (-1, *(key[place] for place in FOLDS)) if part == "test" else ()
        teams.setdefault(name, {})[key] = table
    return {name: members for name, members in teams.items() if len(members) > 1}


def _ensemble(teams: dict, part: str, measure: Measure) -> dict:
    averages = {name: averaged(list(members.values()), measure.kind) for name, members in teams.items()}
    members = {key: _only(table, averages[name]) for name, own in teams.items() for key, table in own.items()}
    whole = pools(averages, part) if part == "test" else list(averages.values())
    single = pools(members, part)
    persons = persons_of(whole)
    values, draws = means([whole, single], persons, measure)
    gains = draws[:, 0] - draws[:, 1]
    return {
        "over": _over(list(members), part),
        "members": min(len(own) for own in teams.values()),
        "metric": measure.metric,
        "n_persons": len(persons),
        "ensemble": _valued(values[0], interval_of(values[0], draws[:, 0], len(persons), whole, measure)),
        "single": _valued(values[1], interval_of(values[1], draws[:, 1], len(persons), single, measure)),
        "difference": _valued(values[0] - values[1], percentile_interval(gains, measure.confidence, len(persons))),
        "uncertainty": _uncertainty(pd.concat(averages.values(), ignore_index=True), persons, measure),
    }


def _only(table: pd.DataFrame, average: pd.DataFrame) -> pd.DataFrame:
    """The rows of a member that the ensemble has, too."""
    return table[table["scan_id"].isin(set(average["scan_id"]))]


def _over(keys: list[tuple], part: str) -> str:
    seeds = len({key[SEED] for key in keys}) > 1
    folds = part != "test" and len({tuple(key[place] for place in FOLDS) for key in keys}) > 1
    return "seeds and folds" if seeds and folds else "folds" if folds else "seeds"


def _valued(value: float, ends: tuple) -> dict:
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None}
    return {"value": float(value), "low": ends[0], "high": ends[1]}


def _uncertainty(table: pd.DataFrame, persons: np.ndarray, measure: Measure) -> dict:
    """How far members differ, and whether they differ more where the ensemble errs more."""
    spread = table["spread"].to_numpy(float)
    found = {"spread": float(spread.mean()), "correlation": None, "low": None, "high": None}
    if measure.kind == "survival":
        return found
    error = (table["truth"] - table["prediction"]).abs()
    error = error > 0 if measure.kind in CLASSES else error
    ranks = [pd.Series(values).rank().to_numpy(float) for values in (spread, error.to_numpy(float))]
    codes = np.searchsorted(persons, table["person"].to_numpy(str))
    value = weighted_metric("r", *ranks, None, np.ones((1, len(table))))[0]
    draws = person_bootstrap(
        lambda weights: weighted_metric("r", *ranks, None, weights[:, codes]),
        len(persons),
        resamples=measure.resamples,
        seed=measure.seed,
    )
    ends = interval(draws, measure.confidence, len(persons))
    return found | {"correlation": float(value), "low": ends[0], "high": ends[1]} if math.isfinite(value) else found
