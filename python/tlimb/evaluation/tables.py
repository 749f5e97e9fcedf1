"""Predictions as a table: predictions-<set>.parquet."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlimb.data.targets import Target

Decoded = dict[str, tuple[np.ndarray, np.ndarray | None]]
"""Target -> predictions (n,) and probabilities (n, classes), None where it has none."""


def unlabelled(rows: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """What datasets and hooks are told of rows that are predicted: scans, persons, and targets that are missing."""
    return rows[["scan_id", "person"]].assign(**{target.name: np.nan for target in targets})


def prediction_table(targets: Sequence[Target], rows: pd.DataFrame, decoded: Decoded) -> pd.DataFrame:
    """The predictions of those rows (scan_id, person, labels) that have a label, sorted by target and scan_id."""
    tables = [_table(target, rows, *decoded[target.name]) for target in targets]
    return pd.concat(tables, ignore_index=True).sort_values(["target", "scan_id"], ignore_index=True)


def _table(target: Target, rows: pd.DataFrame, prediction: np.ndarray, probabilities) -> pd.DataFrame:
    truth = target.truth(rows[target.name])
    seen = np.where(np.isnan(truth), np.nan, truth > 0) if target.kind == "survival" else np.full(len(rows), np.nan)
    columns = {
        "scan_id": rows["scan_id"].to_numpy(),
        "person": rows["person"].to_numpy(),
        "target": target.name,
        "truth": np.abs(truth) if target.kind == "survival" else truth,
        "prediction": prediction,
        "truth_label": pd.Series(target.names(truth), dtype="str"),
        "prediction_label": pd.Series(target.names(prediction), dtype="str"),
        "probabilities": [None] * len(rows) if probabilities is None else list(probabilities),
        "event": seen,
    }
    return pd.DataFrame(columns)[~np.isnan(truth)]
