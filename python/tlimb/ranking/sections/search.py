"""How the search went, and what each setting did: progress against epochs, effects, importances, every path."""

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.effects import importances, marginal_means, parallel, settings_and_scores
from tlimb.ranking.figures import Series, axis, plot
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results

LIVE_FROM = 9  # points before it is worth pointing at them


def settings(results: Results, ranking: Ranking) -> dict:
    """{"effects", "importances", "parallel"}: what the page shows of the settings in which candidates differ."""
    effects = [one for one in marginal_means(ranking.candidates, results.trials) if len(one["values"]) > 1]
    for effect in effects:
        effect["axis"] = axis([score for group in effect["values"] for score in group["scores"]], count=2)
    columns, scores = settings_and_scores(ranking.candidates, results.trials)
    found = importances(columns, scores, results.sweep.get("search", {}).get("seed", 0))
    first = [row["name"] for row in found["settings"]] if found and found["explained"] > 0 else []
    effects.sort(key=lambda one: first.index(one["name"]) if one["name"] in first else len(first))
    return {"effects": effects, "importances": found, "parallel": parallel(columns, ranking.candidates, first)}


def progress(results: Results, ranking: Ranking, word: str) -> dict | None:
    """Best validation score so far against the epochs trained, a point for each candidate in the order of the search.

    None without a study and for fewer than 3 points.
    """
    points = _points(results, ranking) if results.study else []
    if len(points) < 3:
        return None
    trained, so_far = 0, None
    better = max if ranking.direction == "max" else min
    x, best = [], []
    for point in points:
        trained += point["epochs"]
        so_far = point["value"] if so_far is None else better(so_far, point["value"])
        x.append(trained)
        best.append(so_far)
    budgets = sorted({point["budget"] for point in points})
    series = [Series("best so far", *_steps(x, best), "c0", line=True, dots=False)]
    for place, budget in enumerate(budgets):
        at = [index for index, point in enumerate(points) if point["budget"] == budget]
        texts = [f"{points[index]['name']}, round {points[index]['round']}" for index in at]
        name = f"{budget} epochs" if len(budgets) > 1 else "candidates"
        y = [points[index]["value"] for index in at]
        series.append(Series(name, [x[index] for index in at], y, f"c{1 + place % 5}", texts=texts))
    label = f"Best {word} on validation so far: {best[0]:.3f} after {x[0]} epochs, {best[-1]:.3f} after {x[-1]}."
    titles = ("epochs trained, all trials together", f"{word} on validation")
    live = len(points) >= LIVE_FROM
    figure = plot("progress", series, titles=titles, label=label, x=axis([0, *x]), live=live)
    rungs = _rungs(points, ranking.metric) if len(budgets) > 1 else []
    return {"figure": figure, "rungs": rungs, "rounds": _rounds(points, ranking.metric)}


def _points(results: Results, ranking: Ranking) -> list[dict]:
    """{"round", "budget", "name", "value", "epochs"} of each candidate at each budget, in the search's order."""
    names = {row["candidate"]: row for row in ranking.candidates}
    points, spent = [], {}
    for number, point in ((one["round"], point) for one in results.study["rounds"] for point in one["points"]):
        row, before = names.get(point["candidate"]), spent.get(point["candidate"], 0)
        epochs = sum(_epochs(results, trial, point["budget"], before) for trial in point["trials"])
        spent[point["candidate"]] = max(before, point["budget"])
        value = _final(row, point["budget"]) if point.get("value") is None else point["value"]
        if value is not None:
            facts = {"round": number, "budget": point["budget"], "value": value, "epochs": epochs}
            points.append(facts | {"name": row["name"] if row else point["candidate"]})
    return points


def _final(row: dict | None, budget: int) -> float | None:
    """The value of a candidate that the study was not told any more, being of the last round: the ranking's."""
    return row["validation_mean"] if row and row.get("budget") in (None, budget) else None


def _epochs(results: Results, trial: str, budget: int, before: int) -> int:
    run = results.models.get(trial, {}).get("epochs_run", budget)
    return max(0, min(budget, run) - min(before, run))


def _steps(x: list, y: list) -> tuple[list, list]:
    """A line that changes in steps: at each x but the first, the value before and the value there."""
    pairs = [(x[0], y[0])]
    for index in range(1, len(x)):
        pairs += [(x[index], y[index - 1])] * (y[index] != y[index - 1]) + [(x[index], y[index])] * (
            y[index] != y[index - 1] or index == len(x) - 1
        )
    return [at for at, _ in pairs], [value for _, value in pairs]


def _rounds(points: list[dict], metric: str) -> list[dict]:
    return _summaries(points, "round", metric)


def _rungs(points: list[dict], metric: str) -> list[dict]:
    return _summaries(points, "budget", metric)


def _summaries(points: list[dict], key: str, metric: str) -> list[dict]:
    """For each round or rung: how many candidates it held, their epochs and the best of them."""
    best = max if DIRECTIONS[metric] == "max" else min
    rows = []
    for name in sorted({point[key] for point in points}):
        held = [point for point in points if point[key] == name]
        top = best(held, key=lambda point: point["value"])
        facts = {key: name, "candidates": len(held), "epochs": sum(point["epochs"] for point in held)}
        rows.append(facts | {"best": top["value"], "name": top["name"]})
    return rows
