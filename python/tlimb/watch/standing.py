"""How far a run is, read from what it has put into its outdir so far; nothing of a test set is read."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tlimb.errors import InputError
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS
from tlimb.files import read_json, read_jsonl
from tlimb.ranking.names import candidate_names
from tlimb.scores import value_of
from tlimb.search.rates import Rates, keys_of
from tlimb.search.study import of_one_search
from tlimb.search.trace import read_trace
from tlimb.watch.signs import Signs, signs_of

TRACE = "pipeline_info/trace.txt"
KEPT = ("id", "status", "reason", "budget", "epochs_run", "seconds")
"""What is kept in memory of encoder.json and model.json, which may be many and long."""


@dataclass(frozen=True)
class Count:
    """How many of something there are, are done, and are done and failed."""

    total: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Best:
    """The candidate that is best on validation so far. trials: that were scored, of how many it has."""

    name: str
    metric: str
    value: float
    trials: int
    of: int
    epochs: int


@dataclass(frozen=True)
class Standing:
    """How far a run is. rounds: that are known; more: whether another may follow. epochs: of the trials' last stages,
    asked for and done. left: seconds until all that is known is done, None where nothing says. at_once: trainings at a
    time so far. failures: name of what failed, why. ranked: whether the report is there. stub: whether this is a run of
    stubs, whose trials say nothing of themselves and of which no more is known than how many are done."""

    rounds: int
    more: bool
    pretrainings: Count
    trials: Count
    epochs: Count
    best: Best | None
    left: float | None
    at_once: float
    failures: list[tuple[str, str]]
    ranked: bool
    stub: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        done = self.pretrainings.done == self.pretrainings.total and self.trials.done == self.trials.total
        return self.ranked and done and not self.more


@dataclass
class Watcher:
    """Looks at an outdir again and again; what has not changed is not read again."""

    results: Path
    _known: dict[Path, tuple[tuple, object]] = field(default_factory=dict)
    _names: tuple[list[str], dict[str, str]] = ([], {})
    _keys: dict[str, list[str]] = field(default_factory=dict)

    def look(self) -> Standing | None:
        """How far the run is now; None where no search has begun."""
        rounds = self._rounds()
        trials = _last(self._read(folder / "trials.jsonl", read_jsonl) for folder in rounds)
        if not trials:
            return None
        study = self._read(rounds[-1] / "study.json", read_json) or {}
        pretrainings = _last(self._read(folder / "pretrainings.jsonl", read_jsonl) for folder in rounds)
        encoders = {key: self._about(f"encoders/{key}/encoder.json") for key in pretrainings}
        models = {key: self._about(f"models/{key}/model.json") for key in trials}
        done = {key: about for key, about in models.items() if about and _reached(about, trials[key])}
        made = {key: about for key, about in encoders.items() if about}
        more, ranked = bool(study) and not study["finished"], self._ranked(rounds[-1])
        counts = len(rounds), more, _count(pretrainings, made), _count(trials, done)
        if not all("spec" in trial for trial in trials.values()):
            return Standing(*counts, Count(), None, None, 1.0, [], ranked, stub=True)
        epochs = sum(trial["budget"] for trial in trials.values())
        epochs_done = sum(_epochs(models[key], trial) for key, trial in trials.items())
        best, (left, at_once) = self._best(trials, done, study), self._left(trials, pretrainings, models, made)
        failures = _failures(trials, done, pretrainings, made)
        return Standing(*counts, Count(epochs, epochs_done), best, left, at_once, failures, ranked)

    def signs(self, now: float) -> Signs:
        """Whether the run goes on, as far as files say. now: seconds since 1970."""
        trace = self._read(self.results / TRACE, read_trace)
        return signs_of(self.results, trace, [stamp[0] / 1e9 for stamp, _ in self._known.values()], now)

    def _rounds(self) -> list[Path]:
        """The folders of the search's rounds; what an earlier search of more rounds left beside them is none of it."""
        folders = sorted(self.results.glob("search/round-*"), key=lambda path: int(path.name.removeprefix("round-")))
        return folders[: of_one_search([self._read(folder / "study.json", read_json) for folder in folders])]

    def _ranked(self, last: Path) -> bool:
        """Whether a ranking is there that is no older than the last round."""
        ranking, trials = self.results / "ranking" / "ranking.json", last / "trials.jsonl"
        return ranking.exists() and ranking.stat().st_mtime >= trials.stat().st_mtime

    def _read(self, path: Path, read: Callable):
        """What a file holds, None where it is not there or not whole yet."""
        try:
            facts = path.stat()
        except OSError:
            return None
        stamp = facts.st_mtime_ns, facts.st_size
        if path not in self._known or self._known[path][0] != stamp:
            try:
                self._known[path] = stamp, read(path)
            except (InputError, ValueError, OSError):  # while it is being copied
                return None
        return self._known[path][1]

    def _about(self, place: str) -> dict | None:
        return self._read(self.results / place, lambda path: {k: v for k, v in read_json(path).items() if k in KEPT})

    def _best(self, trials: dict, done: dict, study: dict) -> Best | None:
        """By the mean over the trials that were scored, of candidates that have the largest share of their epochs."""
        target = next(iter(trials.values()))["spec"]["stages"][-1]["targets"][0]
        metric, found = self._metric(study, target), {}
        for key in done:
            value = self._value(trials[key], target, metric)
            if value is not None:
                found.setdefault(trials[key]["candidate"], []).append((value, trials[key]["budget"]))
        if not found:
            return None
        sign = 1 if DIRECTIONS[metric] == "max" else -1
        means = {key: statistics.fmean(value for value, _ in values) for key, values in found.items()}
        epochs = {trial["candidate"]: trial["spec"]["stages"][-1]["epochs"] for trial in trials.values()}
        shares = {key: min(budget for _, budget in found[key]) / epochs[key] for key in found}
        best = max(sorted(means), key=lambda key: (shares[key], sign * means[key]))
        own = [trial for trial in trials.values() if trial["candidate"] == best]
        budget = min(budget for _, budget in found[best])
        return Best(self._name(best, trials), metric, means[best], len(found[best]), len(own), budget)

    def _name(self, candidate: str, trials: dict) -> str:
        """What sets a candidate apart from the others; worked out once for all of them."""
        if self._names[0] != list(trials):
            some = {trial["candidate"]: trial for trial in trials.values()}
            space = self._sweep().get("search", {}).get("space", {})
            self._names = list(trials), candidate_names(some, space)
        return self._names[1][candidate] or "the one candidate"

    def _metric(self, study: dict, target: str) -> str:
        cohort = self._read(self.results / "cohort" / "cohort.json", read_json) or {"labels": {}}
        kind = cohort["labels"].get(target, {}).get("kind", "classification")
        return study.get("metric") or self._sweep().get("search", {}).get("metric") or DEFAULT[kind]

    def _sweep(self) -> dict:
        return self._read(self.results / "cohort" / "sweep.json", read_json) or {}

    def _value(self, trial: dict, target: str, metric: str) -> float | None:
        """A trial's score; none while what is there is that of a rung before, as models come before their scores."""
        scores = self._read(self.results / "scores" / trial["id"] / "scores-validation.json", read_json) or {}
        return value_of(scores, target, metric) if _reached(scores, trial) else None

    def _left(self, trials: dict, pretrainings: dict, models: dict, made: dict) -> tuple[float | None, float]:
        """Seconds until the known trainings are done, as fast and as many at a time as so far, and how many that is."""
        trace = self._read(self.results / TRACE, read_trace)
        at_once = trace.at_once_of("PRETRAIN", "FINETUNE") if trace else 1.0
        rates, waiting = Rates(), []
        for key, line in pretrainings.items():
            stage = line["spec"]["stage"]
            _sort(rates, waiting, self._keys_of(key, line["spec"], stage), made.get(key), stage["epochs"])
        for key, trial in trials.items():
            keys = self._keys_of(key, trial["spec"], trial["spec"]["stages"][-1])
            _sort(rates, waiting, keys, models.get(key), trial["budget"])
        found = [rates.seconds(keys, epochs) for keys, epochs in waiting]
        if any(one is None for one in found):
            return None, at_once
        return sum(seconds for seconds, _ in found) / at_once, at_once

    def _keys_of(self, identity: str, spec: dict, stage: dict) -> list[str]:
        """What a training's rate is filed under; one recipe is taken for all, and equal keys are kept once."""
        if identity not in self._keys:
            self._keys[identity] = list(map(sys.intern, keys_of(spec["architecture"], stage, {})))
        return self._keys[identity]


def _sort(rates: Rates, waiting: list, keys: list[str], about: dict | None, epochs: int) -> None:
    """Put a training to what has been measured or, with the epochs that it lacks, to what is waited for."""
    run = about.get("epochs_run", 0) if about else 0
    if run and about["seconds"] > 0:
        rates.add(keys, run, about["seconds"])
    if about is None:
        waiting.append((keys, epochs))
    elif about["status"] == "ok" and about.get("budget", epochs) < epochs:
        waiting.append((keys, epochs - about["budget"]))


def _last(parts) -> dict[str, dict]:
    """Id -> its line, that of the last round where it stands in several."""
    return {line["id"]: line for lines in parts for line in lines or []}


def _reached(about: dict, trial: dict) -> bool:
    """Whether a model, or its scores, are of the trial's present budget; a failed one stays as it is."""
    return "budget" not in trial or about.get("budget", trial["budget"]) >= trial["budget"]


def _epochs(about: dict | None, trial: dict) -> int:
    """Epochs of a trial that are dealt with; those that early stopping saved count as trained."""
    return 0 if about is None else min(about.get("budget", trial["budget"]), trial["budget"])


def _count(lines: dict, done: dict) -> Count:
    return Count(len(lines), len(done), sum(about["status"] != "ok" for about in done.values()))


def _failures(trials: dict, done: dict, pretrainings: dict, made: dict) -> list[tuple[str, str]]:
    encoders = [(f"pretraining {key}", about) for key, about in made.items()]
    models = [(f"trial {key}, seed {trials[key]['spec']['seed']}", about) for key, about in done.items()]
    return [(name, about["reason"]) for name, about in [*encoders, *models] if about["status"] != "ok"]
