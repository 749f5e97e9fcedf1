"""For whom and how surely: groups of people, calibration, prediction sets, gaps of age and ensembles."""

from tlimb.ranking.figures import Axis, Series, axis, plot
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results
from tlimb.ranking.sections.operating import temperature_limits

MOST_CURVES = 4
MOST_GROUPS = 12


def set_name(name: str) -> str:
    """A set as the page calls it: `test`, or the name of an external cohort."""
    return name.removeprefix("external-")


def groups(ranking: Ranking) -> dict | None:
    """{"panels", "small", "rows"}: scores by group of the best candidate, `apart` the worst one where it differs from
    everybody else; what has no group large enough for a score; and the worst group of every selected candidate."""
    found = [one for one in ranking.groups or [] if one["groups"]]
    if not found:
        return None
    panels = []
    for one in (one for one in found if one["candidate"] == ranking.best):
        known = [group for group in one["groups"] if group["value"] is not None][:MOST_GROUPS]
        values = [group[name] for group in known for name in ("value", "low", "high")] + [one["value"]]
        few = [group for group in one["groups"] if group["value"] is None]
        panels.append(one | {"known": known, "few": few, "axis": axis(values, count=2)})
        panels[-1] |= {"set_name": set_name(one["set"]), "apart": worst_apart(one["worst"])}
    rows = [one | {"set_name": set_name(one["set"])} for one in found if one["worst"]]
    drawn, small = ([one for one in panels if bool(one["known"]) == known] for known in (True, False))
    return {"panels": drawn, "small": small, "rows": rows}


def worst_apart(worst: dict | None) -> str | None:
    """The worst group where the interval of its difference from everybody else leaves 0 out; else None."""
    known = worst and worst["low"] is not None and worst["high"] is not None
    return worst["group"] if known and not worst["low"] <= 0 <= worst["high"] else None


def calibration(results: Results, ranking: Ranking) -> dict | None:
    """{"figures", "rows"}: reliability curves of selected candidates on test, scores before and after scaling; `limit`
    of a row says where its temperature is an end of what is looked at."""
    found = ranking.calibration or []
    if not found:
        return None
    tested = [one for one in found if one["set"] == "test"][:MOST_CURVES]
    limits = temperature_limits(results, ranking)
    rows = [one | {"set_name": set_name(one["set"]), "limit": limits.get(one["candidate"], "")} for one in found]
    return {"figures": [(one["name"], _reliability(one)) for one in tested], "rows": rows, "of": found[0]["of"]}


def _reliability(facts: dict) -> dict:
    unit = Axis(0, 1, [(20 * step, f"{step / 5:g}") for step in range(6)])
    series = [Series("as sure as right", [0, 1], [0, 1], "c5", line=True, dots=False, dashed=True)]
    for part, name, kind in (("before", "as trained", "c1"), ("after", "after temperature scaling", "c0")):
        columns = {key: [one[key] for one in facts[part]["bins"]] for key in ("confidence", "observed", "low", "high")}
        more = {"low": columns["low"], "high": columns["high"]} if part == "after" else {}
        series.append(Series(name, columns["confidence"], columns["observed"], kind, line=True, **more))
    errors = [facts[part]["calibration_error"] for part in ("before", "after")]
    said = f"calibration error {errors[0]:.3f} as trained, {errors[1]:.3f} after scaling"
    label = f"Reliability of {facts['name']} on test: {said}."
    titles = (facts["of"], "observed share")
    return plot(f"calibration-{facts['candidate']}", series, titles=titles, label=label, x=unit, y=unit)


def named_sets(ranking: Ranking, key: str) -> list[dict]:
    """The rows of one list of ranking.json with the set's name for reading."""
    return [row | {"set_name": set_name(row["set"])} for row in getattr(ranking, key) or []]
