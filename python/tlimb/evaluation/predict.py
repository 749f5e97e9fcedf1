"""Predictions and scores of saved models. Nothing here trains, so Lightning is not imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlimb.architectures.build import build_network
from tlimb.architectures.forward import run
from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights, read_weights, select
from tlimb.data.fingerprint import fingerprint_problems
from tlimb.data.images import CPU, Images
from tlimb.data.normalise import build_normaliser
from tlimb.data.targets import Target, read_targets
from tlimb.data.view import View, build_module, build_view, may_stay_on_gpu
from tlimb.errors import InputError
from tlimb.evaluation.metrics import score
from tlimb.files import canonical_json, read_json, write_json, write_parquet
from tlimb.store import Store

LOOKS = ("module", "normalise", "dataset", "hooks")
"""What in model.json says how scans reach the network."""


@dataclass(frozen=True)
class Model:
    """A saved network with its targets and all that model.json says."""

    network: Network
    targets: list[Target]
    facts: dict


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: resamples of persons, confidence (0 to 1), seed."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def read_model(folder, trusted=()) -> Model:
    """The model in `folder`, whole: every tensor must match. Raises InputError where it does not."""
    folder = Path(folder)
    facts, tensors = read_json(folder / "model.json"), read_weights(folder / "model.safetensors")
    targets = read_targets(facts["targets"])
    outputs = {target.name: target.outputs for target in targets}
    shape, heads = tuple(facts["input_shape"]), facts["heads"]
    network = build_network(facts["architecture"], shape, outputs, facts["seed"], trusted, heads, facts["recipe"])
    source = str(folder / "model.safetensors")
    load_weights(network.encoder, select(tensors, "encoder."), source)
    for target in outputs:
        load_weights(network.head(target), select(tensors, f"heads.{target}."), source)
    return Model(network, targets, facts)


def predict(
    network: Network, targets: Sequence[Target], rows: pd.DataFrame, view: View, device: torch.device
) -> pd.DataFrame:
    """Predictions, as in predictions-<set>.parquet, for those rows (scan_id, person, labels) that have a label.

    No label is told to a dataset or a hook: they see scans and persons, and targets that are missing.
    """
    unlabelled = rows[["scan_id", "person"]].assign(**{target.name: np.nan for target in targets})
    names = [target.name for target in targets]
    outputs = run(network, names, view.dataset(unlabelled, targets), view, device)
    tables = [_table(target, rows, outputs[target.name]) for target in targets]
    return pd.concat(tables, ignore_index=True).sort_values(["target", "scan_id"], ignore_index=True)


def _table(target: Target, rows: pd.DataFrame, outputs: np.ndarray) -> pd.DataFrame:
    truth = target.truth(rows[target.name])
    prediction, probabilities = target.decode(outputs)
    seen = np.where(np.isnan(truth), np.nan, truth > 0) if target.kind == "survival" else np.full(len(rows), np.nan)
    columns = {
        "scan_id": rows["scan_id"].to_numpy(),
        "person": rows["person"].to_numpy(),
        "target": target.name,
        "truth": np.abs(truth) if target.kind == "survival" else truth,
        "prediction": prediction,
        "truth_label": pd.Series(target.names(truth), dtype="str"),
        "prediction_label": pd.Series(target.names(prediction), dtype="str"),
        "probabilities": [None] * len(rows) if probabilities is None else list(probabilities),
        "event": seen,
    }
    return pd.DataFrame(columns)[~np.isnan(truth)]


def scores(predictions: pd.DataFrame, targets: Sequence[Target], part: str, bootstrap: Bootstrap) -> dict:
    """What scores-<set>.json says of a finished model, but for its ids."""
    facts = {target.name: {"kind": target.kind, "classes": list(target.classes)} for target in targets}
    sampling = {"resamples": bootstrap.resamples, "confidence": bootstrap.confidence, "seed": bootstrap.seed}
    return _heading(part, bootstrap) | {
        "n": {"scans": predictions["scan_id"].nunique(), "persons": predictions["person"].nunique()},
        "targets": score(predictions, facts, **sampling),
    }


def _heading(part: str, bootstrap: Bootstrap, reason: str = "") -> dict:
    return {
        "set": part,
        "status": "failed" if reason else "ok",
        "reason": reason,
        "n": {"scans": 0, "persons": 0},
        "bootstrap": {
            "n": bootstrap.resamples,
            "confidence": bootstrap.confidence,
            "unit": "person",
            "seed": bootstrap.seed,
        },
        "targets": {},
    }


def evaluate(job, store_folder, models, out, bootstrap: Bootstrap, device: torch.device, trusted=()) -> None:
    """Predict and score validation, test and external parts for every trial of a pack, into out/<trial id>/.

    job: the pack's folder; models: a folder with <trial id>/ folders. A failed trial gets scores that say so.
    Raises InputError for a model that does not load whole or was trained on scans prepared otherwise.
    """
    facts = read_json(Path(job) / "job.json")
    rows = pd.concat([pd.read_parquet(Path(job) / name) for name in ("table-validation.parquet", "table-test.parquet")])
    store = Store(store_folder, facts["shards"])
    view, shown = None, ""
    for trial in sorted(facts["trials"], key=images_key):
        folder, saved = Path(out) / trial["id"], Path(models) / trial["id"]
        own = rows[rows["split"] == trial["split"]]
        parts = {role.replace(":", "-"): part for role, part in own.groupby("role")}
        ids = {"id": trial["id"], "candidate": trial["candidate"]}
        about = read_json(saved / "model.json")
        if about["status"] != "ok":
            for name in parts:
                write_json(folder / f"scores-{name}.json", ids | _heading(name, bootstrap, about["reason"]))
            continue
        problems = fingerprint_problems(f"model {trial['id']}", about, store)
        if problems:
            raise InputError(problems)
        model, key = read_model(saved, trusted), canonical_json([about[name] for name in LOOKS])
        if key != shown:
            view = None  # given back before the next set of images is read: each may fill the memory meant for one
            torch.cuda.empty_cache()
            view, shown = _view(about, store, rows["scan_id"], device, trusted), key
        for name, part in parts.items():
            table = predict(model.network, model.targets, part, view, device)
            write_parquet(folder / f"predictions-{name}.parquet", table)
            write_json(folder / f"scores-{name}.json", ids | scores(table, model.targets, name, bootstrap))


def images_key(trial: dict) -> str:
    """Trials that may share images stand together where they are sorted by this."""
    data = trial["spec"]["stages"][-1]["data"]
    return canonical_json([data["module"], data["normalise"], trial["init"]])


def _view(about: dict, store: Store, scan_ids: pd.Series, device: torch.device, trusted) -> View:
    """How a model's scans looked when it was trained, for these scans."""
    module = build_module(about["module"], trusted)
    normalise = build_normaliser(about["normalise"], trusted) if about["normalise"] else None
    place = device if may_stay_on_gpu(about, module) else CPU
    images = Images(store, module, sorted(set(scan_ids)), normalise=normalise, device=place)
    return build_view(images, about, trusted)
