"""A study: what was asked so far, why, and what came out on validation. All that the next round is made from."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tlimb.errors import InputError, Problem
from tlimb.files import read_json, write_json
from tlimb.parse import parse
from tlimb.scores import value_of
from tlimb.search_settings import Method, Search
from tlimb.settings import Count, Index, Settings

Id = Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
Why = Literal["startup", "asked", "continued", "carried", "repeated"]


PASSED_OVER = "the study before was passed over"

ABOUT = {
    "trial": "the sweep's own trial, which the space varies, is another",
    "people": "the people, scans or labels of training and validation are others",
}
"""Key of a study's `about` -> what it means that it differs, which of those after it is then no wonder."""


class Asked(Settings):
    """A point that was asked for in a round.

    budget: epochs of the last stage; of halving those of the rung, which trials of fewer epochs (fitted baselines) end
    before. trials: of its seeds, folds and replicates. values: theirs of the metric on validation, null until they are
    told and where a trial failed. value: the mean of those that finished. failed: how many did not. why: drawn before
    anything was known (startup), proposed from what was known (asked), a survivor of the rung before (continued), one
    whose trials had reached their epochs there, so that its values stand and nothing is trained (carried), a point of
    the study that is extended (repeated). bracket: of halving, from 0.
    """

    candidate: Id
    point: dict
    budget: Count
    trials: list[Id]
    values: list[float | None]
    value: float | None = None
    failed: Index = 0
    why: Why
    bracket: Index | None = None


class LeftOut(Settings):
    """A point that was not asked for, and why."""

    point: dict
    why: str


class Round(Settings):
    """What was asked at once. told: whether its values are known."""

    round: Count
    told: bool = False
    points: list[Asked] = []
    left_out: list[LeftOut] = []


class Study(Settings):
    """study.json.

    target, metric, direction: of validation, by which candidates are compared. seed, sequence, sampler: of the search.
    epochs: of the whole last stage. about: digests of what scores depend on beside the points: `trial`, the sweep's own
    before anything is varied, and `people`, who trains and validates it, with scans and labels. again: points of an
    earlier study that later rounds ask for again. given: how many of its points are. pretrainings: those that were
    asked for so far. probed: split -> encoders that were scored on it before fine-tuning. finished: no further round is
    wanted, and `reason` says why.
    """

    method: Method
    target: str
    metric: str
    direction: Literal["max", "min"]
    seed: int
    sequence: str
    sampler: str
    epochs: Count
    about: dict[str, str] = {}
    rounds: list[Round] = []
    again: list[list[dict]] = []
    given: Index = 0
    pretrainings: list[Id] = []
    probed: dict[str, list[Id]] = {}
    finished: bool = False
    reason: str = ""

    def asked(self) -> list[Asked]:
        """Everything asked so far, round by round; within a round by candidate, so that no order of inputs matters."""
        return [asked for one in self.rounds for asked in sorted(one.points, key=lambda asked: asked.candidate)]


def new_study(
    search: Search, target: str, metric: str, direction: str, epochs: int, about: dict[str, str] | None = None
) -> Study:
    """A study of which nothing has been asked."""
    known = {"method": search.method, "target": target, "metric": metric, "direction": direction, "seed": search.seed}
    return Study(**known, sequence=search.sequence, sampler=search.sampler, epochs=epochs, about=about or {})


def extended(study: Study, earlier: Study) -> Study:
    """A study that asks for the points of an earlier one again, round by round, before anything new.

    An earlier one that was made otherwise, of another trial or from other labels, is passed over, and so is one of
    halving, whose rungs follow from the scores again; `reason` says so.
    """
    kept = ("method", "target", "metric", "seed", "sequence", "sampler", "epochs")
    other = [name for name in kept if getattr(study, name) != getattr(earlier, name)]
    told = [f"{name} {getattr(earlier, name)} against {getattr(study, name)}" for name in other]
    told += [said for name, said in ABOUT.items() if study.about.get(name) != earlier.about.get(name)][:1]
    if told:
        told = ", ".join(told)
        return study.model_copy(update={"reason": f"{PASSED_OVER}: {told}"})
    if "halving" in study.method:
        return study.model_copy(update={"reason": f"{PASSED_OVER}: rungs are made anew"})
    return study.model_copy(update={"again": [[asked.point for asked in one.points] for one in earlier.rounds]})


def read_study(path) -> Study:
    """The study at `path`; raises InputError with every place where it is not one."""
    try:
        return parse(Study, read_json(path))
    except InputError as error:
        raise InputError([_within(path, problem) for problem in error.problems]) from None


def find_study(path: Path) -> Path:
    """A study.json itself, or that of the last round in a folder of rounds, such as `results/search`.

    Rounds that an earlier search of more rounds left there are passed over. Raises InputError where there is none.
    """
    if not path.is_dir():
        return path
    rounds = sorted(path.glob("round-*/study.json"), key=lambda file: int(file.parent.name.removeprefix("round-")))
    if not rounds:
        hint = "name the folder `search` of a run's results"
        raise InputError([Problem(str(path), "no round-<k>/study.json in it", hint)])
    return rounds[of_one_search([_document(file) for file in rounds]) - 1]


def of_one_search(studies: Sequence[dict | None]) -> int:
    """How many rounds, from the first on, belong to one search. studies: the document study.json of each round, None
    where it is not there yet, which parts no rounds.

    What an earlier search of more rounds left follows a finished study, or knows of other trials in the rounds before.
    """
    for number, (before, study) in enumerate(pairwise(studies), start=1):
        if before is None:
            continue
        if before.get("finished") or (study is not None and _asked(study)[:number] != _asked(before)):
            return number
    return len(studies)


def _asked(study: dict) -> list[list]:
    """The trials of each round that the document of a study tells."""
    return [[asked.get("trials") for asked in one.get("points", [])] for one in study.get("rounds", [])]


def _document(file: Path) -> dict:
    """A study's document; an empty one where the file holds none."""
    try:
        document = read_json(file)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _within(path, problem: Problem) -> Problem:
    where = problem.where if problem.where.startswith(str(path)) else f"{path}: {problem.where}"
    return Problem(where, problem.message, problem.hint)


def write_study(path, study: Study) -> None:
    """Write study.json, atomically."""
    write_json(path, study.model_dump())


def study_schema() -> dict:
    """The JSON Schema of study.json, as it stands in assets/schemas/study.schema.json."""
    schema = Study.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "study.json"}


def tell(study: Study, scores: dict[str, float | None]) -> Study:
    """The study with the values of its last round. scores: trial id -> the metric on validation; a trial that is not
    among them, or whose score is null or no number, failed. What was carried over keeps its values."""
    last = study.rounds[-1]
    points = []
    for asked in last.points:
        if asked.why == "carried":
            points.append(asked)
            continue
        found = [scores.get(trial) for trial in asked.trials]
        values = [value if value is not None and math.isfinite(value) else None for value in found]
        known = [value for value in values if value is not None]
        mean = statistics.fmean(known) if known else None
        points.append(asked.model_copy(update={"values": values, "value": mean, "failed": len(values) - len(known)}))
    told = last.model_copy(update={"points": points, "told": True})
    return study.model_copy(update={"rounds": [*study.rounds[:-1], told]})


def read_scores(folder: Path, study: Study) -> dict[str, float | None]:
    """Trial id -> the study's metric in ``<folder>/<trial id>/scores-validation.json``, of trials of the last round."""
    found = {}
    for trial in {trial for asked in study.rounds[-1].points for trial in asked.trials}:
        path = Path(folder, trial, "scores-validation.json")
        if not path.exists():
            continue
        found[trial] = value_of(read_json(path), study.target, study.metric)
    return found


def preference(study: Study):
    """A key that puts what was asked in order, the best first: all trials finished, some, none; then by the mean; equal
    ones by candidate id."""
    sign = -1 if study.direction == "max" else 1

    def key(asked: Asked) -> tuple:
        lost = asked.value is None
        return lost, asked.failed > 0, 0.0 if lost else sign * asked.value, asked.candidate

    return key
