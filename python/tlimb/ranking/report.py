"""report.html: one self-contained page that says what won, how surely, and how it came about."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, StrictUndefined

import tlimb
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS
from tlimb.files import digest
from tlimb.ranking import quality
from tlimb.ranking.answer import WORDS, decimals, is_scratch, rival, verdict
from tlimb.ranking.compare import Measure, mean_with_interval
from tlimb.ranking.effects import marginal_means
from tlimb.ranking.figures import axis, curves
from tlimb.ranking.montages import pictures
from tlimb.ranking.names import pretraining_names, trial_name
from tlimb.ranking.rank import Ranking, ranked_measure
from tlimb.ranking.results import Results

SHOWN = {"candidates": 40, "figure": 16, "panels": 12, "pretrainings": 40, "pictures": 12, "listed": 15, "failures": 40}
"""How many rows of each kind the page shows before it points to the files."""

PACKAGES = (
    "torch, lightning, monai, SimpleITK, nibabel, nilearn, numpy, scipy, pandas, scikit-learn, pyarrow, pydantic"
).split(", ")


def render(
    results: Results,
    ranking: Ranking,
    *,
    template: str,
    command: str,
    montages: Path | None = None,
    sites: dict[str, str] | None = None,
) -> str:
    """The page as HTML text, everything in it escaped.

    template: Jinja source.  command: the exact command of the run.  montages: folder of pictures of scans, as
    `tlimb.ranking.montages` reads it.  sites: scan_id -> site, where sites are known.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"num": number, "signed": signed, "duration": duration, "trial_name": trial_name}
    measure, groups = ranked_measure(results)[1], _pretraining_groups(results)
    context = {
        "ranking": ranking,
        "measure": measure,
        "words": WORDS,
        "digits": _digits(ranking),
        "shown": SHOWN,
        "facts": _facts(ranking),
        "dots": _dots(results, ranking),
        "comparisons": _comparisons(ranking),
        "classes": _classes(results, ranking),
        "every_metric": _every_metric(results, ranking, measure),
        "external": _external(results, ranking, measure),
        "model_curves": _model_curves(results, ranking),
        "pretrainings": _pretrainings(groups, results),
        "encoder_curves": _encoder_curves(groups, results),
        "effects": _effects(results, ranking),
        "splits": _splits(results, ranking),
        "cohort": results.cohort,
        "stores": results.stores,
        "quality": quality.summary(results.scans),
        "quality_groups": quality.by_group(results.scans, sites),
        "look": _to_look_at(results, montages),
        "versions": versions(),
        "command": command.strip(),
        "sweep": json.dumps(results.sweep, indent=2, ensure_ascii=False),
    }
    return environment.from_string(template).render(context)


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign and a fixed number of decimals, a dash where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """As `number`, with its sign always shown."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as `41 s`, `3.5 min` or `2.1 h`."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def versions() -> list[tuple[str, str]]:
    """(name, version) of tlimb, Python and the packages that do the work, without importing them."""
    found = [("tlimb", tlimb.__version__), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _to_look_at(results: Results, montages: Path | None) -> dict:
    """Scans worth a look, worst first: how many, those shown with a picture, and those that are listed."""
    rows = quality.to_look_at(results.scans)
    shown = pictures(montages, [(row["recipe"], row["scan_id"]) for row in rows[: SHOWN["pictures"]]])
    for row in rows:
        row["picture"] = shown.get((row["recipe"], row["scan_id"]))
    pictured, rest = [row for row in rows if row["picture"]], [row for row in rows if not row["picture"]]
    return {"n": len(rows), "pictured": pictured, "listed": rest[: SHOWN["listed"]]}


def _digits(ranking: Ranking) -> int:
    best = ranking.candidates[0]
    return decimals(best["test_low"], best["test_high"])


def _facts(ranking: Ranking) -> dict:
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


def _dots(results: Results, ranking: Ranking) -> dict | None:
    """The dot-and-interval figure: the first candidates and all selected ones, on one scale."""
    rows = [row for row in ranking.candidates if row["validation_mean"] is not None]
    rows = [row for place, row in enumerate(rows) if place < SHOWN["figure"] or row["selected"]]
    chance = _chance(results, ranking)
    names = ("validation_low", "validation_high", "validation_mean", "test_low", "test_high", "test_mean")
    values = [row[name] for row in rows for name in names] + [chance]
    values += [trial[name] for row in rows for trial in row["trials"] for name in ("validation", "test")]
    return {"rows": rows, "axis": axis(values), "chance": chance} if rows else None


def _chance(results: Results, ranking: Ranking) -> float | None:
    classes = len(_classes(results, ranking))
    known = {"balanced_accuracy": 1 / classes if classes else None, "auroc": 0.5, "mcc": 0.0, "r": 0.0, "r2": 0.0}
    return known.get(ranking.metric)


def _classes(results: Results, ranking: Ranking) -> list[str]:
    """The classes that the trials tell apart, which may be fewer than the samplesheet has; none in a regression."""
    scored = (results.scores(trial["id"], "validation") for trial in results.trials)
    targets = [scores["targets"][ranking.target] for scores in scored if scores and scores.get("status") == "ok"]
    return targets[0]["classes"] if targets else []


def _comparisons(ranking: Ranking) -> dict | None:
    names = {row["candidate"]: row for row in ranking.candidates}
    rows = [
        one | {"name": names[one["b"]]["name"], "strategy": names[one["b"]]["strategy"]}
        | {"verdict": verdict(one, ranking.metric)}
        for one in ranking.comparisons
    ]
    values = [row[name] for row in rows for name in ("difference", "low", "high")]
    return {"rows": rows, "axis": axis([*values, 0.0])} if rows else None


def _every_metric(results: Results, ranking: Ranking, measure: Measure) -> list[dict]:
    """Every metric of every target of the selected candidates on test, averaged over trials."""
    rows = []
    for target in results.trials[0]["spec"]["stages"][-1]["targets"]:
        kind = results.cohort["labels"][target]["kind"]
        for metric in METRICS[kind]:
            own = Measure(metric, kind, measure.resamples, measure.confidence, measure.seed)
            tables = [_scored_tables(results, row, "test", target) for row in ranking.selected()]
            cells = [mean_with_interval(found, own) for found in tables]
            digits = decimals(cells[0]["low"], cells[0]["high"]) if cells else 2
            facts = {"target": target, "metric": WORDS[metric], "direction": DIRECTIONS[metric]}
            rows.append(facts | {"cells": cells, "digits": digits})
    return rows


def _external(results: Results, ranking: Ranking, measure: Measure) -> list[dict]:
    """The ranked metric of the selected candidates on cohorts that were only ever tested on."""
    rows = []
    adapted = ["source"] if ranking.oracle else []
    for cohort in [*(one["cohort"] for one in results.sweep.get("evaluate", {}).get("external", [])), *adapted]:
        name = f"external-{cohort}"
        tables = [_scored_tables(results, row, name, ranking.target) for row in ranking.selected()]
        rows.append({"cohort": cohort, "cells": [mean_with_interval(found, measure) for found in tables]})
    return rows


def _scored_tables(results: Results, row: dict, name: str, target: str) -> list:
    finished = [trial["id"] for trial in row["trials"] if trial["status"] == "ok"]
    scored = [key for key in finished if (results.scores(key, name) or {}).get("status") == "ok"]
    return [results.predictions(key, name, target) for key in scored]


def _model_curves(results: Results, ranking: Ranking) -> list[dict]:
    panels = []
    for row in ranking.selected():
        histories = {trial_name(trial): results.model_history(trial["id"]) for trial in row["trials"]}
        panels.append(_panel(row["name"], histories))
    return [panel for panel in panels if panel]


def _pretraining_groups(results: Results) -> dict[str, list[dict]]:
    """Name -> lines of pretrainings that differ in nothing but their seed and what they start from."""
    grouped: dict[str, list[dict]] = {}
    for line in results.pretrainings:
        key = digest([line["spec"]["architecture"], line["spec"]["stage"]])
        grouped.setdefault(key, []).append(line)
    names = pretraining_names({key: lines[0] for key, lines in grouped.items()})
    return {names[key]: lines for key, lines in grouped.items()}


def _encoder_curves(groups: dict[str, list[dict]], results: Results) -> list[dict]:
    panels = []
    for name, lines in groups.items():
        runs = {f"seed {line['seed']}, {line['id'][:6]}": results.encoder_history(line["id"]) for line in lines}
        panels.append(_panel(name, runs))
    return [panel for panel in panels if panel]


def _panel(title: str, histories: dict) -> dict | None:
    found = curves({run: history for run, history in histories.items() if history is not None})
    return found and found | {"title": title, "runs": len(found["lines"]) // 2}


def _pretrainings(groups: dict[str, list[dict]], results: Results) -> list[dict]:
    """One row a pretraining, with the default metric of each of its targets on its own held-out part."""
    rows = []
    for name, line in [(name, line) for name, lines in groups.items() for line in lines]:
        encoder = results.encoders.get(line["id"], {"status": "failed"})
        row = {"id": line["id"], "name": name, "seed": line["seed"], "status": encoder["status"]}
        row |= {"scores": [], "persons": None}
        row |= {key: encoder.get(key) for key in ("best_epoch", "epochs_run", "seconds")}
        scores = results.pretraining_scores(line["id"]) if encoder["status"] == "ok" else None
        if scores and scores["status"] == "ok":
            row["persons"] = scores["n"]["persons"]
            row["scores"] = [_headline(target, facts) for target, facts in scores["targets"].items()]
            row["scores"] += _losses(scores.get("loss", {}))
        rows.append(row)
    return rows


def _headline(target: str, facts: dict) -> dict:
    metric = DEFAULT[facts["kind"]]
    found = facts["metrics"].get(metric) or {"value": None, "low": None, "high": None}
    return found | {"target": target, "metric": WORDS[metric], "digits": decimals(found["low"], found["high"])}


def _losses(losses: dict) -> list[dict]:
    """What a stage without targets minimises, on its held-out images."""
    words = {"mse": "mean squared error", "l1": "mean absolute error"}
    target = {name: "reconstruction" if name in words else "no labels" for name in losses}
    return [
        found | {"target": target[name], "metric": words.get(name, name), "digits": 4} for name, found in losses.items()
    ]


def _effects(results: Results, ranking: Ranking) -> list[dict]:
    effects = marginal_means(ranking.candidates, results.trials)
    for effect in effects:
        effect["axis"] = axis([score for group in effect["values"] for score in group["scores"]], count=4)
    return [effect for effect in effects if len(effect["values"]) > 1]


def _splits(results: Results, ranking: Ranking) -> list[dict]:
    """Each split of the selected candidates with the persons of its roles, from the first finished trial on it."""
    lines = {trial["id"]: trial for trial in results.trials}
    rows: dict[str, dict] = {}
    for row in ranking.selected():
        for trial in row["trials"]:
            split = lines[trial["id"]]["split"]
            if trial["status"] == "ok" and split not in rows:
                persons = {name: _persons(results, trial["id"], name) for name in ("validation", "test")}
                train = results.models[trial["id"]].get("n", {}).get("train")
                part = trial_name(trial).split(", ")[1:]
                facts = {"split": split, "spec": row["spec"].get("split", {}), "part": part, "train": train}
                rows[split] = facts | persons
    return list(rows.values())


def _persons(results: Results, trial: str, name: str) -> int | None:
    return ((results.scores(trial, name) or {}).get("n") or {}).get("persons")
