"""The answer's figures, the ranking's dots and the scores of what was selected."""

import numpy as np
import pandas as pd

from tlimb.evaluation.metrics import DIRECTIONS, METRICS, WITHOUT_INTERVAL
from tlimb.ranking import cautions
from tlimb.ranking.answer import WORDS, decimals, is_scratch, rival, verdict
from tlimb.ranking.compare import Measure, mean_with_interval
from tlimb.ranking.figures import axis
from tlimb.ranking.rank import Ranking
from tlimb.ranking.results import Results

MOST_DOTS = 16
TESTS = {"bootstrap": "Paired bootstrap", "resampled_t": "Corrected resampled t", "delong": "DeLong (ROC area)"}
CHANCE = {"auroc": 0.5, "mean_auroc": 0.5, "c_index": 0.5}
CHANCE |= dict.fromkeys(("mcc", "r", "r2", "icc", "quadratic_kappa"), 0.0)


def facts(ranking: Ranking) -> dict:
    """The figures under the answer: best and rival candidates, their comparison, counts of trials."""
    found = rival(ranking.candidates, ranking.comparisons)
    total = sum(len(row["trials"]) for row in ranking.candidates)
    facts = {"total": total, "failed": sum(row["failed"] for row in ranking.candidates), "best": ranking.candidates[0]}
    facts |= {"rival": None, "comparison": None, "verdict": "", "scratch": False}
    if found:
        comparison, other = found
        facts |= {"rival": other, "comparison": comparison, "scratch": is_scratch(other)}
        facts["verdict"] = verdict(comparison, ranking.metric)
    return facts


def digits(ranking: Ranking) -> int:
    """Decimals of the ranked metric: what the best candidate's interval on test deserves."""
    best = ranking.candidates[0]
    return decimals(best["test_low"], best["test_high"])


def filters(ranking: Ranking) -> dict[str, list[str]]:
    """What the table of candidates can be narrowed to: the strategies and architectures in it."""
    names = ("strategy", "architecture")
    return {name: sorted({row[name] for row in ranking.candidates}) for name in names}


def dots(results: Results, ranking: Ranking) -> dict | None:
    """The dot-and-interval figure: the first candidates and all selected ones, on one scale."""
    rows = [row for row in ranking.candidates if row["validation_mean"] is not None]
    rows = [row for place, row in enumerate(rows) if place < MOST_DOTS or row["selected"]]
    baseline = chance(results, ranking)
    names = ("validation_low", "validation_high", "validation_mean", "test_low", "test_high", "test_mean")
    values = [row[name] for row in rows for name in names]
    values += [trial[name] for row in rows for trial in row["trials"] for name in ("validation", "test")]
    values.append(baseline and baseline["value"])
    return {"rows": rows, "axis": axis(values), "chance": baseline} if rows else None


def chance(results: Results, ranking: Ranking) -> dict | None:
    """{"value", "name"}: the ranked metric of a guess that looks at no image; None where it is not known."""
    if ranking.metric == "balanced_accuracy":
        names = classes(results, ranking.target)
        return {"value": 1 / len(names), "name": "chance"} if names else None
    if ranking.metric in ("mae", "rmse"):
        return _mean_predictor(results, ranking)
    value = CHANCE.get(ranking.metric)
    name = "always saying the mean" if ranking.metric == "r2" else "chance"
    return None if value is None else {"value": value, "name": name}


def _mean_predictor(results: Results, ranking: Ranking) -> dict | None:
    """The error of always saying the training mean, on the persons of the best candidate's first trial on test."""
    for trial in (trial for row in ranking.selected() for trial in row["trials"] if trial["test"] is not None):
        learnt = results.models.get(trial["id"], {}).get("targets", {}).get(ranking.target, {}).get("mean")
        if learnt is not None:
            error = results.predictions(trial["id"], "test", ranking.target)["truth"].to_numpy(float) - learnt
            value = np.abs(error).mean() if ranking.metric == "mae" else np.sqrt(np.mean(error**2))
            return {"value": float(value), "name": "always saying the mean"}
    return None


def classes(results: Results, target: str) -> list[str]:
    """The classes that the trials tell apart, which may be fewer than the samplesheet has; none in a regression."""
    for trial in results.trials:
        scores = results.scores(trial["id"], "validation")
        if scores and scores.get("status") == "ok":
            return scores["targets"].get(target, {}).get("classes", [])
    return []


def comparisons(ranking: Ranking) -> dict | None:
    """The comparisons on test with names and verdicts, an axis, and (key, name) of the tests that were made."""
    names = {row["candidate"]: row for row in ranking.candidates}
    rows = [
        one | {"name": names[one["b"]]["name"], "strategy": names[one["b"]]["strategy"]}
        | {"verdict": verdict(one, ranking.metric), "budget": _fewer(names[one["b"]])}
        for one in ranking.comparisons
    ]
    values = [row[name] for row in rows for name in ("difference", "low", "high")]
    tests = [(key, name) for key, name in TESTS.items() if any(row.get("tests", {}).get(key) for row in rows)]
    return {"rows": rows, "axis": axis([*values, 0.0]), "tests": tests} if rows else None


def _fewer(row: dict) -> str:
    """The epochs of a candidate that was trained for fewer than asked for, else nothing."""
    return f"{row['budget']} of {row['epochs']} epochs" if (row["budget"] or 0) < (row["epochs"] or 0) else ""


def friedman(ranking: Ranking) -> dict | None:
    """ranking.json's `friedman` with an axis and, for each group that can't be told apart, the ends of its bar."""
    found = ranking.friedman
    if not found:
        return None
    rows = {row["candidate"]: row for row in found["ranks"]}
    bars = []
    for group in found["groups"]:
        places = [rows[candidate]["mean_rank"] for candidate in group]
        named = [rows[candidate]["name"] for candidate in group]
        bars.append({"low": min(places), "high": max(places), "names": named})
    return found | {"axis": axis([1.0, float(len(rows))]), "bars": [bar for bar in bars if len(bar["names"]) > 1]}


def no_interval(results: Results, ranking: Ranking, measure: Measure) -> dict[str, str]:
    """Selected candidate -> why its test score has no interval, where it lacks one that its metric could have."""
    found = {}
    for row in ranking.selected():
        if row["test_mean"] is not None and row["test_low"] is None and ranking.metric not in WITHOUT_INTERVAL:
            reason = cautions.no_interval(_tables(results, row, "test", ranking.target), measure)
            found[row["candidate"]] = f"no interval: {reason}"
    return found


def every_metric(results: Results, ranking: Ranking, measure: Measure) -> list[dict]:
    """Every metric of every target of the selected candidates on test, averaged over trials."""
    rows = []
    for target in results.trials[0]["spec"]["stages"][-1]["targets"]:
        kind = results.cohort["labels"][target]["kind"]
        tables = [_tables(results, row, "test", target) for row in ranking.selected()]
        for metric in METRICS[kind]:
            own = Measure(metric, kind, measure.resamples, measure.confidence, measure.seed)
            cells = [mean_with_interval(found, own) for found in tables]
            if metric in WITHOUT_INTERVAL:
                cells = [cell | {"low": None, "high": None} for cell in cells]
            places = decimals(cells[0]["low"], cells[0]["high"]) if cells else 2
            facts = {"target": target, "metric": WORDS[metric], "direction": DIRECTIONS[metric]}
            rows.append(facts | {"cells": cells, "digits": places})
    return rows


def second_classes(results: Results) -> dict[str, str]:
    """Target -> the class that F1, precision and sensitivity speak of, for targets of two classes."""
    targets = results.trials[0]["spec"]["stages"][-1]["targets"]
    names = {target: classes(results, target) for target in targets}
    return {target: found[1] for target, found in names.items() if len(found) == 2}


def external(results: Results, ranking: Ranking, measure: Measure) -> list[dict]:
    """The ranked metric of the selected candidates on cohorts that were only ever tested on."""
    rows = []
    adapted = ["external-source"] if ranking.oracle else []
    for name in [*results.external_sets(), *adapted]:
        tables = [_tables(results, row, name, ranking.target) for row in ranking.selected()]
        cells = [mean_with_interval(found, measure) for found in tables]
        rows.append({"cohort": name.removeprefix("external-"), "cells": cells})
    return rows


def _tables(results: Results, row: dict, name: str, target: str) -> list[pd.DataFrame]:
    return list(results.tables(row["trials"], name, target).values())
