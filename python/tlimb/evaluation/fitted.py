"""What is fitted on validation after training and serves every other scan: fitted.json of a trial."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlimb.data.targets import Target
from tlimb.evaluate_settings import Evaluate, OperatingPoint
from tlimb.evaluation.age_bias import fit_line
from tlimb.evaluation.calibration import fit_temperature, limit_of
from tlimb.evaluation.conformal import fit_conformal
from tlimb.evaluation.metrics import prediction_arrays
from tlimb.evaluation.operating_point import call, find_threshold, trivial, wanted
from tlimb.files import read_json, write_json
from tlimb.labels import ONE_CLASS

NAME = "fitted.json"
NOTE = "fitted on the validation scans, which also chose the epoch and the candidate"


def fit(predictions: pd.DataFrame, targets: Sequence[Target], settings: Evaluate) -> dict:
    """The content of fitted.json, but for ids and features, from the predictions of validation and nothing else.

    predictions: as in predictions-validation.parquet, without `called`. What does not apply to a kind of target, or
    can't be fitted, is None; `notes` say why where one might wonder.
    """
    counts = {"scans": predictions["scan_id"].nunique(), "persons": predictions["person"].nunique()}
    of = {target.name: predictions[predictions["target"] == target.name] for target in targets}
    fitted = {target.name: _fit(of[target.name], target, settings) for target in targets}
    return {"status": "ok", "reason": "", "n": counts, "targets": fitted, "features": None, "note": NOTE}


def failed(reason: str) -> dict:
    """The content of fitted.json of a trial that has no model."""
    counts = {"scans": 0, "persons": 0}
    return {"status": "failed", "reason": reason, "n": counts, "targets": {}, "features": None, "note": NOTE}


def _fit(rows: pd.DataFrame, target: Target, settings: Evaluate) -> dict:
    found = {"temperature": None, "threshold": None, "conformal": None, "age_bias": None, "notes": []}
    if not len(rows) or target.kind not in (*ONE_CLASS, "regression"):
        return found
    truth, prediction, probabilities = prediction_arrays(rows, target.kind)
    if not np.isfinite(prediction if probabilities is None else probabilities).all():
        return found | {"notes": ["predictions of validation are not finite"]}
    found["conformal"] = fit_conformal(truth, prediction, probabilities, settings.coverage)
    if found["conformal"]["quantile"] is None:
        found["notes"].append(f"{len(truth)} validation scans are too few for {settings.coverage:g} coverage")
    if target.kind == "regression":
        return found | {"age_bias": fit_line(truth, prediction)}
    found["temperature"] = fit_temperature(truth, probabilities, target.kind)
    if found["temperature"] is None:
        found["notes"].append("no temperature: every validation scan is predicted right")
    elif limit := limit_of(found["temperature"]):
        why = "too few or too plain validation scans to fit one"
        found["notes"].append(f"the temperature is at its limit ({limit:g}): {why}")
    if target.kind == "classification" and probabilities.shape[1] == 2:
        found["threshold"] = find_threshold(truth, probabilities[:, 1], settings.operating_point)
        found["notes"] += _threshold_notes(found["threshold"], target, len(truth), settings.operating_point)
    return found


def _threshold_notes(threshold: float | None, target: Target, scans: int, point: OperatingPoint) -> list[str]:
    """What a user must know of a threshold that tells nobody apart, or that is lacking."""
    if threshold is None:
        return ["no threshold: all validation scans are of one class"]
    useless = trivial(threshold, target.classes[1])
    if not useless:
        return []
    return [f"the threshold is {threshold:g}, so {useless}: it was to give {wanted(point)} on {scans} validation scans"]


def with_called(predictions: pd.DataFrame, fitted: dict) -> pd.DataFrame:
    """The table with a column `called` after `event`: of two classes what is called at the operating point, 0 or 1; NaN
    for other targets, and where no threshold could be found."""
    called = np.full(len(predictions), np.nan)
    for target, found in fitted["targets"].items():
        if found["threshold"] is not None:
            own = (predictions["target"] == target).to_numpy()
            probabilities = np.array(predictions.loc[own, "probabilities"].tolist(), float).reshape(-1, 2)
            called[own] = call(probabilities[:, 1], found["threshold"])
    table = predictions.copy()
    table.insert(table.columns.get_loc("event") + 1, "called", called)
    return table


def write_fitted(folder: Path, facts: dict) -> None:
    """Write fitted.json into a trial's folder."""
    write_json(Path(folder) / NAME, facts)


def read_fitted(folder: Path) -> dict | None:
    """fitted.json of a trial's folder; None where there is none or the trial failed."""
    path = Path(folder) / NAME
    facts = read_json(path) if path.exists() else None
    return facts if facts and facts.get("status") == "ok" else None
