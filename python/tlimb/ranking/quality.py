"""The preprocessed scans at a glance: counts, typical values, outliers worst first."""

import numpy as np
import pandas as pd

WORSE = {"mask_overlap": -1, "snr": -1, "displacement": 1, "metric": 1}
"""Numbers of a shard's index and the direction in which they get worse."""

WORDS = {
    "mask_overlap": "mask overlap",
    "snr": "signal to noise",
    "displacement": "moved (mm)",
    "metric": "registration metric",
}
LIMIT = 3.5


def summary(scans: pd.DataFrame) -> list[dict]:
    """For each recipe: scans that are ok, warned of and failed, with median and 5th to 95th percentile of each number.

    scans: rows of all shards with a column `recipe`.
    """
    rows = []
    for recipe, group in scans.groupby("recipe"):
        ok = group[group["status"] == "ok"]
        warned = int((ok["warnings"].fillna("") != "").sum())
        numbers = {name: _spread(ok[name]) for name in WORSE}
        rows.append({"recipe": recipe, "ok": len(ok), "warned": warned, "failed": len(group) - len(ok)} | numbers)
    return rows


def outliers(scans: pd.DataFrame) -> list[dict]:
    """Scans that are worse than their recipe's median by more than 3.5 robust standard deviations, or carry a warning.

    Worst first: {"scan_id", "recipe", "number", "value", "median", "deviations", "warnings"} with the worst number of
    the scan. A robust standard deviation is 1.4826 times the median absolute deviation (Iglewicz and Hoaglin 1993).
    """
    found = []
    for _, group in scans[scans["status"] == "ok"].groupby("recipe"):
        values = group[list(WORSE)].astype(float)
        median = values.median()
        spread = 1.4826 * (values - median).abs().median()
        deviations = ((values - median) * pd.Series(WORSE) / spread.where(spread > 0)).fillna(-np.inf)
        worst = deviations.idxmax(axis=1)
        for index, number in worst.items():
            how_far, warnings = deviations.loc[index, number], group.loc[index, "warnings"] or ""
            if how_far > LIMIT or warnings:
                facts = {"scan_id": group.loc[index, "scan_id"], "recipe": group.loc[index, "recipe"]}
                facts |= {"number": WORDS[number], "value": values.loc[index, number], "median": median[number]}
                found.append(facts | {"deviations": how_far, "warnings": warnings})
    return sorted(found, key=lambda row: (-row["deviations"], row["scan_id"]))


def _spread(values: pd.Series) -> dict | None:
    finite = values.dropna().to_numpy(float)
    if not len(finite):
        return None
    low, median, high = np.quantile(finite, [0.05, 0.5, 0.95])
    return {"median": median, "low": low, "high": high}
