"""Metrics of every kind of target, on weighted rows, so that a bootstrap is one matrix product.

Every metric takes weights (b, n), one row a resample, and gives b values at once; NaN says that it can't be computed.
The plain value is that of weights 1: value and interval come from one formula. Definitions are those of scikit-learn,
the oracle of the tests. With more than two classes AUROC, AUPRC and F1 are unweighted means over one-versus-rest.

Truth and prediction of several classes at once are sums of 2^index over those that a row has, and times until an event
are negative where it was not seen.
"""

from collections.abc import Sequence

import numpy as np

from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation import area_metrics, class_metrics, multilabel_metrics, number_metrics
from tlimb.evaluation.bootstrap import Bootstrap, interval, is_single, person_bootstrap
from tlimb.labels import CLASSES, members

METRICS = {
    "classification": [
        *("balanced_accuracy", "accuracy", "auroc", "auprc", "f1", "mcc", "brier", "log_loss"),
        *("sensitivity", "specificity", "calibration_error"),
    ],
    "regression": ["mae", "rmse", "r2", "r", "icc"],
    "ordinal": ["quadratic_kappa", "mae", "accuracy", "balanced_accuracy", "log_loss"],
    "multilabel": ["mean_auroc", "mean_auprc", "macro_f1", "subset_accuracy", "hamming_loss"],
    "survival": ["c_index"],
}
DEFAULT = {
    "classification": "balanced_accuracy",
    "regression": "mae",
    "ordinal": "quadratic_kappa",
    "multilabel": "mean_auroc",
    "survival": "c_index",
}
DIRECTIONS = {name: "max" for names in METRICS.values() for name in names}
DIRECTIONS |= {name: "min" for name in ("brier", "log_loss", "mae", "rmse", "hamming_loss", "calibration_error")}

WITHOUT_INTERVAL = ("calibration_error",)
"""Metrics that every resample makes look worse, for it repeats people: percentiles would lie above the truth."""

PRECISION_AREAS = ("auprc", "mean_auprc")
"""Metrics whose resamples lie above their value and rest on the people of the rarest class: see `metric_interval`."""

AT_THE_POINT = ("sensitivity", "specificity")
"""Metrics of what is called at the operating point, where a table of predictions says what is."""


def metric(name: str, truth, prediction, probabilities=None) -> float:
    """The metric `name` on n rows, NaN where it can't be computed.

    truth, prediction: (n,) values, indices of classes, sums of 2^index of several, or times and risks. probabilities:
    (n, classes), needed by auroc, auprc, brier, log_loss and calibration_error and by all of several classes. Raises
    InputError for an unknown name.
    """
    return float(weighted_metric(name, truth, prediction, probabilities, np.ones((1, len(truth))))[0])


def weighted_metric(name: str, truth, prediction, probabilities, weights: np.ndarray) -> np.ndarray:
    """The metric `name` for each row of `weights` (b, n), shape (b,); the other arguments as in `metric`."""
    if name not in _FUNCTIONS:
        raise InputError([Problem("metric", f"unknown metric '{name}'", nearest(name, _FUNCTIONS))])
    truth, prediction = np.asarray(truth, float), np.asarray(prediction, float)
    probabilities = None if probabilities is None else np.asarray(probabilities, float)
    parts = [prediction] if probabilities is None else [prediction, probabilities]
    if len(truth) == 0 or not all(np.isfinite(part).all() for part in parts):
        return np.full(len(weights), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _FUNCTIONS[name](truth, prediction, probabilities, weights)


def score(predictions, targets: dict, *, resamples: int, confidence: float, seed: int) -> dict:
    """The `targets` part of scores-<set>.json: every metric of every target with its interval over persons.

    predictions: DataFrame as in predictions-<set>.parquet; rows without a truth are left out.
    targets: label -> {"kind", "classes"}. A metric that can't be computed is None; `notes` say which intervals are
    lacking and why.
    """
    scored, bootstrap = {}, Bootstrap(resamples, confidence, seed)
    for target, facts in targets.items():
        rows = predictions[(predictions["target"] == target) & predictions["truth"].notna()]
        metrics, notes = with_intervals(METRICS[facts["kind"]], rows, facts["kind"], bootstrap)
        about = {"kind": facts["kind"], "classes": list(facts.get("classes", []))}
        scored[target] = about | {"metrics": metrics, "notes": notes}
    return scored


def with_intervals(names: Sequence[str], rows, kind: str, bootstrap: Bootstrap) -> tuple[dict, list[str]]:
    """Metrics of the rows of one target, {name: {"value", "low", "high"} or None}, and notes on lacking intervals.

    Each resample is drawn once for all of them.
    """
    persons, codes = np.unique(rows["person"].to_numpy(str), return_inverse=True)
    columns = {name: prediction_arrays(rows, kind, name) for name in names}
    values = {name: metric(name, *columns[name]) for name in names}
    scored = {name: {"value": value, "low": None, "high": None} for name, value in values.items() if np.isfinite(value)}
    resampled = [name for name in scored if name not in WITHOUT_INTERVAL]
    if not resampled:
        return dict.fromkeys(names) | scored, []

    def statistic(weights):
        drawn = weights[:, codes]
        return np.stack([weighted_metric(name, *columns[name], drawn) for name in resampled], axis=1)

    drawn = person_bootstrap(statistic, len(persons), resamples=bootstrap.resamples, seed=bootstrap.seed)
    for name, draws in zip(resampled, drawn.T, strict=True):
        ends = metric_interval(name, values[name], draws, bootstrap.confidence, len(persons), [rows])
        scored[name]["low"], scored[name]["high"] = ends
    single = [name for name, draws in zip(resampled, drawn.T, strict=True) if is_single(draws)]
    return dict.fromkeys(names) | scored, _notes(single, len(persons), columns[resampled[0]])


def metric_interval(
    name: str, value: float, draws: np.ndarray, confidence: float, persons: int, tables: Sequence
) -> tuple[float | None, float | None]:
    """The interval of a metric, or of its mean over prediction tables, from resamples (b,) of `persons` persons.

    It is the expanded percentile interval of `bootstrap.interval`. That of areas under precision-recall curves is also
    corrected for bias, and Student's t has as many degrees of freedom as the rarest class has persons, less one (or all
    others, where these are fewer): without that it covers too little where cases are few or models good.
    """
    if name not in PRECISION_AREAS:
        return interval(draws, confidence, persons)
    return interval(draws, confidence, persons, value=value, freedom=max(_rarest(name, tables) - 1, 1))


def _rarest(name: str, tables: Sequence) -> int:
    """Of all classes the fewest persons who are of it, or who are not; of two classes those of either."""
    truth = np.concatenate([table["truth"].to_numpy(float) for table in tables])
    person = np.concatenate([table["person"].to_numpy(str) for table in tables])
    classes = max(len(table["probabilities"].iloc[0]) for table in tables if len(table))
    is_of = members(truth, classes) if name == "mean_auprc" else truth[:, None] == np.arange(classes)
    return min(len(np.unique(person[side])) for column in is_of.T for side in (column, ~column))


def prediction_arrays(rows, kind: str, name: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Truth (n,), prediction (n,) and probabilities (n, classes), None for numbers, of a prediction table.

    name: of the metric that takes them; for sensitivity and specificity the prediction is what is called at the
    operating point, where the table says what is.
    """
    probabilities = np.array(rows["probabilities"].tolist(), float) if kind in CLASSES else None
    truth, prediction = rows["truth"].to_numpy(float), rows["prediction"].to_numpy(float)
    if kind == "survival":
        truth = np.where(rows["event"].to_numpy(float) == 1, truth, -truth)
    if name in AT_THE_POINT and "called" in rows and rows["called"].notna().all():
        prediction = rows["called"].to_numpy(float)
    return truth, prediction, probabilities


def _notes(single: list[str], persons: int, columns: tuple) -> list[str]:
    """Why metrics have no interval, whose resamples all gave one value."""
    if not single:
        return []
    why = "every resample gives the same value"
    parts = columns[1:] if columns[2] is not None else columns[1:2]
    if persons == 1:
        why = "there is only one person"
    elif all((part == part[:1]).all() for part in parts):
        why = "all predictions are equal"
    return [f"no interval of {', '.join(single)}: {why}"]


_FUNCTIONS = {
    "balanced_accuracy": class_metrics.balanced_accuracy,
    "accuracy": class_metrics.accuracy,
    "auroc": area_metrics.auroc,
    "auprc": area_metrics.auprc,
    "f1": class_metrics.f1,
    "mcc": class_metrics.mcc,
    "brier": class_metrics.brier,
    "log_loss": class_metrics.log_loss,
    "sensitivity": class_metrics.sensitivity,
    "specificity": class_metrics.specificity,
    "calibration_error": class_metrics.calibration_error,
    "mae": number_metrics.mae,
    "rmse": number_metrics.rmse,
    "r2": number_metrics.r2,
    "r": number_metrics.r,
    "icc": number_metrics.agreement,
    "quadratic_kappa": number_metrics.quadratic_kappa,
    "mean_auroc": area_metrics.mean_auroc,
    "mean_auprc": area_metrics.mean_auprc,
    "macro_f1": multilabel_metrics.macro_f1,
    "subset_accuracy": class_metrics.accuracy,
    "hamming_loss": multilabel_metrics.hamming_loss,
    "c_index": number_metrics.c_index,
}
