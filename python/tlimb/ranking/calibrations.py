"""How far probabilities and prediction sets of the selected candidates keep what they promise: the keys `calibration`
and `conformal` of ranking.json.

`calibration`, of classes and ordered classes, is a list with one entry for each selected candidate and set (validation,
test, each external cohort):

    {"candidate": "77b1...", "name": "full", "selected": "best", "set": "test", "of": "probability of patient",
     "n_scans": 120, "trials": 3, "temperature": 1.62, "unscaled": 0,
     "before": {"brier": 0.19, "log_loss": 0.61, "calibration_error": 0.08,
                "bins": [{"n": 10.0, "confidence": 0.06, "observed": 0.1, "low": 0.02, "high": 0.4}, ...]},
     "after": {the same after temperature scaling}}

Scores are means over trials. Bins hold the predictions of all trials, a scan that k trials predicted counts 1 / k in
each, so that `n` speaks of scans and not of seeds; Wilson's interval (low, high) takes the number of persons for n,
since the scans of a person are alike. `temperature` is the mean over
trials of what was fitted on validation; `unscaled` counts trials for which none could be fitted: they stay as they are
in `after`. On validation `after` is fitted to what it is measured on.

`conformal`, of classes, ordered classes and quantities, is such a list, too:

    {"candidate": "77b1...", "name": "full", "selected": "best", "set": "test", "kind": "sets", "coverage": 0.9,
     "reached": 0.88, "low": 0.81, "high": 0.93, "size": 1.3, "empty": 0.0, "n_scans": 120, "trials": 3, "note": "..."}

`kind` is `sets` (of classes; `size` is their mean number, `empty` the share without any) or `intervals` (`size` is the
mean width in the label's unit, null where validation was too small to bound it; `empty` is null).
"""

import numpy as np
import pandas as pd

from tlimb.evaluation.calibration import rescaled
from tlimb.evaluation.conformal import NOTE, covered, sizes
from tlimb.evaluation.fitted import read_fitted
from tlimb.evaluation.metrics import metric, prediction_arrays
from tlimb.evaluation.reliability import confidence_and_hits, reliability, wilson
from tlimb.evaluation.scores import PROBABILISTIC
from tlimb.labels import ONE_CLASS
from tlimb.ranking.compare import Measure
from tlimb.ranking.pooled import set_names
from tlimb.ranking.results import Results


def calibrations(results: Results, selected: list[dict], target: str, measure: Measure) -> list[dict]:
    """The key `calibration` of ranking.json; empty for kinds without a probability for each class. selected: rows with
    outcomes."""
    if measure.kind not in ONE_CLASS:
        return []
    return [
        about | _calibration(tables, fitted, results.cohort["labels"][target]["classes"], measure)
        for about, tables, fitted in _fitted_sets(results, selected, target, validation=True)
    ]


def coverages(results: Results, selected: list[dict], target: str, measure: Measure) -> list[dict]:
    """The key `conformal` of ranking.json; empty for several classes at once and times. selected: rows with
    outcomes."""
    if measure.kind not in (*ONE_CLASS, "regression"):
        return []
    found = []
    for about, tables, fitted in _fitted_sets(results, selected, target, validation=False):
        pairs = [(table, one["conformal"]) for table, one in zip(tables, fitted) if one["conformal"] is not None]
        found += [about | _coverage(pairs, measure)] if pairs else []
    return found


def _fitted_sets(results: Results, selected: list[dict], target: str, validation: bool):
    """For each selected candidate and set: what it is, its trials' tables, and what was fitted for each of these."""
    for row in selected:
        ids = {key: row[key] for key in ("candidate", "name", "selected")}
        finished = [one for one in row["trials"] if one["status"] == "ok"]
        facts = {one["id"]: (read_fitted(results.scores_folder / one["id"]) or {"targets": {}}) for one in finished}
        known = [one for one in finished if target in facts[one["id"]]["targets"]]
        for part in set_names(results, known, validation):
            tables = [(results.tables([one], part, target), facts[one["id"]]["targets"][target]) for one in known]
            tables = [(table, own) for found, own in tables for table in found.values() if len(table)]
            if tables:
                yield ids | {"set": part}, [table for table, _ in tables], [own for _, own in tables]


def _calibration(tables: list[pd.DataFrame], fitted: list[dict], classes: list[str], measure: Measure) -> dict:
    before = [prediction_arrays(table, measure.kind) for table in tables]
    warmth = [one["temperature"] for one in fitted]
    after = [
        (truth, said, shares if heat is None else rescaled(shares, heat, measure.kind))
        for (truth, said, shares), heat in zip(before, warmth, strict=True)
    ]
    known = [heat for heat in warmth if heat is not None]
    rows = pd.concat([table[["scan_id", "person"]] for table in tables], ignore_index=True)
    return {
        "of": f"probability of {classes[1]}" if len(classes) == 2 else "highest probability",
        "n_scans": int(rows["scan_id"].nunique()),
        "trials": len(tables),
        "temperature": float(np.mean(known)) if known else None,
        "unscaled": len(warmth) - len(known),
        "before": _curve(before, rows, measure),
        "after": _curve(after, rows, measure),
    }


def _curve(columns: list[tuple], rows: pd.DataFrame, measure: Measure) -> dict:
    """rows: scan_id and person of all rows of `columns` in turn."""
    scores = {name: float(np.mean([metric(name, *arrays) for arrays in columns])) for name in PROBABILISTIC}
    pairs = [confidence_and_hits(truth, shares) for truth, _, shares in columns]
    confidence, hits = (np.concatenate(side) for side in zip(*pairs))
    counted, persons = _shares_of_scans(rows["scan_id"]), rows["person"].to_numpy(str)
    return scores | {"bins": reliability(confidence, hits, counted, persons, measure.confidence)}


def _coverage(pairs: list[tuple[pd.DataFrame, dict]], measure: Measure) -> dict:
    columns = [(prediction_arrays(table, measure.kind), own) for table, own in pairs]
    scans = pd.concat([table["scan_id"] for table, _ in pairs], ignore_index=True)
    counted = _shares_of_scans(scans)
    inside = np.concatenate([covered(*arrays, own) for arrays, own in columns])
    size = np.concatenate([sizes(len(arrays[0]), arrays[2], own) for arrays, own in columns])
    reached, of_classes = float(np.average(inside, weights=counted)), measure.kind != "regression"
    persons = pd.concat([table["person"] for table, _ in pairs]).nunique()
    low, high = wilson(reached, persons, measure.confidence)
    return {
        "kind": "sets" if of_classes else "intervals",
        "coverage": pairs[0][1]["coverage"],
        "reached": reached,
        "low": low,
        "high": high,
        "size": float(np.average(size, weights=counted)) if np.isfinite(size).all() else None,
        "empty": float(np.average(size == 0, weights=counted)) if of_classes else None,
        "n_scans": int(scans.nunique()),
        "trials": len(pairs),
        "note": NOTE,
    }


def _shares_of_scans(scans: pd.Series) -> np.ndarray:
    """1 / k for each row, k being how many rows its scan has."""
    return (1 / scans.map(scans.value_counts())).to_numpy(float)
