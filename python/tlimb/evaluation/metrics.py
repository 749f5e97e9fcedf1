"""Metrics of every kind of target, on weighted rows, so that a bootstrap is one matrix product.

Every metric takes weights (b, n), one row a resample, and gives b values at once; NaN says that it can't be computed.
The plain value is that of weights 1: value and interval come from one formula. Definitions are those of scikit-learn,
the oracle of the tests. With more than two classes AUROC, AUPRC and F1 are unweighted means over one-versus-rest.

Truth and prediction of several classes at once are sums of 2^index over those that a row has, and times until an event
are negative where it was not seen.
"""

import numpy as np

from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.concordance import concordance
from tlimb.labels import CLASSES, members

METRICS = {
    "classification": ["balanced_accuracy", "accuracy", "auroc", "auprc", "f1", "mcc", "brier", "log_loss"],
    "regression": ["mae", "rmse", "r2", "r"],
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
DIRECTIONS |= {name: "min" for name in ("brier", "log_loss", "mae", "rmse", "hamming_loss")}


def metric(name: str, truth, prediction, probabilities=None) -> float:
    """The metric `name` on n rows, NaN where it can't be computed.

    truth, prediction: (n,) values, indices of classes, sums of 2^index of several, or times and risks. probabilities:
    (n, classes), needed by auroc, auprc, brier and log_loss and by all of several classes. Raises InputError for an
    unknown name.
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
    targets: label -> {"kind", "classes"}. A metric that can't be computed is None.
    """
    scored = {}
    for target, facts in targets.items():
        rows = predictions[(predictions["target"] == target) & predictions["truth"].notna()]
        persons, codes = np.unique(rows["person"].to_numpy(str), return_inverse=True)
        columns = prediction_arrays(rows, facts["kind"])
        sampling = {"persons": len(persons), "resamples": resamples, "seed": seed}
        metrics = {name: _scored(name, columns, codes, sampling, confidence) for name in METRICS[facts["kind"]]}
        scored[target] = {"kind": facts["kind"], "classes": list(facts.get("classes", [])), "metrics": metrics}
    return scored


def prediction_arrays(rows, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Truth (n,), prediction (n,) and probabilities (n, classes), None for numbers, of a prediction table."""
    probabilities = np.array(rows["probabilities"].tolist(), float) if kind in CLASSES else None
    truth = rows["truth"].to_numpy(float)
    if kind == "survival":
        truth = np.where(rows["event"].to_numpy(float) == 1, truth, -truth)
    return truth, rows["prediction"].to_numpy(float), probabilities


def _scored(name: str, columns: tuple, codes: np.ndarray, sampling: dict, confidence: float) -> dict | None:
    value = metric(name, *columns)
    if not np.isfinite(value):
        return None
    values = person_bootstrap(lambda weights: weighted_metric(name, *columns, weights[:, codes]), **sampling)
    low, high = percentile_interval(values, confidence)
    return {"value": value, "low": low, "high": high}


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)


def _mae(truth, prediction, probabilities, weights):
    return _mean(np.abs(truth - prediction), weights)


def _rmse(truth, prediction, probabilities, weights):
    return np.sqrt(_mean((truth - prediction) ** 2, weights))


def _r2(truth, prediction, probabilities, weights):
    """1 - sum of squared residuals / sum of squares about the mean; NaN where the truth is constant."""
    spread = _variance(truth, weights)
    return np.where(spread > 0, 1 - _mean((truth - prediction) ** 2, weights) / spread, np.nan)


def _r(truth, prediction, probabilities, weights):
    """Pearson's correlation; NaN where truth or prediction is constant."""
    spread = _variance(truth, weights) * _variance(prediction, weights)
    truth, prediction = truth - truth.mean(), prediction - prediction.mean()
    covariance = _mean(truth * prediction, weights) - _mean(truth, weights) * _mean(prediction, weights)
    return np.where(spread > 0, np.clip(covariance / np.sqrt(spread), -1, 1), np.nan)


def _variance(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted variance, exactly 0 where all rows drawn hold one value."""
    values = values - values.mean()
    variance = np.maximum(_mean(values**2, weights) - _mean(values, weights) ** 2, 0)
    drawn = weights > 0
    highest = np.where(drawn, values, -np.inf).max(axis=1)
    return np.where(highest > np.where(drawn, values, np.inf).min(axis=1), variance, 0.0)


def _counts(truth, prediction, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight of each class's hits, of its truths and of its predictions, each (b, classes)."""
    classes = np.arange(max(truth.max(), prediction.max()) + 1)
    true, said = truth[:, None] == classes, prediction[:, None] == classes
    return weights @ (true & said), weights @ true, weights @ said


def _several_classes(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.where((totals > 0).sum(axis=1) > 1, values, np.nan)


def _accuracy(truth, prediction, probabilities, weights):
    return _mean(truth == prediction, weights)


def _balanced_accuracy(truth, prediction, probabilities, weights):
    """Mean recall over the classes that occur in the truth; NaN where only one does."""
    hits, totals, _ = _counts(truth, prediction, weights)
    present = totals > 0
    recalls = np.where(present, hits / totals, 0)
    return _several_classes(recalls.sum(axis=1) / present.sum(axis=1), totals)


def _f1(truth, prediction, probabilities, weights):
    """F1 of the second of two classes, else the mean over classes that occur in truth or prediction."""
    hits, totals, said = _counts(truth, prediction, weights)
    occurs = totals + said > 0
    each = np.where(occurs, 2 * hits / (totals + said), np.nan)
    if _class_count(truth, prediction, probabilities) <= 2:
        return each[:, 1] if each.shape[1] > 1 else np.full(len(weights), np.nan)
    return np.where(occurs, each, 0).sum(axis=1) / occurs.sum(axis=1)


def _class_count(truth, prediction, probabilities) -> int:
    return int(max(truth.max(), prediction.max())) + 1 if probabilities is None else probabilities.shape[1]


def _mcc(truth, prediction, probabilities, weights):
    """Matthews correlation for k classes (Gorodkin 2004); 0 for constant predictions, NaN for a truth of one class."""
    hits, totals, said = _counts(truth, prediction, weights)
    whole = weights.sum(axis=1)
    covariance = hits.sum(axis=1) * whole - (totals * said).sum(axis=1)
    spread = (whole**2 - (said**2).sum(axis=1)) * (whole**2 - (totals**2).sum(axis=1))
    return _several_classes(np.where(spread > 0, covariance / np.sqrt(spread), 0.0), totals)


def _brier(truth, prediction, probabilities, weights):
    """Mean squared distance of probabilities from the truth: of the second of two classes, else summed over classes."""
    squares = (probabilities - (truth[:, None] == np.arange(probabilities.shape[1]))) ** 2
    return _mean(squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1), weights)


def _log_loss(truth, prediction, probabilities, weights):
    """Mean of -log of the probability of the true class, clipped to the resolution of double precision."""
    own = probabilities[np.arange(len(truth)), truth.astype(int)]
    resolution = np.finfo(float).eps
    return _mean(-np.log(np.clip(own, resolution, 1 - resolution)), weights)


def _auroc(truth, prediction, probabilities, weights):
    """Probability that a case scores above a non-case, ties counting half (Mann-Whitney); NaN if a class is absent."""
    return _one_versus_rest(_roc_area, truth, probabilities, weights)


def _roc_area(positive, negative):
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return (positive * (below + negative / 2)).sum(axis=1) / pairs


def _auprc(truth, prediction, probabilities, weights):
    """Average precision: precision at each threshold weighted by the gain in recall; NaN where a class is absent."""
    return _one_versus_rest(_precision_area, truth, probabilities, weights)


def _precision_area(positive, negative):
    found = np.cumsum(positive[:, ::-1], axis=1)
    called = found + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.where(called > 0, found / called, 0)
    return (positive[:, ::-1] * precision).sum(axis=1) / positive.sum(axis=1)


def _one_versus_rest(area, truth, probabilities, weights):
    """Mean of `area` over classes, only the second of two; NaN where a class is absent."""
    classes = probabilities.shape[1]
    chosen = [1] if classes == 2 else list(range(classes))
    return _mean_area(area, truth[:, None] == chosen, probabilities[:, chosen], weights)


def _mean_area(area, case, scores, weights):
    """Mean of `area` over the columns of case and scores, (n, classes); NaN where a class has no case or nothing else.

    area: function of the weights of cases and of non-cases at each distinct score, rising, each (b, scores), to (b,).
    """
    total, complete = np.zeros(len(weights)), np.ones(len(weights), bool)
    for column in range(case.shape[1]):
        order = np.argsort(scores[:, column], kind="stable")
        rising, own = scores[order, column], case[order, column]
        starts = np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])
        positive = np.add.reduceat(weights[:, order] * own, starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * ~own, starts, axis=1)
        complete &= (positive.sum(axis=1) > 0) & (negative.sum(axis=1) > 0)
        total += area(positive, negative)
    return np.where(complete, total / case.shape[1], np.nan)


def _mean_auroc(truth, prediction, probabilities, weights):
    return _mean_area(_roc_area, _sets(truth, probabilities), probabilities, weights)


def _mean_auprc(truth, prediction, probabilities, weights):
    return _mean_area(_precision_area, _sets(truth, probabilities), probabilities, weights)


def _macro_f1(truth, prediction, probabilities, weights):
    """Mean over the classes that occur in truth or prediction of the F1 of each."""
    true, said = _sets(truth, probabilities), _sets(prediction, probabilities)
    hits, counted = weights @ (true & said), weights @ true + weights @ said
    occurs = counted > 0
    each = np.where(occurs, 2 * hits / np.where(occurs, counted, 1), 0)
    return each.sum(axis=1) / occurs.sum(axis=1)


def _hamming_loss(truth, prediction, probabilities, weights):
    """Share of the classes of a row that are said wrongly."""
    return _mean((_sets(truth, probabilities) != _sets(prediction, probabilities)).mean(axis=1), weights)


def _sets(codes, probabilities):
    return members(codes, probabilities.shape[1])


def _quadratic_kappa(truth, prediction, probabilities, weights):
    """Agreement beyond chance, 1 - sum_ij (i - j)^2 O_ij / sum_ij (i - j)^2 E_ij, with O the shares of truth i said to
    be j and E those of independent ones; NaN where both are constant.

    Cohen (1968), "Weighted kappa", Psychological Bulletin 70, 213-220.
    """
    apart = (_mean(truth, weights) - _mean(prediction, weights)) ** 2
    chance = _variance(truth, weights) + _variance(prediction, weights) + apart
    agreement = 1 - _mean((truth - prediction) ** 2, weights) / np.where(chance > 0, chance, np.nan)
    return np.round(agreement, 12) + 0.0  # of constant predictions it is 0, and not what rounding leaves of it


def _c_index(truth, prediction, probabilities, weights):
    return concordance(truth, prediction, weights)


_FUNCTIONS = {
    "balanced_accuracy": _balanced_accuracy,
    "accuracy": _accuracy,
    "auroc": _auroc,
    "auprc": _auprc,
    "f1": _f1,
    "mcc": _mcc,
    "brier": _brier,
    "log_loss": _log_loss,
    "mae": _mae,
    "rmse": _rmse,
    "r2": _r2,
    "r": _r,
    "quadratic_kappa": _quadratic_kappa,
    "mean_auroc": _mean_auroc,
    "mean_auprc": _mean_auprc,
    "macro_f1": _macro_f1,
    "subset_accuracy": _accuracy,
    "hamming_loss": _hamming_loss,
    "c_index": _c_index,
}
