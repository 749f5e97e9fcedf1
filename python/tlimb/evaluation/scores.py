"""What scores-<set>.json says of the predictions of a set."""

from collections.abc import Sequence

import pandas as pd

from tlimb.data.targets import Target
from tlimb.evaluation.age_bias import age_bias
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.calibration import rescaled
from tlimb.evaluation.conformal import reached
from tlimb.evaluation.metrics import prediction_arrays, score, with_intervals
from tlimb.labels import ONE_CLASS

PROBABILISTIC = ("brier", "log_loss", "calibration_error")
"""Metrics that temperature scaling changes."""


def scores(
    predictions: pd.DataFrame, targets: Sequence[Target], part: str, bootstrap: Bootstrap, fitted: dict | None = None
) -> dict:
    """What scores-<set>.json says of a finished model, but for its ids.

    fitted: the content of fitted.json; with it stand beside the metrics what temperature scaling, the correction of age
    bias and conformal prediction, all fitted on validation, come to on this set.
    """
    facts = {target.name: {"kind": target.kind, "classes": list(target.classes)} for target in targets}
    sampling = {"resamples": bootstrap.resamples, "confidence": bootstrap.confidence, "seed": bootstrap.seed}
    found = score(predictions, facts, **sampling)
    for target in targets if fitted is not None else ():
        rows = predictions[predictions["target"] == target.name]
        found[target.name] |= _beside(rows, target.kind, fitted["targets"].get(target.name), bootstrap)
    counts = {"scans": predictions["scan_id"].nunique(), "persons": predictions["person"].nunique()}
    return heading(part, bootstrap) | {"n": counts, "targets": found}


def heading(part: str, bootstrap: Bootstrap, reason: str = "") -> dict:
    """The same of a trial that failed for a `reason`, and what every scores file has."""
    return {
        "set": part,
        "status": "failed" if reason else "ok",
        "reason": reason,
        "n": {"scans": 0, "persons": 0},
        "bootstrap": {
            "n": bootstrap.resamples,
            "confidence": bootstrap.confidence,
            "unit": "person",
            "seed": bootstrap.seed,
        },
        "targets": {},
    }


def _beside(rows: pd.DataFrame, kind: str, fitted: dict | None, bootstrap: Bootstrap) -> dict:
    """What stands beside the metrics of a kind of target; None where it could not be fitted."""
    if kind not in (*ONE_CLASS, "regression"):
        return {}
    name = "age_bias" if kind == "regression" else "calibrated"
    if fitted is None or not len(rows):
        return {name: None, "conformal": None}
    truth, prediction, probabilities = prediction_arrays(rows, kind)
    found = {"conformal": None}
    if fitted["conformal"] is not None:
        settings = fitted["conformal"], bootstrap.confidence, rows["person"].nunique()
        found["conformal"] = reached(truth, prediction, probabilities, *settings)
    if kind == "regression":
        return {name: age_bias(truth, prediction, fitted["age_bias"])} | found
    return {name: _calibrated(rows, probabilities, kind, fitted["temperature"], bootstrap)} | found


def _calibrated(rows, probabilities, kind: str, temperature: float | None, bootstrap: Bootstrap) -> dict | None:
    if temperature is None:
        return None
    scaled = rows.assign(probabilities=list(rescaled(probabilities, temperature, kind)))
    metrics, _ = with_intervals(PROBABILISTIC, scaled, kind, bootstrap)
    return {"temperature": temperature, "metrics": metrics}
