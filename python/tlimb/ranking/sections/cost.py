"""What candidates cost beside what they score."""

from tlimb.ranking.figures import Series, plot, spread_axis
from tlimb.ranking.rank import Ranking
from tlimb.ranking.sections.search import LIVE_FROM

COSTS = ("time", "parameters")


def time_unit(seconds: list[float]) -> tuple[float, str]:
    """(seconds in it, its name) of the unit in which the longest of some times is no small fraction."""
    longest = max(seconds, default=0.0)
    if longest < 120:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 7200 else (3600.0, "hours")


def cost(ranking: Ranking, word: str) -> dict | None:
    """{"figures": score against each cost, "totals": ranking.json's `cost`}; None where no cost is known.

    Figures show the candidates that were held against each other, those of which ranking.json knows `pareto`.
    """
    rows = [row for row in ranking.candidates if row.get("pareto") is not None]
    totals = ranking.cost
    if not rows and not totals:
        return None
    figures = [_against(rows, key, word) for key in COSTS if len({_cost(row, key) for row in rows}) > 1]
    front = [row for row in rows if row["pareto"]]
    return {"figures": figures, "totals": totals, "front": front, "left_out": len(ranking.candidates) - len(rows)}


def _cost(row: dict, key: str) -> float | None:
    if key == "time":
        return row["seconds"] + row["pretraining_seconds"]
    return row["parameters"] / 1e6 if row["parameters"] else None


def _against(rows: list[dict], key: str, word: str) -> dict:
    rows = [row for row in rows if _cost(row, key)]
    size, title = 1.0, "parameters (millions)"
    if key == "time":
        size, unit = time_unit([_cost(row, key) for row in rows])
        title = f"training time with pretraining ({unit})"
    front = sorted((row for row in rows if row["pareto"]), key=lambda row: _cost(row, key))
    rest = [row for row in rows if not row["pareto"]]
    series = [
        Series(name, *_columns(part, key, size), kind, texts=[row["name"] for row in part])
        for name, part, kind in (("other candidates", rest, "c5"), ("on the front", front, "c0"))
        if part
    ]
    label = f"{word} on validation against {title} of {len(rows)} candidates."
    titles = (title, f"{word} on validation")
    x = spread_axis(_columns(rows, key, size)[0])
    return plot(f"cost-{key}", series, titles=titles, label=label, x=x, live=len(rows) >= LIVE_FROM)


def _columns(rows: list[dict], key: str, size: float) -> tuple[list, list]:
    return [_cost(row, key) / size for row in rows], [row["validation_mean"] for row in rows]
