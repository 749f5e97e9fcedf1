"""Scores of several trials on the same people, for parts of these people and for several models at once.

On the test set the folds of one seed and repeat are put together, so that a group of people is not cut into as many
parts as there are folds; every other set is predicted whole by each trial.
"""

import numpy as np
import pandas as pd

from tlimb.evaluation.bootstrap import person_bootstrap
from tlimb.evaluation.metrics import WITHOUT_INTERVAL, prediction_arrays, weighted_metric
from tlimb.ranking.compare import Measure, mean_of_known
from tlimb.ranking.oracle import APART
from tlimb.ranking.results import KEY, Results

FOLD = KEY.index("fold")
MOST = 10
"""Tables of one group that are resampled."""


def set_names(results: Results, outcomes: list[dict], validation: bool = False) -> list[str]:
    """The sets that finished trials have scores of: `validation` where asked, `test`, then the external ones by name.

    Labelled people of a target domain who were kept apart are not among them.
    """
    finished = [one["id"] for one in outcomes if one["status"] == "ok"]
    files = {path.stem for trial in finished for path in (results.scores_folder / trial).glob("scores-*.json")}
    names = {name.removeprefix("scores-") for name in files} - {APART}
    first = [name for name in ["validation"] * validation + ["test"] if name in names]
    return first + sorted(name for name in names if name.startswith("external-"))


def pools(tables: dict[tuple, pd.DataFrame], part: str) -> list[pd.DataFrame]:
    """Prediction tables by key of the trial -> those that are scored whole: of `test` all folds together."""
    grouped: dict[tuple, list[pd.DataFrame]] = {}
    for key, table in tables.items():
        name = key[:FOLD] + key[FOLD + 1 :] if part == "test" else key
        grouped.setdefault(name, []).append(table)
    return [pd.concat(grouped[name], ignore_index=True) for name in grouped]


def means(groups: list[list[pd.DataFrame]], persons: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the metric over the tables of each of g groups, (g,), and the same on resampled persons,
    (resamples, g); NaN where none of a group's tables has it, the second also of a metric whose bootstrap is not sound.
    Calls with equal persons resample alike.

    Of more than 10 tables 10 that lie evenly among them are resampled, moved so that they stand around the mean of all.
    """
    columns = [[_arrays(table, persons, measure) for table in tables if len(table)] for tables in groups]
    few = [[parts[int(place)] for place in _evenly(len(parts))] for parts in columns]
    once = np.ones((1, len(persons)))

    def statistic(weights):
        return np.stack([_mean(parts, weights, measure.metric) for parts in few], axis=1)

    values = np.array([_mean(parts, once, measure.metric)[0] for parts in columns])
    if measure.metric in WITHOUT_INTERVAL:
        return values, np.full((measure.resamples, len(groups)), np.nan)
    draws = person_bootstrap(statistic, len(persons), resamples=measure.resamples, seed=measure.seed)
    return values, draws + np.nan_to_num(values - statistic(once)[0])


def _arrays(table: pd.DataFrame, persons: np.ndarray, measure: Measure) -> tuple[tuple, np.ndarray]:
    """What the metric takes, and the place of each scan's person."""
    codes = np.searchsorted(persons, table["person"].to_numpy(str))
    return prediction_arrays(table, measure.kind, measure.metric), codes


def _evenly(count: int) -> np.ndarray:
    return np.arange(count) if count <= MOST else np.linspace(0, count - 1, MOST).round()


def _mean(parts: list, weights: np.ndarray, name: str) -> np.ndarray:
    if not parts:
        return np.full(len(weights), np.nan)
    return mean_of_known(np.array([_drawn(arrays, weights[:, codes], name) for arrays, codes in parts]))


def _drawn(arrays: tuple, weights: np.ndarray, name: str) -> np.ndarray:
    """The metric on drawn rows, NaN where none was drawn."""
    values = weighted_metric(name, *arrays, weights)
    return np.where(weights.sum(axis=1) > 0, values, np.nan)
