"""The preprocessed scans at a glance: counts, typical values, and those that a person should look at, worst first.

Nothing here takes a scan out: that is for the person who has looked at it to do, in the samplesheet.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

BAD = {
    "mask_overlap": -1,
    "metric": 1,
    "snr": -1,
    "displacement": 1,
    "grey_white": 0,
    "size": 0,
    "stretch": 1,
}
"""Numbers of a shard's index that are searched for outliers: 1 where high is bad, -1 where low is, 0 where both are."""

WORDS = {
    "mask_overlap": "mask overlap",
    "metric": "registration metric",
    "snr": "signal to noise",
    "displacement": "moved (mm)",
    "grey_white": "grey to white matter",
    "size": "brain size",
    "stretch": "stretch",
}
SHOWN = ("mask_overlap", "snr", "displacement", "metric")
LIMIT = 3.5
LEAST = 10  # scans of one cohort, modality and recipe before any is called an outlier
GROUP = ["recipe", "cohort", "modality"]


def modified_z(values: np.ndarray) -> np.ndarray:
    """M = (x - median) / (1.4826 MAD) for values (N,), MAD the median of |x - median|; NaN where MAD is 0.

    A value is an outlier where |M| > 3.5. 1 / 1.4826 is the 0.6745 of B. Iglewicz, D. C. Hoaglin, How to Detect and
    Handle Outliers, ASQC Quality Press, 1993: the MAD of a normal distribution is 0.6745 standard deviations.
    """
    values = np.asarray(values, float)
    if not np.isfinite(values).any():
        return np.full(len(values), np.nan)
    median = np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(values - median))
    return (values - median) / spread if spread > 0 else np.full(len(values), np.nan)


def outliers(scans: pd.DataFrame) -> list[dict]:
    """Numbers that are worse than their group's median by more than LIMIT robust standard deviations, worst first.

    scans: rows of all shards with a column `recipe`. A group is a cohort's scans of one modality in one recipe, at
    least LEAST of them. {"scan_id", "recipe", "number", "value", "median", "deviations"}, deviations above 0.
    """
    found = []
    for _, group in _with_cohort(scans[scans["status"] == "ok"]).groupby(GROUP):
        for number in (name for name in BAD if name in group and group[name].notna().sum() >= LEAST):
            values = group[number].to_numpy(float)
            z = modified_z(values)
            worse = np.abs(z) if BAD[number] == 0 else BAD[number] * z
            for place in np.flatnonzero(worse > LIMIT):
                facts = {"scan_id": group["scan_id"].iloc[place], "recipe": group["recipe"].iloc[place]}
                facts |= {"number": WORDS[number], "value": float(values[place]), "median": float(np.nanmedian(values))}
                found.append(facts | {"deviations": float(worse[place])})
    return sorted(found, key=lambda row: (-row["deviations"], row["scan_id"]))


def to_look_at(scans: pd.DataFrame) -> list[dict]:
    """Scans with a warning or an outlier, worst first: by warnings, then by outliers, then by how far out they are.

    {"scan_id", "recipe", "warnings": [text], "notes": text, "outliers": rows of `outliers`}.
    """
    odd: dict[tuple[str, str], list[dict]] = {}
    for row in outliers(scans):
        odd.setdefault((row["recipe"], row["scan_id"]), []).append(row)
    ok = scans[scans["status"] == "ok"]
    notes = ok["notes"].fillna("") if "notes" in ok else [""] * len(ok)
    found = []
    for recipe, scan, warnings, note in zip(ok["recipe"], ok["scan_id"], ok["warnings"].fillna(""), notes):
        texts = [text for text in warnings.split("; ") if text]
        if texts or (recipe, scan) in odd:
            facts = {"scan_id": scan, "recipe": recipe, "warnings": texts, "notes": note}
            found.append(facts | {"outliers": odd.get((recipe, scan), [])})
    return sorted(found, key=_badness)


def _badness(row: dict) -> tuple:
    farthest = max((one["deviations"] for one in row["outliers"]), default=0.0)
    return (-len(row["warnings"]), -len(row["outliers"]), -farthest, row["scan_id"])


def summary(scans: pd.DataFrame) -> list[dict]:
    """For each recipe: scans that are ok, warned of and failed, with median and 5th to 95th percentile of each number.

    scans: rows of all shards with a column `recipe`.
    """
    rows = []
    for recipe, group in scans.groupby("recipe"):
        ok = group[group["status"] == "ok"]
        warned = int((ok["warnings"].fillna("") != "").sum())
        numbers = {name: _spread(ok[name]) for name in SHOWN}
        rows.append({"recipe": recipe, "ok": len(ok), "warned": warned, "failed": len(group) - len(ok)} | numbers)
    return rows


def by_group(scans: pd.DataFrame, sites: dict[str, str] | None = None) -> list[dict]:
    """Counts for each recipe, cohort, modality and, where `sites` (scan_id -> site) are known, site.

    {"recipe", "cohort", "modality", "site", "n", "failed", "warned", "outliers", "noted"}; outliers count scans.
    """
    sites = sites or {}
    odd = {(row["recipe"], row["scan_id"]) for row in outliers(scans)}
    table = _with_cohort(scans).assign(site=scans["scan_id"].map(lambda scan: sites.get(scan) or ""))
    table["outlier"] = [key in odd for key in zip(table["recipe"], table["scan_id"])]
    rows = []
    for names, group in table.groupby([*GROUP, "site"]):
        counts = {"n": len(group), "failed": int((group["status"] != "ok").sum())}
        counts |= {"warned": int((group["warnings"].fillna("") != "").sum()), "outliers": int(group["outlier"].sum())}
        counts["noted"] = int((group["notes"].fillna("") != "").sum()) if "notes" in group else 0
        rows.append(dict(zip([*GROUP, "site"], names)) | counts)
    return rows


def read_sites(table: Path | None) -> dict[str, str]:
    """scan_id -> site from a cohort.parquet that has a column `site`; empty where there is none."""
    if table is None or "site" not in pq.read_schema(table).names:
        return {}
    columns = pq.read_table(table, columns=["scan_id", "site"]).to_pydict()
    return {scan: str(site) for scan, site in zip(columns["scan_id"], columns["site"]) if site is not None}


def _with_cohort(scans: pd.DataFrame) -> pd.DataFrame:
    """The scans with their cohort and modality, from the first and the last part of their ids."""
    parts = scans["scan_id"].str.split("/")
    return scans.assign(cohort=parts.str[0], modality=parts.str[-1])


def _spread(values: pd.Series) -> dict | None:
    finite = values.dropna().to_numpy(float)
    if not len(finite):
        return None
    low, median, high = np.quantile(finite, [0.05, 0.5, 0.95])
    return {"median": median, "low": low, "high": high}
