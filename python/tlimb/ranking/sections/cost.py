"""What candidates cost beside what they score."""

from tlimb.ranking.figures import Series, plot, spread_axis
from tlimb.ranking.rank import Ranking
from tlimb.ranking.sections.search import LIVE_FROM

COSTS = {"hours": "training time with pretraining (hours)", "parameters": "parameters (millions)"}


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
    if key == "hours":
        return (row["seconds"] + row["pretraining_seconds"]) / 3600
    return row["parameters"] / 1e6 if row["parameters"] else None


def _against(rows: list[dict], key: str, word: str) -> dict:
    rows = [row for row in rows if _cost(row, key)]
    front = sorted((row for row in rows if row["pareto"]), key=lambda row: _cost(row, key))
    rest = [row for row in rows if not row["pareto"]]
    series = [
        Series(name, *_columns(part, key), kind, texts=[row["name"] for row in part])
        for name, part, kind in (("other candidates", rest, "c5"), ("on the front", front, "c0"))
        if part
    ]
    label = f"{word} on validation against {COSTS[key]} of {len(rows)} candidates."
    titles = (COSTS[key], f"{word} on validation")
    x = spread_axis([_cost(row, key) for row in rows])
    return plot(f"cost-{key}", series, titles=titles, label=label, x=x, live=len(rows) >= LIVE_FROM)


def _columns(rows: list[dict], key: str) -> tuple[list, list]:
    return [_cost(row, key) for row in rows], [row["validation_mean"] for row in rows]
