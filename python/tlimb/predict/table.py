"""Predictions as the table that people read: a row a scan and target, also of scans that failed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlimb.evaluation.calibration import rescaled
from tlimb.evaluation.conformal import prediction_intervals, prediction_sets
from tlimb.evaluation.operating_point import call
from tlimb.labels import CLASSES, together
from tlimb.persons import person_digest
from tlimb.predict.predictions import Familiar, Predicted
from tlimb.predict.scans import Scan

FIRST = ("scan", "person", "target", "prediction", "called")
LAST = ("low", "high", "set", "spread", "dropout_sd", "familiarity", "status", "reason", "warnings")
"""Columns in their order; those of probabilities, one a class, stand between."""


def table_of(
    scans: Sequence[Scan],
    index: pd.DataFrame,
    targets: Sequence[str],
    predicted: Sequence[Predicted],
    familiar: Familiar | None,
    fitted: dict[str, dict],
    warnings: Sequence[str],
) -> pd.DataFrame:
    """The table of some scans, ordered by scan, then by target.

    index: their rows of a store's index, in their order. targets: names. predicted, familiar: of the scans whose status
    is `ok`, empty and None where there is none. fitted: as in `Ensemble`. warnings: a text a scan, `; `-separated.
    """
    ok = np.flatnonzero(index["status"] == "ok")
    common = pd.DataFrame(
        {
            "scan": [scan.name for scan in scans],
            "person": [scan.person for scan in scans],
            "status": index["status"].to_numpy(),
            "reason": index["reason"].to_numpy(),
            "warnings": warnings,
        }
    )
    if familiar is not None:
        common["familiarity"] = _spread_out(familiar.p, ok, len(scans))
    parts = [common.assign(target=name) for name in targets]
    for part, of in zip(parts, predicted):
        for name, values in columns_of(of, fitted.get(of.target.name, {})).items():
            part[name] = _spread_out(values, ok, len(scans))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in the order that the documentation states; those that do not apply are left out."""
    first, last = [name for name in FIRST if name in table], [name for name in LAST if name in table]
    return table[[*first, *(name for name in table if name not in (*FIRST, *LAST)), *last]]


def columns_of(of: Predicted, fitted: dict) -> dict[str, np.ndarray]:
    """The columns of one target, (n,) each: names of classes or numbers, probabilities after the temperature, what is
    called at the threshold where that is not 1/2, the conformal set or interval, spreads."""
    target, raw = of.target, of.probabilities
    columns = {"prediction": _named(of)}
    if raw is not None:
        temperature = fitted.get("temperature")
        shown = raw if temperature is None else rescaled(raw, temperature, target.kind)
        columns |= {f"probability_{name}": shown[:, place] for place, name in enumerate(target.classes)}
    threshold = fitted.get("threshold")
    if raw is not None and threshold not in (None, 0.5):
        columns["called"] = np.array(target.names(call(raw[:, 1], threshold)), object)
    conformal = fitted.get("conformal")
    if conformal and raw is not None:
        inside = prediction_sets(raw, conformal["quantile"])
        columns["set"] = np.array([together(list(np.array(target.classes)[row])) for row in inside], object)
    elif conformal and conformal["quantile"] is not None:
        columns["low"], columns["high"] = prediction_intervals(of.prediction, conformal["quantile"])
    spreads = {"spread": of.spread, "dropout_sd": of.dropout}
    return columns | {name: values for name, values in spreads.items() if values is not None}


def warnings_of(
    scans: Sequence[Scan], index: pd.DataFrame, familiar: Familiar | None, seen: set[str], modality: Sequence[str]
) -> list[str]:
    """What is to be told of each scan: quality, people who took part in training, another modality, unfamiliar looks.

    seen: digests of the persons of training. modality: those that training was restricted to, none where to none.
    """
    said = [[text] if text else [] for text in index["warnings"]]
    ok = np.flatnonzero(index["status"] == "ok")
    for row, scan in enumerate(scans):
        if modality and scan.modality not in modality:
            said[row].append(f"is of modality {scan.modality}, and the model was trained on {' and '.join(modality)}")
        if scan.person and person_digest(scan.person) in seen:
            said[row].append("this person is among those that the model was trained, chosen or tested on")
    for place in ok if familiar is not None else ():
        number = int(np.searchsorted(ok, place))
        if familiar.doubtful[number]:
            said[place].append(f"looks unlike the scans that the model was validated on ({_against(familiar)})")
    return ["; ".join(texts) for texts in said]


def _against(familiar: Familiar) -> str:
    """How many scans stand behind a doubt; members may have had different numbers of them."""
    few, many = min(familiar.against), max(familiar.against)
    return f"against {few if few == many else f'{few} to {many}'} validation scans"


def _named(of: Predicted) -> np.ndarray:
    return np.array(of.target.names(of.prediction), object) if of.target.kind in CLASSES else of.prediction


def _spread_out(values: np.ndarray, places: np.ndarray, n: int) -> np.ndarray:
    """Values of some rows as a column of all, None or NaN elsewhere."""
    column = np.full(n, None if values.dtype == object else np.nan, dtype=object if values.dtype == object else float)
    column[places] = values
    return column
