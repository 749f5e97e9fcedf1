"""What was fitted on validation for the selected candidates: their operating points, and temperatures at a limit."""

from tlimb.evaluate_settings import Evaluate, OperatingPoint
from tlimb.evaluation.calibration import limit_of
from tlimb.evaluation.fitted import read_fitted
from tlimb.evaluation.operating_point import trivial, wanted
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results
from tlimb.ranking.sections.headline import second_classes


def operating_points(results: Results, ranking: Ranking) -> dict | None:
    """{"asked": in words, "set": whether it is a threshold of the user's own, "cases": target -> its second class,
    "rows": thresholds found, a row a selected candidate and target}; None without a target of two classes."""
    cases = second_classes(results)
    if not cases:
        return None
    asked = (results.sweep.get("evaluate") or {}).get("operating_point")
    point = OperatingPoint.model_validate(asked) if asked else Evaluate().operating_point
    rows = []
    for row in ranking.selected():
        for target, case in cases.items():
            found = fitted_of(results, row, target)
            if found:
                rows.append({"name": row["name"], "target": target} | _thresholds(found, case))
    return {"asked": wanted(point), "set": point.threshold is not None, "cases": cases, "rows": rows}


def _thresholds(fitted: list[dict], case: str) -> dict:
    """{"threshold", "scans": ranges over trials in words, "warning"}. fitted: what was fitted in each trial."""
    values = [one["threshold"] for one in fitted if one["threshold"] is not None]
    scans = [one["conformal"]["n"] for one in fitted if one["conformal"]]
    warnings = []
    for end in (0.0, 1.0):
        if end in values:
            among = f"{end:g}{_part(values.count(end), len(fitted))}"
            warnings.append(f"{among}: {trivial(end, case)}, so sensitivity and specificity tell nothing")
    if len(values) < len(fitted):
        warnings.append(f"none found{_part(len(fitted) - len(values), len(fitted))}")
    facts = {"threshold": _range(values), "scans": _range(scans), "trials": len(fitted)}
    return facts | {"warning": "; ".join(warnings)}


def temperature_limits(results: Results, ranking: Ranking) -> dict[str, str]:
    """Selected candidate -> `at its limit (20)`, and in how many of its trials; only those of which one is there."""
    found = {}
    for row in ranking.selected():
        fitted = fitted_of(results, row, ranking.target)
        ends = [limit for limit in (limit_of(one["temperature"]) for one in fitted) if limit is not None]
        if ends:
            named = " or ".join(f"{end:g}" for end in sorted(set(ends)))
            found[row["candidate"]] = f"at its limit ({named}){_part(len(ends), len(fitted))}"
    return found


def fitted_of(results: Results, row: dict, target: str) -> list[dict]:
    """What fitted.json says of a target, for each finished trial of a candidate that has one. row: of ranking.json."""
    finished = [trial["id"] for trial in row["trials"] if trial["status"] == "ok"]
    read = [read_fitted(results.scores_folder / key) for key in finished]
    return [one["targets"][target] for one in read if one and target in one["targets"]]


def _range(values: list) -> str:
    """`0.3`, `0.2 to 0.4`, or a dash."""
    ends = dict.fromkeys(f"{value:.3g}" if isinstance(value, float) else str(value) for value in sorted(values))
    named = list(ends)
    return "–" if not named else named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"


def _part(some: int, of: int) -> str:
    return "" if some == of else f" in {some} of {of} trials"
