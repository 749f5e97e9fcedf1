"""Intervals and paired comparisons over persons, of the mean of a metric over trials.

Every trial of a candidate meets the same resampled persons, and so do both sides of a comparison. The interval of one
candidate speaks of other people, its trained models taken as they are; that of a difference also of training anew,
where there are at least two trainings to tell by (`training_chance`). Where trials test different persons, as folds do,
a person drawn k times counts k times in every trial that tests him; a resample in which a fold has lost a class leaves
that fold out of its mean.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.metrics import WITHOUT_INTERVAL, metric, metric_interval, prediction_arrays, weighted_metric
from tlimb.ranking.multiplicity import bootstrap_p
from tlimb.ranking.training_chance import by_training, trained_anew, trainings


@dataclass(frozen=True)
class Measure:
    """What is computed and how surely: a metric of a kind of target, resamples, confidence (0 to 1) and their seed."""

    metric: str
    kind: str
    resamples: int
    confidence: float
    seed: int


def mean_with_interval(tables: list[pd.DataFrame], measure: Measure) -> dict:
    """{"mean", "low", "high", "n_persons"} of the metric averaged over trials; None where it can't be computed.

    tables: one prediction table a trial.
    """
    return grouped_mean([tables] if tables else [], measure)


def grouped_mean(groups: list[list[pd.DataFrame]], measure: Measure) -> dict:
    """As `mean_with_interval`, of the mean over groups of the mean over the trials of each, which all have some."""
    values, drawn, persons = bootstrap_means(groups, measure)
    value = float(np.mean(values)) if groups else np.nan
    if not np.isfinite(value):
        return {"mean": None, "low": None, "high": None, "n_persons": persons}
    tables = [table for group in groups for table in group]
    low, high = interval_of(value, mean_of_known(drawn.T), persons, tables, measure)
    return {"mean": value, "low": low, "high": high, "n_persons": persons}


def interval_of(
    value: float, draws: np.ndarray, persons: int, tables: list[pd.DataFrame], measure: Measure
) -> tuple[float | None, float | None]:
    """The interval of a value from its resamples (b,) of so many persons. tables: what it is the mean over."""
    return metric_interval(measure.metric, value, draws, measure.confidence, persons, tables)


def mean_metric(tables: list[pd.DataFrame], measure: Measure) -> float:
    """The metric averaged over trials, NaN where it can't be computed. tables: one prediction table a trial."""
    values = [metric(measure.metric, *prediction_arrays(table, measure.kind, measure.metric)) for table in tables]
    return float(np.mean(values)) if values else np.nan


def paired_difference(
    pairs: list[tuple[pd.DataFrame, pd.DataFrame]], measure: Measure, keys: Sequence[tuple] | None = None
) -> dict | None:
    """{"difference", "low", "high", "p", "n_persons", "trials"} of first minus second, averaged over pairs of trials.

    pairs: prediction tables of two trials of one seed, fold and replicate; only scans that both predicted count. keys:
    which, as `results.key_of` says; without them each pair is a training of its own. None where there is no such scan
    or the metric can't be computed.
    """
    shared = [shared_scans(one, two) for one, two in pairs]
    kept = [place for place, (one, _) in enumerate(shared) if len(one)]
    if not kept:
        return None
    firsts, seconds = zip(*(shared[place] for place in kept), strict=True)
    values, drawn, persons = drawn_metrics([*firsts, *seconds], measure)
    values, drawn = (part[..., : len(kept)] - part[..., len(kept) :] for part in (values, drawn))
    if not np.isfinite(values).all():
        return None
    found = {"difference": float(values.mean()), "low": None, "high": None, "p": None}
    if measure.metric not in WITHOUT_INTERVAL:
        labels = kept if keys is None else trainings([keys[place] for place in kept])
        own, resampled = by_training(values, labels), by_training(drawn, labels)
        means = trained_anew(values.mean(), mean_of_known(drawn.T), own, resampled, measure.seed)
        found["low"], found["high"] = percentile_interval(means, measure.confidence, persons)
        found["p"] = bootstrap_p(means, persons)
    return found | {"n_persons": persons, "trials": len(kept)}


def bootstrap_means(groups: list[list[pd.DataFrame]], measure: Measure) -> tuple[np.ndarray, np.ndarray, int]:
    """The mean of the metric over the trials of each of k candidates, (k,), and of the same resampled persons (b, k);
    how many persons there are.

    groups: a list of prediction tables for each candidate. NaN where it can't be computed, and everywhere in the second
    where no candidate has the metric, and of one whose bootstrap is not sound.
    """
    scores, persons = grouped_metrics(groups, measure)
    means = np.array([values.mean() if len(values) else np.nan for values, _ in scores])
    return means, np.stack([mean_of_known(drawn.T) for _, drawn in scores], axis=1), persons


def grouped_metrics(
    groups: list[list[pd.DataFrame]], measure: Measure
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """`drawn_metrics` of all these prediction tables at once: for each group what its own came to; how many persons."""
    values, drawn, persons = drawn_metrics([table for group in groups for table in group], measure)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return list(zip(np.split(values, ends), np.split(drawn, ends, axis=1))), persons


def drawn_metrics(tables: Sequence[pd.DataFrame], measure: Measure) -> tuple[np.ndarray, np.ndarray, int]:
    """The metric of each of T prediction tables, (T,), and on the same resampled persons, (b, T); how many persons.

    NaN where it can't be computed, and everywhere in the second where that is so of all, and of a metric whose
    bootstrap is not sound.
    """
    persons = persons_of(tables)
    columns = [prediction_arrays(table, measure.kind, measure.metric) for table in tables]
    values = np.array([metric(measure.metric, *column) for column in columns])
    if measure.metric in WITHOUT_INTERVAL or not np.isfinite(values).any():
        return values, np.full((measure.resamples, len(tables)), np.nan), len(persons)
    drawn = person_bootstrap(
        lambda weights: _each_metric(tables, columns, persons, weights, measure).T,
        len(persons),
        resamples=measure.resamples,
        seed=measure.seed,
    )
    return values, drawn, len(persons)


def persons_of(tables: Iterable[pd.DataFrame]) -> np.ndarray:
    """Everybody in these prediction tables, sorted."""
    named = [table["person"].to_numpy(str) for table in tables]
    return np.unique(np.concatenate(named)) if named else np.array([], dtype=str)


def shared_scans(one: pd.DataFrame, two: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both prediction tables, only of the scans that stand in both, in the same order."""
    common = sorted(set(one["scan_id"]) & set(two["scan_id"]))
    return one.set_index("scan_id").loc[common].reset_index(), two.set_index("scan_id").loc[common].reset_index()


def _each_metric(tables, columns, persons, weights, measure: Measure) -> np.ndarray:
    """The metric of each trial for each row of weights (b, persons), shape (trials, b)."""
    codes = [np.searchsorted(persons, table["person"].to_numpy(str)) for table in tables]
    return np.array([weighted_metric(measure.metric, *arrays, weights[:, c]) for arrays, c in zip(columns, codes)])


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Means over the first axis of what is not NaN; NaN where nothing is known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.nanmean(values, axis=0)
