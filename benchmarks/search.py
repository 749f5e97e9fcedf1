"""What a search finds for a quarter of the training that a grid takes, replayed many times on stored training curves.

python benchmarks/search.py table RESULTS OUT.csv   a finished grid run -> a row for each trial and epoch, and OUT.json
python benchmarks/search.py replay OUT.csv          every method with 200 search seeds, through the search's own code
"""

import csv
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd

from tlimb.config import Sweep, read_sweep
from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.files import read_json, read_jsonl, write_csv, write_json
from tlimb.search.ask import ask
from tlimb.search.methods import method_of
from tlimb.search.space import Candidates
from tlimb.search.study import Asked, Round, Study, new_study, preference, tell

METHODS = {
    "random": {"method": "random"},
    "bayes": {"method": "bayes", "rounds": 5},
    "halving": {"method": "halving"},
    "hyperband": {"method": "halving", "halving": {"brackets": 3}},
    "bayes+halving": {"method": "bayes+halving", "rounds": 4},
}
FEWEST = 4


@dataclass(frozen=True)
class Curve:
    """A trial: what it would have been worth after each epoch, steps of an epoch, what it starts from and its steps."""

    trial: str
    values: list[float]
    steps: int
    init: str
    init_steps: int


@dataclass(frozen=True)
class Table:
    """Curves of every candidate of a grid, and the sweep that they come from."""

    sweep: Sweep
    metric: str
    direction: str
    epochs: int
    curves: dict[str, list[Curve]]
    points: dict[str, dict]

    def value(self, candidate: str) -> float:
        """The mean over a candidate's whole trainings, larger is better."""
        sign = 1 if self.direction == "max" else -1
        return sign * statistics.fmean(curve.values[-1] for curve in self.curves[candidate])

    def error(self, candidate: str) -> float:
        """The standard error of that mean over trials."""
        values = [curve.values[-1] for curve in self.curves[candidate]]
        return statistics.stdev(values) / math.sqrt(len(values))


def kept_so_far(history: pd.DataFrame, column: str, monitor: str, keep: str) -> list[float]:
    """The metric of the weights that would be kept after each epoch: those of the best one so far by `monitor`."""
    if keep == "last":
        return history[column].tolist()
    larger = DIRECTIONS.get(monitor.removeprefix("validation_"), "min") == "max"
    seen = history[monitor].to_numpy() * (-1 if larger else 1)
    best = [int(np.argmin(seen[: i + 1])) for i in range(len(seen))]
    return history[column].to_numpy()[best].tolist()


def steps_of(facts: dict, stage: dict) -> int:
    """Steps of an epoch."""
    return math.ceil(facts["n"]["train"] / stage["batch_size"])


def init_steps(results: Path, encoder: str, batches: dict[str, dict]) -> int:
    """Steps of a pretraining and of those before it."""
    total = 0
    while encoder:
        facts = read_json(results / "encoders" / encoder / "encoder.json")
        total += steps_of(facts, batches[encoder]) * facts["epochs_run"]
        encoder = facts["parent"]
    return total


@click.group(help=__doc__)
def main():
    pass


@main.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
def table(results: Path, out: Path):
    """Write one table of the training curves of a finished grid run."""
    study = read_json(results / "search" / "round-1" / "study.json")
    stages = {line["id"]: line["spec"]["stage"] for line in read_jsonl(results / "search/round-1/pretrainings.jsonl")}
    rows = []
    for trial in read_jsonl(results / "search" / "round-1" / "trials.jsonl"):
        folder, stage = results / "models" / trial["id"], trial["spec"]["stages"][-1]
        facts = read_json(folder / "model.json")
        if facts["status"] != "ok":
            continue
        history = pd.read_csv(folder / "history.csv")
        names = [f"validation_{study['metric']}", f"validation_{study['target']}_{study['metric']}"]
        column = next(name for name in names if name in history)
        values = kept_so_far(history, column, stage["monitor"], stage["trainer"]["keep"])
        about = [trial["candidate"], trial["id"], steps_of(facts, stage), trial["init"]]
        about.append(init_steps(results, trial["init"], stages))
        rows += [[*about, epoch, value] for epoch, value in zip(history["epoch"], values)]
    columns = ["candidate", "trial", "steps", "init", "init_steps", "epoch", "value"]
    write_csv(out, pd.DataFrame(rows, columns=columns))
    points = {asked["candidate"]: asked["point"] for asked in study["rounds"][0]["points"]}
    facts = {name: study[name] for name in ("target", "metric", "direction", "epochs")}
    write_json(out.with_suffix(".json"), {**facts, "sweep": read_json(results / "cohort/sweep.json"), "points": points})
    candidates, trials = ({row[place] for row in rows} for place in (0, 1))
    click.echo(f"{len(candidates)} candidates, {len(trials)} trials, {len(rows)} epochs")


def read_table(path: Path) -> Table:
    """The table at `path` with its .json beside it."""
    facts, found = read_json(path.with_suffix(".json")), defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            found[row["candidate"], row["trial"], int(row["steps"]), row["init"], int(row["init_steps"])].append(row)
    curves = defaultdict(list)
    for (candidate, *about), rows in found.items():
        values = [float(row["value"]) for row in sorted(rows, key=lambda row: int(row["epoch"]))]
        curves[candidate].append(Curve(about[0], values, *about[1:]))
    sweep = read_sweep(facts["sweep"])
    return Table(sweep, facts["metric"], facts["direction"], facts["epochs"], dict(curves), facts["points"])


@dataclass
class Spent:
    """What a search has trained so far: epochs of last stages, and steps, each pretraining counted once."""

    trained: dict[str, int]
    inits: set[str]
    epochs: int = 0
    steps: int = 0

    def train(self, curve: Curve, budget: int) -> None:
        """Train a trial to a budget."""
        more = max(0, min(budget, len(curve.values)) - self.trained.get(curve.trial, 0))
        self.trained[curve.trial] = self.trained.get(curve.trial, 0) + more
        self.epochs += more
        self.steps += more * curve.steps
        if curve.init and curve.init not in self.inits:
            self.inits.add(curve.init)
            self.steps += curve.init_steps


def played(stored: Table, settings: dict, seed: int, pool: Candidates, ids: dict[str, str]) -> tuple[Study, Spent]:
    """A whole search on stored curves. ids: identity of a point -> candidate."""
    search = stored.sweep.search.model_validate(settings | {"seed": seed})
    method = method_of(search, stored.epochs, pool.space)
    study = new_study(search, "", stored.metric, stored.direction, stored.epochs)
    spent = Spent({}, set())
    while not study.finished:
        points, scores = [], {}
        for wanted in ask(study, method, pool).wanted:
            candidate, budget = ids[pool.identity(wanted.point)], wanted.budget or stored.epochs
            curves = stored.curves.get(candidate, [])
            for curve in curves:
                spent.train(curve, budget)
                scores[curve.trial] = curve.values[min(budget, len(curve.values)) - 1]
            trials = [curve.trial for curve in curves]
            facts = {"budget": budget, "why": wanted.why, "bracket": wanted.bracket, "values": [None] * len(trials)}
            points.append(Asked(candidate=candidate, point=wanted.point, trials=trials, **facts))
        number = len(study.rounds) + 1
        study = tell(study.model_copy(update={"rounds": [*study.rounds, Round(round=number, points=points)]}), scores)
        study = study.model_copy(update={"finished": number >= method.rounds or not points})
    return study, spent


def points_for(stored: Table, settings: dict, pool: Candidates, share: float) -> int:
    """The most points with which a method's plan takes at most a share of the grid's epochs."""
    fitting = [FEWEST]
    for count in range(FEWEST, len(stored.points) + 1):
        search = stored.sweep.search.model_validate(settings | {"points": count})
        steps = method_of(search, stored.epochs, pool.space).plan(count)
        if sum(step.points * step.epochs for step in steps) <= share * len(stored.points) * stored.epochs:
            fitting.append(count)
    return fitting[-1]


@main.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--replays", type=click.IntRange(1), default=200, show_default=True)
@click.option("--share", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Of the grid's epochs.")
def replay(path: Path, replays: int, share: float):
    """Play every method on stored training curves, each with many search seeds."""
    stored = read_table(path)
    pool = Candidates(stored.sweep)
    best = max(stored.curves, key=lambda candidate: (stored.value(candidate), candidate))
    everything = Spent({}, set())
    for curve in (curve for curves in stored.curves.values() for curve in curves):
        everything.train(curve, stored.epochs)
    near = sum(stored.value(best) - stored.value(one) <= stored.error(best) for one in stored.curves)
    click.echo(
        f"{len(stored.points)} candidates, {everything.epochs} epochs of their last stage in a grid; {stored.metric}, the "
        f"best's {abs(stored.value(best)):.4f} with a standard error of {stored.error(best):.4f}, {near} within it\n"
    )
    heads = ["method", "points", "rounds", "epochs", "steps with pretraining", "within one standard error"]
    heads.append("regret: median (quartiles)")
    click.echo(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, chosen in METHODS.items():
        settings = stored.sweep.search.model_dump() | {"points": FEWEST} | chosen
        settings |= {"points": points_for(stored, settings, pool, share)}
        click.echo(f"| {name} | {settings['points']} | {_replayed(stored, settings, replays, pool, best, everything)} |")


def _replayed(stored: Table, settings: dict, replays: int, pool: Candidates, best: str, everything: Spent) -> str:
    """The cells of a method's row: rounds, shares of the grid's epochs and steps, hits, regrets."""
    ids = {pool.identity(point): candidate for candidate, point in stored.points.items()}
    regrets, epochs, steps = [], [], []
    for seed in range(replays):
        study, spent = played(stored, settings, seed, pool, ids)
        whole = [asked for asked in study.asked() if asked.budget == stored.epochs and asked.value is not None]
        regrets.append(stored.value(best) - stored.value(min(whole, key=preference(study)).candidate))
        epochs.append(spent.epochs / everything.epochs)
        steps.append(spent.steps / everything.steps)
    low, middle, high = np.quantile(regrets, [0.25, 0.5, 0.75])
    hit = statistics.fmean(regret <= stored.error(best) for regret in regrets)
    shares = f"{statistics.fmean(epochs):.0%} | {statistics.fmean(steps):.0%}"
    return f"{len(study.rounds)} | {shares} | {hit:.0%} | {middle:.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
