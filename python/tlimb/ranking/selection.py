"""Candidates of a search and the choice among them, from validation scores alone: no test file is read here."""

import statistics

from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS
from tlimb.ranking.compare import Measure
from tlimb.ranking.names import candidate_names, strategy_of
from tlimb.ranking.results import KEY, Results, key_of
from tlimb.registry import class_name
from tlimb.scores import metric_of
from tlimb.splits import candidate_spec


def ranked_measure(results: Results) -> tuple[str, Measure]:
    """The target of the last stage (the first where there are several), and how candidates are measured on it."""
    target = results.trials[0]["spec"]["stages"][-1]["targets"][0]
    if target not in results.cohort["labels"]:
        known = nearest(target, results.cohort["labels"])
        raise InputError([Problem("cohort.json: labels", f"no label '{target}', the target of the last stage", known)])
    kind = results.cohort["labels"][target]["kind"]
    metric = results.sweep.get("search", {}).get("metric") or DEFAULT[kind]
    if metric not in METRICS[kind]:
        message = f"'{metric}' is no metric of {kind}, the kind of '{target}'"
        raise InputError([Problem("search.metric", message, nearest(metric, METRICS[kind]))])
    settings = results.sweep.get("evaluate", {})
    return target, Measure(
        metric, kind, settings.get("bootstrap", 1000), settings.get("confidence", 0.95), settings.get("seed", 0)
    )


def ranked_candidates(results: Results, target: str, measure: Measure) -> list[dict]:
    """The rows of ranking.json, best first, their trials with validation scores; nothing of the test set.

    Intervals are the means of the trials' own as EVALUATE wrote them ("interval": "trials").

    Fully trained candidates first, then those that have trained longer; in these by the mean of the metric over
    finished trials, those with a failed trial after the others; ties go to fewer parameters, then to the lower id.
    """
    grouped: dict[str, list[dict]] = {}
    for trial in results.trials:
        grouped.setdefault(trial["candidate"], []).append(trial)
    space = results.sweep.get("search", {}).get("space", {})
    names = candidate_names({candidate: trials[0] for candidate, trials in sorted(grouped.items())}, space)
    rows = [
        _candidate(results, candidate, names[candidate], trials, target, measure.metric)
        for candidate, trials in grouped.items()
    ]
    direction = DIRECTIONS[measure.metric]
    rows.sort(key=lambda row: preference(row["validation_mean"], row["failed"], row, direction))
    for place, row in enumerate(rows, start=1):
        row["rank"] = place
    return rows


def select(candidates: list[dict]) -> list[dict]:
    """Mark the best candidate and the first of each other strategy; those without a finished trial never count.

    candidates: rows of `ranked_candidates`. The marked ones, the best first; none where nothing finished.
    """
    selected: dict[str, dict] = {}
    for row in candidates:
        if row["validation_mean"] is not None and row["strategy"] not in selected:
            row["selected"] = f"best of {row['strategy']}" if selected else "best"
            selected[row["strategy"]] = row
    return list(selected.values())


def preference(mean: float | None, failed: int, row: dict, direction: str) -> tuple:
    """A key that sorts candidates, the best first: finished, longest trained, without failed trials, by mean, smaller,
    by lower id."""
    size = row["parameters"] if row["parameters"] is not None else float("inf")
    return (*standing(mean, failed, row), 0 if mean is None else _signed(mean, direction), size, row["candidate"])


def standing(mean: float | None, failed: int, row: dict) -> tuple:
    """What places candidates before any score does; only those of equal standing are compared by score."""
    return (mean is None, -row["budget"] / row["epochs"] if row["epochs"] else 0.0, failed > 0)


def tied(candidates: list[dict], direction: str) -> list[dict]:
    """The other candidates that have the best one's score on validation, to 12 decimals, and stand like it."""
    if not candidates or candidates[0]["validation_mean"] is None:
        return []

    def key(row):
        mean = row["validation_mean"]
        return (*standing(mean, row["failed"], row), None if mean is None else _signed(mean, direction))

    return [row for row in candidates[1:] if key(row) == key(candidates[0])]


def _signed(mean: float, direction: str) -> float:
    return round(-mean if direction == "max" else mean, 12)


def _candidate(results: Results, candidate: str, name: str, trials: list[dict], target: str, metric: str) -> dict:
    found = [_outcome(results, trial, target, metric) for trial in trials]
    found.sort(key=lambda one: [-1 if value is None else value for value in key_of(one[0])])
    outcomes, scored = [one for one, _ in found], [score for one, score in found if one["status"] == "ok"]
    values = [outcome["validation"] for outcome in outcomes if outcome["status"] == "ok"]
    models = [results.models[outcome["id"]] for outcome in outcomes if outcome["id"] in results.models]
    sizes = [model["parameters"] for model in models if model.get("parameters")]
    seconds = [model["seconds"] for model in models if model.get("seconds") is not None]
    return {
        "rank": 0,
        "candidate": candidate,
        "name": name,
        "strategy": strategy_of(trials[0]),
        "architecture": class_name(trials[0]["spec"]["architecture"]),
        "trials": outcomes,
        "failed": len(outcomes) - len(values),
        "metric": metric,
        "validation_mean": statistics.fmean(values) if values else None,
        "validation_sd": statistics.stdev(values) if len(values) > 1 else None,
        "validation_low": _mean_end(scored, "low"),
        "validation_high": _mean_end(scored, "high"),
        "selected": "",
        "test_mean": None,
        "test_low": None,
        "test_high": None,
        "parameters": sizes[0]["total"] if sizes else None,
        "trainable": sizes[0]["trainable"] if sizes else None,
        "seconds": sum(seconds) if seconds else None,
        "pretraining_seconds": None,
        "budget": min(trial["budget"] for trial in trials),
        "epochs": trials[0]["spec"]["stages"][-1]["epochs"],
        "interval": "trials" if values else "",
        "told_apart": None,
        "p": None,
        "pareto": None,
        "spec": candidate_spec(trials[0]["spec"]),
    }


def _mean_end(scored: list[dict], end: str) -> float | None:
    ends = [score.get(end) for score in scored]
    return statistics.fmean(ends) if ends and None not in ends else None


def _outcome(results: Results, trial: dict, target: str, metric: str) -> tuple[dict, dict]:
    """A trial as it stands in ranking.json, and its score; one without a score on validation counts as failed."""
    model, scores = results.models.get(trial["id"]), results.scores(trial["id"], "validation")
    score, reason = metric_of(scores, target, metric), ""
    if model is None:
        reason = "no result was written"
    elif model["status"] != "ok":
        reason = model["reason"]
    elif scores is None:
        reason = "no validation scores were written"
    elif scores["status"] != "ok":
        reason = scores["reason"]
    elif score.get("value") is None:
        reason = f"{metric} can't be computed on validation"
    key = {name: trial["spec"]["seed"] if name == "seed" else trial["spec"]["split"][name] for name in KEY}
    facts = {"status": "failed" if reason else "ok", "reason": reason}
    return {"id": trial["id"]} | key | facts | {"validation": None if reason else score["value"], "test": None}, score
