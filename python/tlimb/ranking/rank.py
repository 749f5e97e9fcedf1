"""Selection on validation, then test scores of what was selected and nothing else."""

import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field

from tlimb.errors import InputError, Problem, nearest
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS
from tlimb.ranking.answer import answer, cautions
from tlimb.ranking.compare import Measure, mean_with_interval, paired_difference
from tlimb.ranking.names import candidate_names, strategy_of
from tlimb.ranking.nested import nested_estimate, preference
from tlimb.ranking.oracle import oracle_choice
from tlimb.ranking.results import KEY, Results, key_of
from tlimb.ranking.starts import published_notes
from tlimb.registry import class_name
from tlimb.splits import candidate_spec

COLUMNS = (
    "rank, candidate, name, strategy, architecture, trials, failed, metric, validation_mean, validation_sd, "
    "validation_low, validation_high, selected, test_mean, test_low, test_high, parameters, trainable, seconds"
).split(", ")


@dataclass(frozen=True)
class Ranking:
    """ranking.json as an object: candidates (best on validation first), comparisons, failures and the answer.

    nested: the estimate with the selection repeated in each outer fold, null in other schemes. oracle: what a choice on
    labels of the target domain would give, null where nothing is adapted. notes: what a reader of
    the figures must know.
    """

    metric: str
    direction: str
    target: str
    answer: str
    best: str | None
    candidates: list[dict]
    comparisons: list[dict]
    failures: dict[str, list[dict]]
    nested: dict | None = None
    oracle: dict | None = None
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict:
        """The content of ranking.json."""
        return asdict(self)

    def rows(self) -> list[dict]:
        """The rows of ranking.csv: a candidate each, without its spec, its trials one number."""
        return [
            {name: len(row["trials"]) if name == "trials" else row[name] for name in COLUMNS} for row in self.candidates
        ]

    def selected(self) -> list[dict]:
        """The candidates whose test scores were read, the best first."""
        return [row for row in self.candidates if row["selected"]]


def rank(results: Results) -> Ranking:
    """Rank the candidates of a finished search.

    Candidates are ordered by the mean of the search's metric on validation over their finished trials; ties go to fewer
    parameters, then to the lower id. Test scores are read for the best and for the first of every other strategy only.
    Raises InputError for a metric that the target can't have, or files that are missing.
    """
    target, measure = ranked_measure(results)
    candidates = _ordered(_candidates(results, target, measure), DIRECTIONS[measure.metric])
    selected = _select(candidates)
    validation = {row["candidate"]: results.tables(row["trials"], "validation", target) for row in candidates}
    for row in candidates:
        interval = mean_with_interval(list(validation[row["candidate"]].values()), measure)
        row["validation_low"], row["validation_high"] = interval["low"], interval["high"]
    test = {row["candidate"]: results.tables(row["trials"], "test", target) for row in selected}
    for row in selected:
        _add_test_scores(results, row, test[row["candidate"]], target, measure)
    comparisons = _comparisons(selected, test, measure)
    best = selected[0]["candidate"] if selected else None
    tested, chosen_on = _persons(test.get(best, {})), _persons(validation.get(best, {}))
    nested = nested_estimate(results, candidates, target, measure)
    said, notes = cautions(candidates, nested, measure, len(tested), len(tested & chosen_on))
    return Ranking(
        metric=measure.metric,
        direction=DIRECTIONS[measure.metric],
        target=target,
        answer=" ".join([answer(candidates, comparisons, measure, target, len(tested)), *said]),
        best=best,
        candidates=candidates,
        comparisons=comparisons,
        failures=_failures(results, candidates),
        nested=nested,
        oracle=oracle_choice(results, candidates, target, measure),
        notes=notes + published_notes([*results.models.values(), *results.encoders.values()]),
    )


def _persons(tables: dict) -> set[str]:
    return {person for table in tables.values() for person in table["person"]}


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


def _candidates(results: Results, target: str, measure: Measure) -> list[dict]:
    grouped: dict[str, list[dict]] = {}
    for trial in results.trials:
        grouped.setdefault(trial["candidate"], []).append(trial)
    names = candidate_names({candidate: trials[0] for candidate, trials in grouped.items()})
    return [
        _candidate(results, candidate, names[candidate], trials, target, measure.metric)
        for candidate, trials in grouped.items()
    ]


def _candidate(results: Results, candidate: str, name: str, trials: list[dict], target: str, metric: str) -> dict:
    outcomes = [_outcome(results, trial, target, metric) for trial in trials]
    outcomes.sort(key=lambda outcome: [-1 if value is None else value for value in key_of(outcome)])
    values = [outcome["validation"] for outcome in outcomes if outcome["status"] == "ok"]
    models = [results.models[trial["id"]] for trial in trials if trial["id"] in results.models]
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
        "validation_low": None,
        "validation_high": None,
        "selected": "",
        "test_mean": None,
        "test_low": None,
        "test_high": None,
        "parameters": sizes[0]["total"] if sizes else None,
        "trainable": sizes[0]["trainable"] if sizes else None,
        "seconds": sum(seconds) if seconds else None,
        "spec": candidate_spec(trials[0]["spec"]),
    }


def _outcome(results: Results, trial: dict, target: str, metric: str) -> dict:
    """A trial as it stands in ranking.json; one without a validation score counts as failed."""
    model, scores = results.models.get(trial["id"]), results.scores(trial["id"], "validation")
    value, reason = None, ""
    if model is None:
        reason = "no result was written"
    elif model["status"] != "ok":
        reason = model["reason"]
    elif scores is None:
        reason = "no validation scores were written"
    elif scores["status"] != "ok":
        reason = scores["reason"]
    else:
        value = _value(scores, target, metric)
        reason = "" if value is not None else f"{metric} can't be computed on validation"
    status = "ok" if value is not None else "failed"
    return {
        "id": trial["id"],
        **{name: trial["spec"]["seed"] if name == "seed" else trial["spec"]["split"][name] for name in KEY},
        "status": status,
        "reason": reason,
        "validation": value,
        "test": None,
    }


def _value(scores: dict, target: str, metric: str) -> float | None:
    return (scores["targets"][target]["metrics"].get(metric) or {}).get("value")


def _ordered(candidates: list[dict], direction: str) -> list[dict]:
    def key(row):
        return preference(row["validation_mean"], row["failed"], row, direction)

    ordered = sorted(candidates, key=key)
    for place, row in enumerate(ordered, start=1):
        row["rank"] = place
    return ordered


def _select(candidates: list[dict]) -> list[dict]:
    """Mark the best candidate and the first of each other strategy; those without a finished trial never count."""
    selected: dict[str, dict] = {}
    for row in candidates:
        if row["validation_mean"] is not None and row["strategy"] not in selected:
            row["selected"] = f"best of {row['strategy']}" if selected else "best"
            selected[row["strategy"]] = row
    return list(selected.values())


def _add_test_scores(results: Results, row: dict, tables: dict, target: str, measure: Measure) -> None:
    for trial in row["trials"]:
        if key_of(trial) in tables:
            trial["test"] = _value(results.scores(trial["id"], "test"), target, measure.metric)
    interval = mean_with_interval(list(tables.values()), measure)
    row["test_mean"], row["test_low"], row["test_high"] = interval["mean"], interval["low"], interval["high"]


def _comparisons(selected: list[dict], test: dict[str, dict], measure: Measure) -> list[dict]:
    """Best minus each other selected candidate on test, over the seeds, folds and replicates that both finished."""
    comparisons = []
    for other in selected[1:]:
        one, two = test[selected[0]["candidate"]], test[other["candidate"]]
        found = paired_difference([(one[key], two[key]) for key in one if key in two], measure)
        if found:
            ids = {"a": selected[0]["candidate"], "b": other["candidate"]}
            comparisons.append(ids | {"set": "test"} | found)
    return comparisons


def _failures(results: Results, candidates: list[dict]) -> dict[str, list[dict]]:
    trials = [
        {"id": trial["id"], "candidate": row["candidate"], "name": row["name"]}
        | {name: trial[name] for name in (*KEY, "reason")}
        for row in candidates
        for trial in row["trials"]
        if trial["status"] != "ok"
    ]
    dependants = Counter(trial["init"] for trial in results.trials)
    pretrainings = []
    for line in results.pretrainings:
        encoder = results.encoders.get(line["id"], {"status": "failed", "reason": "no result was written"})
        if encoder["status"] != "ok":
            facts = {"id": line["id"], "stage": line["stage"], "seed": line["seed"], "reason": encoder["reason"]}
            pretrainings.append(facts | {"trials": dependants[line["id"]]})
    scans = results.scans[results.scans["status"] != "ok"][["scan_id", "recipe", "reason"]]
    return {"trials": trials, "pretrainings": pretrainings, "scans": scans.to_dict("records")}
