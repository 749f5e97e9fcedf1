"""Predictions and scores of saved models. Nothing here trains, so Lightning is not imported."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlimb.architectures.build import build_network
from tlimb.architectures.forward import passed, run
from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights, read_weights, select
from tlimb.data.fingerprint import fingerprint_problems
from tlimb.data.images import CPU, Images
from tlimb.data.normalise import build_normaliser
from tlimb.data.targets import Target, read_targets
from tlimb.data.view import View, build_module, build_view, may_stay_on_gpu
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.dropout import add_dropout, dropped_table
from tlimb.evaluation.familiar import fit_familiar
from tlimb.evaluation.fitted import failed, fit, with_called, write_fitted
from tlimb.evaluation.scores import heading, scores
from tlimb.evaluation.tables import prediction_table, unlabelled
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
    """Predictions for those rows (scan_id, person, labels) that have a label: predictions-<set>.parquet but for what
    depends on validation.

    No label is told to a dataset or a hook: they see scans and persons, and targets that are missing.
    """
    dataset = view.dataset(unlabelled(rows, targets), targets)
    outputs = run(network, [target.name for target in targets], dataset, view, device)
    return prediction_table(targets, rows, {target.name: target.decode(outputs[target.name]) for target in targets})


def evaluate(job, store_folder, models, out, settings: Evaluate, device: torch.device, trusted=()) -> None:
    """Predict and score validation, test and external parts for every trial of a pack, into out/<trial id>/.

    job: the pack's folder; models: a folder with <trial id>/ folders. What is fitted after training is fitted on the
    predictions of validation and written, as fitted.json, before any other part is predicted. A failed trial gets files
    that say so. Raises InputError for a model that does not load whole or was trained on scans prepared otherwise.
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
            _write_failed(folder, ids, parts, settings, about)
            continue
        problems = fingerprint_problems(f"model {trial['id']}", about, store)
        if problems:
            raise InputError(problems)
        model, key = read_model(saved, trusted), canonical_json([about[name] for name in LOOKS])
        if key != shown:
            view = None  # given back before the next set of images is read: each may fill the memory meant for one
            torch.cuda.empty_cache()
            view, shown = view_of(about, store, rows["scan_id"], device, trusted), key
        _evaluate(model, view, parts, ids, folder, settings, device)


def _write_failed(folder: Path, ids: dict, parts: Iterable[str], settings: Evaluate, about: dict) -> None:
    write_fitted(folder, ids | failed(about["reason"]))
    for name in parts:
        found = heading(name, _bootstrap(settings), about["reason"])
        write_json(folder / f"scores-{name}.json", ids | {"budget": about["budget"]} | found)


def _bootstrap(settings: Evaluate) -> Bootstrap:
    return Bootstrap(settings.bootstrap, settings.confidence, settings.seed)


def _evaluate(
    model: Model, view: View, parts: dict, ids: dict, folder: Path, settings: Evaluate, device: torch.device
) -> None:
    """All parts {name: rows} of a finished model, validation first, into its folder."""
    network, targets, fitted = model.network, model.targets, None
    for name in sorted(parts, key=lambda part: (part != "validation", part)):
        rows = parts[name]
        dataset = view.dataset(unlabelled(rows, targets), targets)
        features, outputs = passed(network, [target.name for target in targets], dataset, view, device)
        decoded = {target.name: target.decode(outputs[target.name]) for target in targets}
        table = prediction_table(targets, rows, decoded)
        if fitted is None:
            fitted = _fit(table, features, rows, targets, name, settings)
            write_fitted(folder, ids | fitted)
        table = with_called(table, fitted)
        found = scores(table, targets, name, _bootstrap(settings), fitted)
        if settings.dropout:
            dropped = dropped_table(network, targets, rows, dataset, view, device, settings)
            dropped = None if dropped is None else with_called(dropped, fitted)
            add_dropout(found, dropped, settings.dropout, _bootstrap(settings))
            table["dropout_sd"] = np.nan if dropped is None else dropped["dropout_sd"]
        write_parquet(folder / f"predictions-{name}.parquet", table)
        write_json(folder / f"scores-{name}.json", ids | {"budget": model.facts["budget"]} | found)


def _fit(table, features, rows, targets, name: str, settings: Evaluate) -> dict:
    """What validation says, nothing where the first part is another one."""
    if name != "validation":
        return fit(table.iloc[:0], targets, settings)
    return fit(table, targets, settings) | {"features": fit_familiar(features, rows["person"].to_numpy(str))}


def images_key(trial: dict) -> str:
    """Trials that may share images stand together where they are sorted by this."""
    data = trial["spec"]["stages"][-1]["data"]
    return canonical_json([data["module"], data["normalise"], trial["init"]])


def view_of(about: dict, store: Store, scan_ids: pd.Series, device: torch.device, trusted) -> View:
    """How a model's scans looked when it was trained, for these scans."""
    module = build_module(about["module"], trusted)
    normalise = build_normaliser(about["normalise"], trusted) if about["normalise"] else None
    place = device if may_stay_on_gpu(about, module) else CPU
    images = Images(store, module, sorted(set(scan_ids)), normalise=normalise, device=place)
    return build_view(images, about, trusted)
