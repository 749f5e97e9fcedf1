"""PRETRAIN: one stage of a pretraining, from its job folder to its encoder folder."""

from pathlib import Path

import pandas as pd

from tlimb.architectures.weights import save_weights, select
from tlimb.data.fingerprint import recipe_of
from tlimb.evaluation.predict import Bootstrap, predict, scores
from tlimb.files import file_digest, write_json
from tlimb.scenarios.job import Pretrained, check_encoder, person_digest, read_job, read_pretrained
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.progress import TrainingFailed
from tlimb.scenarios.results import Settings, carry_through, keep_for, outcome, write_history
from tlimb.scenarios.sequential import fit
from tlimb.state import Kept
from tlimb.store import Store


def pretrain(job_folder, store_folder, parent_folder, out, settings: Settings) -> Path:
    """Train the job's stage, from its parent's encoder if it has one, into out/<encoder id>/, the folder returned.

    It also scores the stage's own held-out part. A training that diverges or raises leaves encoder.json with the
    reason. Raises InputError where a person stands in two roles, or for a parent made from scans prepared otherwise.
    """
    job = read_job(job_folder)
    line = job.facts["pretraining"]
    store = Store(store_folder, job.facts["shards"])
    rows = job.split(line["split"])
    parent = read_pretrained(parent_folder) if line["parent"] else None
    if parent is not None:
        check_encoder(parent, store, rows, set(), f"pretraining {line['id']}")
    run = StageRun(line["spec"]["architecture"], line["spec"]["stage"], line["seed"], rows, job.labels, parent)
    start = "" if parent is None or parent.failed else file_digest(parent.folder / "encoder.safetensors")
    kept = keep_for(line["id"], rows, run.stage, store, start, settings)
    folder, source = Path(out) / line["id"], Source(store, rows["scan_id"].tolist(), settings.device, settings.trusted)
    about = _about(line, rows, parent, store)
    carry_through(folder, "encoder.json", about, kept, lambda: _train(line["id"], run, source, kept, folder))
    return folder


def _train(identity: str, run: StageRun, source: Source, kept: Kept, folder: Path) -> dict:
    if run.encoder is not None and run.encoder.failed:
        raise TrainingFailed(run.encoder.failed)
    training = prepare(run, source)
    progress = fit(training, kept, source.device)
    tensors = training.network.weights()
    save_weights(folder / "encoder.safetensors", select(tensors, "encoder."))
    save_weights(folder / "heads.safetensors", select(tensors, "heads."))
    write_history(folder, progress)
    held_out, bootstrap = run.rows[run.rows["role"] == "test"], Bootstrap()
    view = source.view(run.stage["data"], training.normalise)
    table = predict(training.network, training.targets, held_out, view, source.device)
    write_json(folder / "scores.json", {"id": identity} | scores(table, training.targets, "test", bootstrap))
    return outcome(training, progress, source.device)


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
        "n": {role: int((rows["role"] == role).sum()) for role in ("train", "validation", "test")},
    }
