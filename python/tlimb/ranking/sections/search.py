"""How the search went, and what each setting did: progress against epochs, effects, importances, every path."""

from itertools import accumulate

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.effects import importances, marginal_means, parallel, settings_and_scores
from tlimb.ranking.figures import Series, axis, plot
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results

LEAST_POINTS = 3
LIVE_FROM = 9  # points before it is worth pointing at them


def settings(results: Results, candidates: list[dict]) -> dict:
    """{"effects", "importances", "parallel"}: what is shown of the settings in which candidates differ, those that
    matter most first. candidates: rows of ranking.json."""
    effects = [one for one in marginal_means(candidates, results.trials) if len(one["values"]) > 1]
    for effect in effects:
        effect["axis"] = axis([score for group in effect["values"] for score in group["scores"]], count=2)
    columns, scores = settings_and_scores(candidates, results.trials)
    found = importances(columns, scores, results.sweep.get("search", {}).get("seed", 0))
    first = [row["name"] for row in found["settings"]] if found and found["explained"] > 0 else []
    effects.sort(key=lambda one: first.index(one["name"]) if one["name"] in first else len(first))
    return {"effects": effects, "importances": found, "parallel": parallel(columns, candidates, first)}


def progress(results: Results, ranking: Ranking, word: str) -> dict | None:
    """Best validation score so far against the epochs trained, a point for each candidate in the order of the search.

    None without a study and for fewer than 3 points.
    """
    points = search_points(results, ranking.candidates)
    if len(points) < LEAST_POINTS:
        return None
    budgets = sorted({point["budget"] for point in points})
    kinds = {budget: f"c{1 + place % 5}" for place, budget in enumerate(budgets)}
    lines = best_so_far(points, ranking.direction)
    series = [
        Series(one["name"], *_steps(one["x"], one["y"]), kinds.get(one["budget"], "c0"), line=True, dots=False)
        for one in lines
    ]
    for budget in budgets:
        held = [point for point in points if point["budget"] == budget]
        texts = [f"{point['name']}, round {point['round']}" for point in held]
        name = f"{budget} epochs" if len(budgets) > 1 else "candidates"
        x, y = ([point[key] for point in held] for key in ("trained", "value"))
        series.append(Series(name, x, y, kinds[budget], texts=texts))
    titles = ("epochs trained, all trials together", f"{word} on validation")
    more = {"label": _in_words(lines, word), "x": axis([0, *(point["trained"] for point in points)])}
    figure = plot("progress", series, titles=titles, live=len(points) >= LIVE_FROM, **more)
    rungs = _rungs(points, ranking.metric) if len(budgets) > 1 else []
    return {"figure": figure, "rungs": rungs, "rounds": _rounds(points, ranking.metric)}


def search_points(results: Results, candidates: list[dict]) -> list[dict]:
    """{"round", "budget", "name", "value", "epochs", "trained", "full"} of each candidate at each budget, in the
    search's order: epochs that it took, epochs of all until then, whether it was fully trained. candidates: rows of
    ranking.json. None of them without a study."""
    rows = {row["candidate"]: row for row in candidates}
    points, spent, trained = [], {}, 0
    study = results.study or {"rounds": []}
    for number, point in ((one["round"], point) for one in study["rounds"] for point in one["points"]):
        row, before = rows.get(point["candidate"]), spent.get(point["candidate"], 0)
        epochs = sum(_epochs(results, trial, point["budget"], before) for trial in point["trials"])
        spent[point["candidate"]] = max(before, point["budget"])
        value = _final(row, point["budget"]) if point.get("value") is None else point["value"]
        if value is not None:
            trained += epochs
            facts = {"round": number, "budget": point["budget"], "value": value, "epochs": epochs, "trained": trained}
            full = point["budget"] >= (row or study)["epochs"]
            points.append(facts | {"full": full, "name": row["name"] if row else point["candidate"]})
    return points


def best_so_far(points: list[dict], direction: str) -> list[dict]:
    """{"name", "budget", "x", "y"}: the best value until each point, over the epochs trained by then.

    One line of fully trained candidates (budget None) once there are any, else one for each budget: what some reach in
    few epochs is not what others reach in many. points: of `search_points`.
    """
    better, budgets = max if direction == "max" else min, sorted({point["budget"] for point in points})
    held = {None: [point for point in points if point["full"]]}
    if not held[None]:
        held = {budget: [point for point in points if point["budget"] == budget] for budget in budgets}
    lines = []
    for budget, part in held.items():
        of = ", fully trained" if budget is None else f", {budget} epochs"
        y = list(accumulate((point["value"] for point in part), better))
        name = "best so far" + of * (len(budgets) > 1)
        lines.append({"name": name, "budget": budget, "x": [point["trained"] for point in part], "y": y})
    return lines


def _in_words(lines: list[dict], word: str) -> str:
    def told(one: dict) -> str:
        x, y = one["x"], one["y"]
        return f"{one['name']}: {y[0]:.3f} after {x[0]} epochs, {y[-1]:.3f} after {x[-1]}"

    return f"{word} on validation, {'; '.join(map(told, lines))}."


def _final(row: dict | None, budget: int) -> float | None:
    """The value of a candidate that the study was not told any more, being of the last round: the ranking's."""
    return row["validation_mean"] if row and row["budget"] == min(budget, row["epochs"]) else None


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
