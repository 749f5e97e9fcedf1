"""results.json: what a run found, in a form that others can merge and rank with theirs (`tlimb merge`).

    {"format": 1, "made_with": {"tlimb": "0.1.0"},
     "datasets": [{"dataset": "clinic: diagnosis", "digest": "0f3a…", "n_persons": 120, "n_scans": 120,
       "protocol": {"metric": "balanced_accuracy", "direction": "max", "kind": "classification",
                    "classes": ["control", "patient"], "cohorts": ["clinic"], "people": "5c2e…", "scans": "91ab…",
                    "split": {"scheme": "holdout", …}}}],
     "methods": [{"method": "ResNet, full", "candidate": "77b1…", "name": "full, lr 0.001", "strategy": "full",
                  "architecture": "ResNet", "parameters": 11170000, "seconds": 930.0, "spec": {…}}],
     "scores": [{"dataset": "clinic: diagnosis", "method": "ResNet, full", "mean": 0.74, "low": 0.66, "high": 0.81,
                 "validation": 0.78, "trials": [{"seed", "repeat", "fold", "inner_fold", "replicate", "value"}]}]}

A method is the best candidate of a strategy, chosen on validation in its own run. A dataset is a set of people with a
target: the test set, named after its cohorts and target and, where training is limited to n persons, `n 40`; and each
external cohort, `elsewhere: diagnosis, trained on clinic`. `people` and `scans` are digests of who and what was tested:
scores may be compared where the whole protocol is equal, which `digest` says in short. `split` is null for an external
cohort, where nobody is trained on; what stands in it beside `n` has to be equal. Where methods of a run were tested on
different people, as with a failed fold, the dataset is that of most scans, and scores on fewer are left out.
"""

from typing import Literal

from pydantic import Field

import tlimb
from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.files import digest
from tlimb.ranking.compare import Measure, mean_with_interval
from tlimb.ranking.results import KEY, Results, key_of
from tlimb.scores import value_of
from tlimb.settings import Settings

TOLD = ("candidate", "name", "strategy", "architecture", "parameters", "seconds", "spec")


class Protocol(Settings):
    """What must be equal for scores to be comparable."""

    metric: str
    direction: Literal["max", "min"]
    kind: str
    classes: list[str]
    cohorts: list[str]
    people: str
    scans: str
    split: dict | None


class Dataset(Settings):
    """A set of people with a target; digest: of its protocol."""

    dataset: str
    digest: str
    n_persons: int
    n_scans: int
    protocol: Protocol


class Method(Settings):
    """The best candidate of a strategy of a run."""

    method: str
    candidate: str
    name: str
    strategy: str
    architecture: str
    parameters: int | None
    seconds: float | int | None
    spec: dict


class TrialScore(Settings):
    """A trial's score; its value is null where it can't be computed."""

    seed: int
    repeat: int
    fold: int | None
    inner_fold: int | None
    replicate: int | None
    value: float | int | None


class Score(Settings):
    """A method's score on a dataset, a mean over trials with its interval over persons; validation chose it."""

    dataset: str
    method: str
    mean: float | int
    low: float | int | None
    high: float | int | None
    validation: float | int | None
    trials: list[TrialScore]


class ResultsFile(Settings):
    """results.json."""

    format: Literal[1]
    made_with: dict[str, str]
    datasets: list[Dataset]
    methods: list[Method] = Field(min_length=1)
    scores: list[Score]


def results_document(results: Results, selected: list[dict], target: str, measure: Measure) -> dict | None:
    """The content of results.json; None where no candidate was selected. selected: rows of ranking.json."""
    parts = ["test", *results.external_sets()]
    found = [_score(results, row, part, target, measure) for row in selected for part in parts]
    found = [one for one in found if one]
    datasets: dict[str, dict] = {}
    for dataset, _ in found:
        known = datasets.setdefault(dataset["dataset"], dataset)
        if dataset["n_scans"] > known["n_scans"]:
            datasets[dataset["dataset"]] = dataset
    scores = [score for dataset, score in found if datasets[dataset["dataset"]]["digest"] == dataset["digest"]]
    methods = [{"method": _method(row)} | {key: row[key] for key in TOLD} for row in selected]
    if not methods:
        return None
    facts = {"format": 1, "made_with": {"tlimb": tlimb.__version__}, "datasets": list(datasets.values())}
    return facts | {"methods": methods, "scores": scores}


def _method(row: dict) -> str:
    return f"{row['architecture']}, {row['strategy']}"


def _score(results: Results, row: dict, part: str, target: str, measure: Measure) -> tuple[dict, dict] | None:
    """The dataset and the score of a selected candidate on a set; None where it has none."""
    tables = results.tables(row["trials"], part, target)
    interval = mean_with_interval(list(tables.values()), measure)
    if interval["mean"] is None:
        return None
    dataset = _dataset(results, row, part, tables, target, measure)
    of = {key_of(one): value_of(results.scores(one["id"], part), target, measure.metric) for one in row["trials"]}
    trials = [dict(zip(KEY, key)) | {"value": of[key]} for key in tables]
    facts = {"dataset": dataset["dataset"], "method": _method(row), "validation": row["validation_mean"]}
    return dataset, facts | {name: interval[name] for name in ("mean", "low", "high")} | {"trials": trials}


def _dataset(results: Results, row: dict, part: str, tables: dict, target: str, measure: Measure) -> dict:
    people = sorted({person for table in tables.values() for person in table["person"]})
    scans = sorted({scan for table in tables.values() for scan in table["scan_id"]})
    data, split = row["spec"]["stages"][-1]["data"], row["spec"]["split"]
    trained_on = next(data[role]["cohort"] for role in ("labelled", "source") if data.get(role))
    cohorts = data["target"]["cohort"] if data.get("target") else trained_on
    limit = f", n {split['n']}" if split.get("n") else ""
    name = f"{'+'.join(cohorts)}: {target}{limit}"
    if part != "test":
        cohorts = [part.removeprefix("external-")]
        name = f"{cohorts[0]}: {target}, trained on {'+'.join(trained_on)}{limit}"
    label = results.cohort["labels"][target]
    protocol = {"metric": measure.metric, "direction": DIRECTIONS[measure.metric], "kind": measure.kind}
    protocol |= {"classes": label.get("classes", []), "cohorts": cohorts}
    protocol |= {"people": digest(people), "scans": digest(scans), "split": split if part == "test" else None}
    counts = {"n_persons": len(people), "n_scans": len(scans)}
    return {"dataset": name, "digest": digest(protocol)} | counts | {"protocol": protocol}
