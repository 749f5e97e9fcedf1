"""PRETRAIN: one stage of a pretraining, from its job folder to its encoder folder."""

from pathlib import Path

import pandas as pd
import torch

from tlimb.architectures.weights import save_weights, select
from tlimb.data.fingerprint import recipe_of
from tlimb.data.view import View
from tlimb.evaluation.predict import Bootstrap, predict, scores
from tlimb.evaluation.reconstruction import scores_without_targets
from tlimb.files import write_json
from tlimb.persons import person_digest
from tlimb.scenarios.calibration import temperatures
from tlimb.scenarios.fisher import fisher_diagonal, require_drawable
from tlimb.scenarios.job import (
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
from tlimb.scenarios.scenario import Training
from tlimb.scenarios.train import train
from tlimb.state import Kept
from tlimb.store import Store
from tlimb.weights.statistics import statistics


def pretrain(
    job_folder, store_folder, parent_folder, out, settings: Settings, files: dict[str, Path] | None = None
) -> Path:
    """Train the job's stage, from its parent's encoder if it has one, into out/<encoder id>/, the folder returned.

    files: of weights and maps, path as the sweep writes it -> where it lies now. It also scores the stage's own
    held-out part, and keeps what terms of the next stage may ask for. A training that diverges or raises leaves
    encoder.json with the reason. Raises InputError where a person stands in two roles, for weights made from scans
    prepared otherwise, for published ones that have seen somebody whom this stage holds out, and for files that have
    changed.
    """
    job, files = read_job(job_folder), files or {}
    require_unchanged(job, files)
    line = job.facts["pretraining"]
    store = Store(store_folder, job.facts["shards"])
    rows, stage = job.split(line["split"]), line["spec"]["stage"]
    parent = start_of(stage, read_pretrained(parent_folder) if line["parent"] else None, files)
    if parent is not None:
        published = stage["weights"] is not None and stage["weights"]["path"] is not None
        barred = {"validation", "test"} if published else set()
        check_encoder(parent, store, rows, barred, f"pretraining {line['id']}")
    columns = job.facts.get("columns", {})
    run = StageRun(line["spec"]["architecture"], stage, line["seed"], rows, job.labels, parent, files, columns)
    data = learned_from(rows, job.facts, store, start_digest(stage, parent, files))
    kept = keep_for(line["id"], stage["epochs"], data, settings)
    folder, source = Path(out) / line["id"], Source(store, rows["scan_id"].tolist(), settings.device, settings.trusted)
    about = _about(line, rows, parent, store) | {"licence": job.facts["licence"]}
    carry_through(folder, "encoder.json", about, kept, lambda: _train(line["id"], run, source, kept, folder))
    return folder


def _train(identity: str, run: StageRun, source: Source, kept: Kept, folder: Path) -> dict:
    if run.encoder is not None and run.encoder.failed:
        raise TrainingFailed(run.encoder.failed)
    training = prepare(run, source)
    if run.stage["fisher"]:
        require_drawable(run.stage, run.labels, training.network.encoder)
    progress = train(training, kept, source.device)
    tensors = training.network.weights()
    save_weights(folder / "encoder.safetensors", select(tensors, "encoder."))
    save_weights(folder / "heads.safetensors", select(tensors, "heads."))
    own = training.objective.on_images.state_dict() if training.objective.on_images is not None else {}
    if own:
        save_weights(folder / "objective.safetensors", own)
    write_history(folder, progress)
    view, more = source.view(run.stage["data"], training.normalise), {}
    if training.targets:
        more = _kept_for_the_next(training, run, view, source.device, folder)
    write_json(folder / "scores.json", {"id": identity} | _scores(training, run, view, source.device))
    return outcome(training, progress, source.device) | more | {"statistics": statistics(run, view)}


def _scores(training: Training, run: StageRun, view: View, device: torch.device) -> dict:
    """Of the stage's own held-out part."""
    held_out, network, bootstrap = run.rows[run.rows["role"] == "test"], training.network, Bootstrap()
    if training.targets:
        table = predict(network, training.targets, held_out, view, device)
        return scores(table, training.targets, "test", bootstrap)
    term, columns = training.objective.on_images, training.columns
    return scores_without_targets(network, term, held_out, view, device, bootstrap, columns)


def _kept_for_the_next(training: Training, run: StageRun, view: View, device: torch.device, folder: Path) -> dict:
    """What terms of the next stage may ask for: temperatures for encoder.json, the Fisher information in a file."""
    network, targets = training.network, training.targets
    if run.stage["fisher"]:
        train = view.dataset(run.rows[run.rows["role"] == "train"], targets)
        save_weights(folder / "fisher.safetensors", fisher_diagonal(network, targets, train, view, run.seed, device))
    validation = run.rows[run.rows["role"] == "validation"]
    return {"temperatures": temperatures(network, targets, validation, view, device)}


def _about(line: dict, rows: pd.DataFrame, parent: Pretrained | None, store: Store) -> dict:
    before = parent.facts["persons"] if parent is not None else []
    return {
        "id": line["id"],
        "parent": line["parent"],
        "stage": line["stage"],
        "seed": line["seed"],
        "architecture": line["spec"]["architecture"],
        **{key: line["spec"]["stage"]["data"][key] for key in ("module", "dataset", "hooks")},
        "fingerprint": store.fingerprint,
        "recipe": recipe_of(store),
        "persons": sorted({*before, *map(person_digest, rows["person"])}),
        "monitor": line["spec"]["stage"]["monitor"],
        "objective": line["spec"]["stage"]["objective"],
        "n": {role: int((rows["role"] == role).sum()) for role in ("train", "validation", "test")},
    }
