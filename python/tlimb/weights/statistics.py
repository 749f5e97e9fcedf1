"""What a set of weights was trained on, in numbers of groups.

No number is a single person's by name, but small groups tell of their members: a class of one scan says that there was
one such person, and percentiles of few scans lie near single values.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlimb.data.view import View
from tlimb.labels import CLASSES, classes_in

if TYPE_CHECKING:
    from tlimb.scenarios.prepare import StageRun

SCANS = 64
"""Training scans whose intensities are looked at: enough for two digits, and no second pass over the data."""

PERCENTILES = (5, 95)
"""Of quantities, in place of their least and greatest value."""


def statistics(run: "StageRun", view: View) -> dict:
    """Data statistics of a stage's training part, as model.json keeps them.

    intensity: mean and sd of what the network sees of up to 64 training scans, spread evenly over them. labels: number,
    mean, sd, 5th (low) and 95th (high) percentile of quantities, not their extremes, which are single persons'
    values; the number with each class; the number of events of times.
    """
    train = run.rows[run.rows["role"] == "train"]
    labels = {name: _label(train[name], run.labels[name]["kind"]) for name in run.stage["targets"]}
    return {
        "scans": len(train),
        "persons": int(train["person"].nunique()),
        "intensity": _intensity(view, train["scan_id"].tolist()),
        "labels": labels,
    }


def _intensity(view: View, scan_ids: list[str]) -> dict:
    """Means over the values of images, of one scan after another so that no large block is needed."""
    chosen = [scan_ids[place] for place in np.unique(np.linspace(0, len(scan_ids) - 1, SCANS).astype(int))]
    count, total, squares = 0, 0.0, 0.0
    for scan in chosen:
        values = view.module.present(view.images([scan]), False).double()
        count += values.numel()
        total += values.sum().item()
        squares += (values**2).sum().item()
    mean = total / count
    return {"mean": mean, "sd": max(squares / count - mean**2, 0.0) ** 0.5, "scans": len(chosen)}


def _label(column: pd.Series, kind: str) -> dict:
    known = column.dropna()
    if kind in CLASSES:
        names = known.map(classes_in).explode().dropna() if kind == "multilabel" else known
        return {"n": len(known), "classes": {str(name): int(n) for name, n in names.value_counts(sort=False).items()}}
    values = known.astype("float64")
    events = {"events": int((values > 0).sum())} if kind == "survival" else {}
    values = values.abs() if kind == "survival" else values
    low, high = np.percentile(values, PERCENTILES)
    spread = {"mean": values.mean(), "sd": values.std(ddof=0), "low": low, "high": high}
    return {"n": len(known), **{key: float(value) for key, value in spread.items()}, **events}
