"""How many tasks a sweep comes to, and how long they take: by what a run before took, or by steps timed on the spot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tlimb.cohort import chunks
from tlimb.config import Sweep
from tlimb.files import read_json, read_jsonl
from tlimb.ranking.names import strategy_of
from tlimb.search.combinations import is_fitted
from tlimb.search.jobs import packs, probes
from tlimb.search.rates import LEVELS, Rates, keys_of, read_rates
from tlimb.search.split_rows import SplitRows
from tlimb.search.suggest import Proposal
from tlimb.search.trace import Trace, read_trace


@dataclass(frozen=True)
class Growth:
    """What all rounds come to, at most, as multiples of the first one; rounds: how many there are. trials: that are
    trained, to whatever budget; models: that are left in the end."""

    rounds: int = 1
    trials: float = 1.0
    epochs: float = 1.0
    models: float = 1.0
    pretrainings: float = 1.0


@dataclass(frozen=True)
class Known:
    """What says how long things take. source: where from, in words. trace: of a run before; rates: of its trainings.
    per_scan: seconds that preparing a scan took, None where none was prepared. beside: process -> seconds of a task
    that are no training's."""

    source: str = ""
    trace: Trace | None = None
    rates: Rates = field(default_factory=Rates)
    per_scan: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """One training as planned. keys: of its rate; scans: drawn in an epoch; epochs: at most; devices: that it takes."""

    process: str
    keys: list[str]
    scans: int
    epochs: int
    devices: int

    def seconds(self, rates: Rates) -> tuple[float, str] | None:
        """Seconds of all its devices together, and what says so; None where nothing does."""
        work = self.scans * self.epochs
        return rates.seconds(self.keys, work) if work else (0.0, LEVELS[0])


@dataclass(frozen=True)
class Step:
    """The tasks of one process in all rounds. seconds: of all of them, None where nothing says how long they take;
    device_seconds: of all devices together, for trainings."""

    process: str
    tasks: int
    seconds: float | None
    device_seconds: float | None = None


def read_known(outdir: Path, trace: Path | None = None) -> Known:
    """What earlier runs left in `outdir`. trace: of the last one, where it is not in pipeline_info."""
    found, rates = read_trace(trace or outdir / "pipeline_info" / "trace.txt"), read_rates(outdir)
    source = f"{rates.trainings} trainings on {' and '.join(sorted(rates.devices))} in {outdir}"
    if found is None:
        return Known(source, rates=rates)
    prepared = sum(read_json(path)["n"] for path in outdir.glob("store/*/shard-*.json"))
    work = sum(task.seconds for task in found.of("PREPROCESS"))
    parts = {"PRETRAIN": ("pretrainings", "encoders/{}/encoder.json"), "FINETUNE": ("trials", "models/{}/model.json")}
    beside = {process: _beside(found, process, outdir, *part) for process, part in parts.items()}
    return Known(source, found, rates, work / prepared if prepared and work else None, beside)


def _beside(trace: Trace, process: str, outdir: Path, name: str, place: str) -> float:
    """Seconds that a task of the last run took to begin, to read and to write."""
    tasks = trace.of(process)
    lines = [line["id"] for path in outdir.glob(f"search/round-*/{name}.jsonl") for line in read_jsonl(path)]
    files = [outdir / place.format(identity) for identity in dict.fromkeys(lines)]
    trained = sum(read_json(file).get("seconds", 0.0) for file in files if file.exists())
    return max(0.0, sum(task.seconds for task in tasks) - trained) / len(tasks) if tasks else 0.0


def fits_of(proposal: Proposal, sweep: Sweep) -> list[Fit]:
    """The trainings of a round."""
    rows = proposal.splits
    drawn = rows[rows["role"] == "train"].groupby("split")["times"].sum().to_dict()
    recipes = {name: recipe.model_dump() for name, recipe in sweep.recipes.items()}

    def fit(process: str, spec: dict, stage: dict, split: str, epochs: int) -> Fit:
        keys = keys_of(spec["architecture"], stage, recipes[stage["data"]["recipe"]])
        if stage["strategy"] == "direct" or is_fitted(spec["architecture"]):
            epochs = 0 if stage["strategy"] == "direct" else 1
        return Fit(process, keys, int(drawn.get(split, 0)), epochs, stage["trainer"]["devices"])

    before = [
        fit("PRETRAIN", line["spec"], line["spec"]["stage"], line["split"], line["spec"]["stage"]["epochs"])
        for line in proposal.pretrainings
    ]
    last = [
        fit("FINETUNE", trial["spec"], trial["spec"]["stages"][-1], trial["split"], trial["budget"])
        for trial in proposal.trials
    ]
    return before + last


def steps_of(
    sweep: Sweep,
    proposal: Proposal,
    scans: dict[str, pd.DataFrame],
    growth: Growth,
    known: Known,
    sizes: tuple[int, int],
    rows: SplitRows,
) -> list[Step]:
    """Every process of a run with its tasks, those of later rounds among them.

    scans: recipe -> rows of the scans that it prepares. sizes: most trials of a pack, most scans of a chunk. rows: of
    the proposal's splits.
    """
    fits, (trials_per_task, chunk_size), evaluate = fits_of(proposal, sweep), sizes, sweep.evaluate
    cut = sum(len(chunks(rows["scan_id"], chunk_size)) for rows in scans.values())
    number = sum(map(len, scans.values()))
    count = round(len(packs(proposal, trials_per_task, rows)) * growth.trials)
    probed = sum(1 for _ in probes(proposal))
    pretrainings = round(len(proposal.pretrainings) * growth.pretrainings)
    chosen = {strategy_of(trial) for trial in proposal.trials} if evaluate.explained else ()
    steps = [
        _simple("COHORT", 1, known),
        Step("PREPROCESS", cut, None if known.per_scan is None else known.per_scan * number),
        _simple("SUGGEST", growth.rounds, known),
        _training("PRETRAIN", pretrainings, fits, growth.pretrainings, known),
        _simple("PROBE", probed, known),
        _training("FINETUNE", count, fits, growth.epochs, known),
        _simple("EVALUATE", count, known),
        _simple("SELECT", int(bool(chosen)), known),
        _simple("EXPLAIN", min(len(chosen), count), known),
        _simple("RANK", 1, known),
    ]
    return [step for step in steps if step.tasks]


def _simple(process: str, tasks: int, known: Known) -> Step:
    mean = known.trace.mean(process) if known.trace else None
    return Step(process, tasks, None if mean is None else mean * tasks)


def _training(process: str, tasks: int, fits: list[Fit], more: float, known: Known) -> Step:
    """more: how many times the trainings of the first round all of them are."""
    own = [fit for fit in fits if fit.process == process]
    found = [fit.seconds(known.rates) for fit in own]
    if any(one is None for one in found):
        return Step(process, tasks, None)
    start = known.beside.get(process, 0.0) * tasks
    wall = sum(seconds / fit.devices for (seconds, _), fit in zip(found, own)) * more + start
    return Step(process, tasks, wall, sum(seconds for seconds, _ in found) * more + start)
