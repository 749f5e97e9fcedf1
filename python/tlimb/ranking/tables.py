"""The report's tables as CSV, a row a number, for whoever wants to draw or test them otherwise."""

from pathlib import Path

import pandas as pd

from tlimb.files import write_csv
from tlimb.ranking.effects import marginal_means


def write_tables(document: dict, trials: list[dict], out: Path) -> list[str]:
    """Write <name>.csv under `out` for every table that ranking.json has the numbers of; their names.

    document: the content of ranking.json. trials: lines of trials.jsonl, of which the settings come.
    """
    tables = {"settings": _settings(document, trials)} | {name: make(document) for name, make in TABLES.items()}
    written = []
    for name, rows in tables.items():
        if rows:
            write_csv(out / f"{name}.csv", pd.DataFrame(rows))
            written.append(name)
    return written


def _settings(document: dict, trials: list[dict]) -> list[dict]:
    """Marginal means of the validation score by setting and value."""
    return [
        {"setting": effect["name"], "value": group["value"]}
        | {"candidates": len(group["scores"]), "validation_mean": group["mean"]}
        for effect in marginal_means(document["candidates"], trials)
        for group in effect["values"]
    ]


def _comparisons(document: dict) -> list[dict]:
    names = {row["candidate"]: row["name"] for row in document["candidates"]}
    rows = []
    for one in document["comparisons"]:
        row = {"a": one["a"], "a_name": names[one["a"]], "b": one["b"], "b_name": names[one["b"]], "set": one["set"]}
        row |= {key: one[key] for key in ("difference", "low", "high", "n_persons", "trials")}
        for test, found in one.get("tests", {}).items():
            row |= {f"{test}_{key}": found and found[key] for key in ("p", "p_holm")}
        rows.append(row)
    return rows


IDS = ("candidate", "name", "set")


def _groups(document: dict) -> list[dict]:
    return [
        {key: one[key] for key in (*IDS, "column", "metric")} | group
        for one in document.get("groups") or []
        for group in [{"group": "everybody"} | {key: one[key] for key in SCORE}, *one["groups"]]
    ]


def _calibration(document: dict) -> list[dict]:
    """A row a bin, with what stands for the whole curve beside it."""
    return [
        {key: one[key] for key in (*IDS, "of", "temperature")}
        | {"scaled": part == "after", **{key: one[part][key] for key in ("brier", "log_loss", "calibration_error")}}
        | found
        for one in document.get("calibration") or []
        for part in ("before", "after")
        for found in one[part]["bins"]
    ]


def _age_bias(document: dict) -> list[dict]:
    return [
        {key: one[key] for key in (*IDS, "slope", "corrected_slope")} | group
        for one in document.get("age_bias") or []
        for group in [{"column": "", "group": "everybody"} | {key: one[key] for key in GAP}, *one["groups"]]
    ]


def _ensembles(document: dict) -> list[dict]:
    rows = []
    for one in document.get("ensembles") or []:
        row = {key: one[key] for key in (*IDS, "over", "members", "metric", "n_persons")}
        for part in ("ensemble", "single", "difference", "uncertainty"):
            row |= {f"{part}_{key}": value for key, value in (one[part] or {}).items()}
        rows.append(row)
    return rows


def _learning_curves(document: dict) -> list[dict]:
    return [
        {"strategy": curve["strategy"], "curve": curve["fit"]["status"]} | {key: point[key] for key in POINT}
        for curve in (document.get("learning_curves") or {}).get("curves", [])
        for point in curve["points"]
    ]


def _transferability(document: dict) -> list[dict]:
    rows = []
    for one in (document.get("transferability") or {}).get("encoders", []):
        row = {key: one[key] for key in ("id", "name", "random", "status")} | one["scores"]
        row |= {f"probe_{name}": value for name, value in (one["probe"] or {}).items()}
        rows.append(row | {f"fine_tuned_{name}": found["mean"] for name, found in one["fine_tuned"].items()})
    return rows


def _harmonised(document: dict) -> list[dict]:
    """A row a network and metric, on test people."""
    rows = []
    for one in document.get("harmonised") or []:
        about = {key: one[key] for key in ("candidate", "name", "trial", "column", "unharmonised")} | {"set": "test"}
        about |= {f"n_{part}": count for part, count in one["n"].items()}
        about |= {f"site_{key}": value for key, value in (one["site"] or {}).items()}
        for metric in (one["test"] or {}).get("before", {}):
            row = about | {"metric": metric}
            for part, found in one["test"].items():
                row |= {f"{part}_{key}": value for key, value in (found[metric] or {}).items()}
            rows.append(row)
    return rows


SCORE = ("n_persons", "value", "low", "high")
POINT = ("n", "mean", "sd", "low", "high", "validation", "replicates")
GAP = ("n_persons", "gap", "low", "high", "uncorrected")
TABLES = {
    "comparisons": _comparisons,
    "groups": _groups,
    "calibration": _calibration,
    "conformal": lambda document: document.get("conformal") or [],
    "age-bias": _age_bias,
    "learning-curves": _learning_curves,
    "transferability": _transferability,
    "harmonised": _harmonised,
    "ensembles": _ensembles,
}
"""Name of the file -> rows of ranking.json for it."""
