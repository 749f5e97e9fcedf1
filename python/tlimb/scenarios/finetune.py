"""FINETUNE: the last stage of each trial of a pack, from the job folder to a folder a model."""

from pathlib import Path

import pandas as pd

from tlimb.architectures.weights import save_weights
from tlimb.data.fingerprint import recipe_of
from tlimb.errors import InputError
from tlimb.evaluation.predict import images_key
from tlimb.files import digest, read_json
from tlimb.persons import person_digest
from tlimb.scenarios.budget import STATE, Budget, require_own_states
from tlimb.scenarios.job import (
    Job,
    Pretrained,
    check_encoder,
    read_job,
    read_pretrained,
    require_unchanged,
    start_digest,
    start_of,
)
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.progress import TrainingFailed
from tlimb.scenarios.results import Settings, carry_through, keep_for, learned_from, outcome, write_history
from tlimb.scenarios.train import train
from tlimb.search.scans import SECOND, TRAINING
from tlimb.state import Kept
from tlimb.store import Store
from tlimb.weights.statistics import statistics


def finetune(
    job_folder,
    store_folder,
    encoders_folder,
    out,
    settings: Settings,
    files: dict[str, Path] | None = None,
    states: Path | None = None,
) -> None:
    """Train every trial of a pack, to its budget, into out/<trial id>/.

    files: of weights and maps, path as the sweep writes it -> where it lies now. states: a folder with what the rung
    before left of trials that go on, <trial id>/ each. A trial that diverges or raises, or whose rung before did,
    leaves model.json with its reason and the pack goes on. Raises InputError, before anything is trained, for leaks,
    for encoders made from scans prepared otherwise, for states of other trials, rungs or data, and for files that are
    not what they were.
    """
    job, files = read_job(job_folder), files or {}
    require_unchanged(job, files)
    store = Store(store_folder, job.facts["shards"])
    inits = {name: read_pretrained(Path(encoders_folder) / name) for name in job.facts["inits"]}
    trials = sorted(job.facts["trials"], key=images_key)
    starts = [start_of(trial["spec"]["stages"][-1], inits.get(trial["init"]), files) for trial in trials]
    _check(job, trials, starts, store)
    seen = job.rows[job.rows["role"].isin(["train", "validation", *SECOND])]
    source = Source(store, seen["scan_id"].tolist(), settings.device, settings.trusted)
    learned = [_learned(trial, job, store, encoder, files) for trial, encoder in zip(trials, starts)]
    budgets = [_budget(trial, digest(data), states, out) for trial, data in zip(trials, learned)]
    require_own_states(budgets)
    for trial, encoder, data, budget in zip(trials, starts, learned, budgets):
        kept = keep_for(trial["id"], trial["budget"], data, settings)
        _trial(trial, job, encoder, files, source, Path(out) / trial["id"], kept, budget)


def _learned(trial: dict, job: Job, store: Store, encoder: Pretrained | None, files: dict[str, Path]) -> dict:
    start = start_digest(trial["spec"]["stages"][-1], encoder, files)
    return learned_from(job.split(trial["split"]), job.facts, store, start)


def _budget(trial: dict, data: str, states, out) -> Budget:
    """How far a trial is trained now: to its last epoch, or to one after which another rung can follow."""
    identity, continues = trial["id"], trial.get("continues")
    before = Path(states).absolute() / identity if states is not None and continues is not None else None
    paused = trial["budget"] < trial["spec"]["stages"][-1]["epochs"]
    after = Path(out).absolute() / identity / STATE if paused else None
    return Budget(identity, data, trial["budget"], continues, before, after)


def _check(job: Job, trials: list[dict], starts: list[Pretrained | None], store: Store) -> None:
    asked = {
        (trial["split"], encoder.folder, _disjoint(trial)): encoder for trial, encoder in zip(trials, starts) if encoder
    }
    problems = []
    for split, folder, disjoint in sorted(asked):
        roles = {"validation", "test"} | (set(TRAINING) if disjoint else set())
        try:
            check_encoder(asked[split, folder, disjoint], store, job.split(split), roles, f"split {split}")
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def _disjoint(trial: dict) -> bool:
    """Whether the target's training persons, too, were barred from every earlier stage."""
    earlier = trial["spec"]["stages"][:-1]
    return bool(earlier) and all(stage["disjoint"] for stage in earlier)


def _trial(
    trial: dict,
    job: Job,
    encoder: Pretrained | None,
    files: dict[str, Path],
    source: Source,
    folder: Path,
    kept: Kept,
    budget: Budget,
) -> None:
    spec, rows = trial["spec"], job.split(trial["split"])
    stage, columns = spec["stages"][-1], job.facts["columns"]
    run = StageRun(spec["architecture"], stage, spec["seed"], rows, job.labels, encoder, files, columns, budget)
    about = _about(trial, rows, encoder, source.store) | {"licence": job.facts["licence"]}
    carry_through(folder, "model.json", about, kept, lambda: _train(run, source, kept, folder))


def _train(run: StageRun, source: Source, kept: Kept, folder: Path) -> dict:
    if run.encoder is not None and run.encoder.failed:
        raise TrainingFailed(run.encoder.failed)
    training = prepare(run, source)
    progress = train(training, kept, source.device)
    save_weights(folder / "model.safetensors", training.network.weights())
    write_history(folder, progress)
    view = source.view(run.stage["data"], training.normalise)
    return outcome(training, progress, source.device) | {"statistics": statistics(run, view)}


def _regions(store: Store) -> list[str] | None:
    """The regions of the store's time series in their order, as shards that hold scans have them; None of images."""
    headers = (read_json(store.folder / f"shard-{shard}.json") for shard in store.shards)
    return next((header.get("regions") for header in headers if header["n"]), None)


def _about(trial: dict, rows: pd.DataFrame, encoder: Pretrained | None, store: Store) -> dict:
    spec, stage = trial["spec"], trial["spec"]["stages"][-1]
    before = encoder.facts["persons"] if encoder is not None else []
    return {
        "id": trial["id"],
        "candidate": trial["candidate"],
        "init": trial["init"],
        "strategy": stage["strategy"],
        "split": trial["split"],
        "budget": trial["budget"],
        "stage": stage["name"],
        "seed": spec["seed"],
        "architecture": spec["architecture"],
        **{key: stage["data"][key] for key in ("module", "dataset", "hooks")},
        "fingerprint": store.fingerprint,
        "recipe": recipe_of(store),
        "regions": _regions(store),
        "persons": sorted({*before, *map(person_digest, rows["person"])}),
        "monitor": stage["monitor"],
        "n": {role: int((rows["role"] == role).sum()) for role in ("train", "validation", "test", *SECOND)},
        "spec": spec,
    }
