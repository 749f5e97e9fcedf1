"""EXPLAIN: the selected trials of a pack, from their models to explanations/<trial id>/."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlimb.architectures.forward import encode
from tlimb.data.fingerprint import fingerprint_problems
from tlimb.data.modules import AXES
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import Model, images_key, read_model, view_of
from tlimb.evaluation.linear_probe import parts_of
from tlimb.evaluation.tables import unlabelled
from tlimb.explain import features as layouts
from tlimb.explain.harmonised import left_out, on_test, why_not, with_columns
from tlimb.explain.methods import METHODS, Asked, Found
from tlimb.explain.output import DoesNotApply
from tlimb.explain.picture import Caption
from tlimb.explain.reconstruct import CODED, SHOWN, codes, draw_grid, histograms, read_autoencoder, rebuilt
from tlimb.explain.scans import drawn, groups
from tlimb.explain.space import Space, presented, space_of
from tlimb.explain.write import label_columns, write_explanation, write_features, write_map
from tlimb.files import read_json
from tlimb.seeds import seed_for
from tlimb.store import Store

FEW = 4
"""Positions along the longest axis below which a map says so."""


@dataclass(frozen=True)
class Inputs:
    """Paths: the job of a pack, the store of its recipe, folders of models and encoders, cohort.parquet or None."""

    job: str | Path
    store: str | Path
    models: str | Path
    encoders: str | Path | None = None
    cohort: str | Path | None = None
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One trial to explain: its line of selected.json, its model, its held-out rows, and how it sees them."""

    chosen: dict
    model: Model
    rows: pd.DataFrame
    view: View
    store: Store
    device: torch.device

    @property
    def target(self) -> Target:
        """The first target of the last stage: what candidates are ranked by."""
        return self.model.targets[0]


def explain(inputs: Inputs, chosen: list[dict], settings: Evaluate, out, device: torch.device) -> None:
    """Explain those trials of a pack that were selected, into out/<trial id>/.

    chosen: the trials of selected.json. settings: `seed`, `explain` and `explained`, and where features are harmonised
    `harmonise`, `keeping`, `bootstrap` and `confidence`. Test scans are looked at once everything is chosen, and choose
    nothing. Raises InputError for a model that does not load whole, or was trained on scans prepared otherwise.
    """
    facts, known = read_json(Path(inputs.job) / "job.json"), {trial["id"]: trial for trial in chosen}
    tables = [pd.read_parquet(Path(inputs.job) / f"table-{part}.parquet") for part in ("validation", "test")]
    rows, store = pd.concat(tables, ignore_index=True), Store(inputs.store, facts["shards"])
    for line in sorted(facts["trials"], key=images_key):
        if line["id"] in known:
            trial = _read(known[line["id"]], rows[rows["split"] == line["split"]], store, inputs, device)
            _explain(trial, inputs, settings, Path(out) / line["id"])


def _read(chosen: dict, rows: pd.DataFrame, store: Store, inputs: Inputs, device: torch.device) -> Trial:
    folder = Path(inputs.models) / chosen["id"]
    problems = fingerprint_problems(f"model {chosen['id']}", read_json(folder / "model.json"), store)
    if problems:
        raise InputError(problems)
    model = read_model(folder, inputs.trusted)
    model.network.to(device).eval().requires_grad_(False)
    view = view_of(model.facts, store, rows["scan_id"], device, inputs.trusted)
    return Trial(chosen, model, rows.reset_index(drop=True), view, store, device)


def _explain(trial: Trial, inputs: Inputs, settings: Evaluate, folder: Path) -> None:
    seed = seed_for(settings.seed, "explained", trial.model.facts["split"])
    test = trial.rows[trial.rows["role"] == "test"]
    scans = drawn(test, trial.target, settings.explained, seed)
    said = {name: trial.chosen[name] for name in ("id", "candidate", "name", "selected")}
    said |= {"set": "test", "target": trial.target.name, "kind": trial.target.kind, "space": None}
    said |= {"scans": scans["scan_id"].tolist(), "methods": {}}
    if settings.explain and len(scans):
        images = presented(trial.view, scans, trial.model.targets, trial.device)
        space = space_of(trial.store, trial.view, said["scans"], images)
        said["space"] = "MNI152" if space.mni else "own"
        for name in settings.explain:
            said["methods"][name] = _method(name, trial, scans, images, space, folder)
    elif settings.explain:
        reason = "no test scan has a label of the target"
        said["methods"] = {name: _left_out(reason) | {"scans": 0, "maps": []} for name in settings.explain}
    said["features"] = _features(trial, inputs, seed, folder)
    said["reconstructions"] = _reconstructions(trial, inputs, seed, folder)
    said["harmonised"] = _harmonised(trial, inputs, settings)
    write_explanation(folder, said)


def _method(name: str, trial: Trial, scans: pd.DataFrame, images: torch.Tensor, space: Space, folder: Path) -> dict:
    """A method's entry of explain.json; its maps are written."""
    method, found = METHODS[name], groups(scans, trial.target)
    asked = [Asked(trial.model.network, trial.target, group.outcome, len(scans)) for group in found]
    try:
        made = [method.explain(one, images[group.places.tolist()]) for one, group in zip(asked, found)]
    except DoesNotApply as refusal:
        return _left_out(str(refusal)) | {"scans": 0, "maps": []}
    signed, unit = method.signed[found[0].outcome is None], method.unit or asked[0].unit
    maps = []
    for number, (group, part) in enumerate(zip(found, made), start=1):
        title = f"{name.replace('_', ' ')}: {group.name or 'all'} (mean of {len(group.places)})"
        stem, mean = f"{name.replace('_', '-')}-{number}", space.bring(part.maps)
        written = write_map(folder, stem, mean, space, Caption(title, unit, signed))
        maps.append({"class": group.name, "scans": len(group.places)} | written | _placed(part.about, space))
    entry = {"status": "ok", "reason": _caution(made), "scans": len(scans), "unit": unit, "signed": signed}
    return entry | {"settings": made[0].settings, "maps": maps}


def _placed(about: dict, space: Space) -> dict:
    """What a method says of some scans, with the place in mm of each slice that has a weight."""
    if "slices" not in about or space.place is None:
        return about
    slices, axis = about["slices"], AXES[about["slices"]["axis"]]
    count, length = len(slices["weights"]), space.seen.shape[1 + axis]
    mm = space.place.along(axis, np.arange(count) + (length - count) / 2, space.affine)
    return about | {"slices": slices | {"mm": np.round(mm, 2).tolist()}}


def _caution(made: list[Found]) -> str:
    """What a reader of maps must know."""
    missed, size = sum(one.about.get("incomplete", 0) for one in made), made[0].settings.get("size", [])
    if missed:
        scans = "1 scan" if missed == 1 else f"{missed} scans"
        return f"the shares of {scans} sum to something else than the output's difference"
    if size and max(size) < FEW:
        return f"the maps have {' x '.join(map(str, size))} positions, which tell no more than which part of the image"
    return ""


def _left_out(reason: str) -> dict:
    return {"status": "left out", "reason": reason}


def _features(trial: Trial, inputs: Inputs, seed: int, folder: Path) -> dict:
    """Held-out scans laid out by their features: features.parquet and its entry of explain.json."""
    held_out = trial.rows.sort_values(["role", "scan_id"], ignore_index=True)
    rows = held_out
    if len(held_out) > layouts.MOST:
        order = np.random.default_rng(seed).permutation(len(held_out))[: layouts.MOST]
        rows = held_out.iloc[np.sort(order)].reset_index(drop=True)
    targets, features = trial.model.targets, _encoded(trial, rows, trial.view)
    components, shares = layouts.pca(features)
    near, perplexity = layouts.tsne(features, seed)
    graph, neighbours = layouts.umap(features, seed)
    table = rows[["scan_id", "person"]].assign(set=rows["role"].str.replace(":", "-"))
    for name, found in (("pc", components), ("tsne", near), ("umap", graph)):
        table[[f"{name}1", f"{name}2"]] = found.astype("float64")
    labels = label_columns(rows, [target.name for target in targets], inputs.cohort)
    write_features(folder, pd.concat([table, labels], axis=1))
    facts = {"file": "features.parquet", "scans": len(rows), "of": len(held_out), "width": features.shape[1]}
    facts |= {"explained_variance": shares, "perplexity": perplexity, "neighbours": neighbours}
    return {"status": "ok", "reason": ""} | facts | {"columns": list(labels)}


def _encoded(trial: Trial, rows: pd.DataFrame, view: View) -> np.ndarray:
    """Features (n, F) of those rows, whose labels nobody is told."""
    dataset = view.dataset(unlabelled(rows, trial.model.targets), trial.model.targets)
    return encode(trial.model.network, dataset, view, trial.device)


def _harmonised(trial: Trial, inputs: Inputs, settings: Evaluate) -> dict | None:
    """What harmonising over sites changes on test people; null where nobody asked."""
    if settings.harmonise is None:
        return None
    reason = why_not(trial.model.facts["strategy"], trial.target)
    test = trial.rows[trial.rows["role"] == "test"]
    if not reason and not len(test):
        reason = "there are no test scans"
    elif not reason and inputs.cohort is None:
        reason = f"the table with '{settings.harmonise}' of the scans was not given"
    if reason:
        return left_out(reason, settings)
    known, split = pd.read_parquet(Path(inputs.job) / "table.parquet"), trial.model.facts["split"]
    train = known[(known["role"] == "train") & (known["split"] == split)]
    view = view_of(trial.model.facts, trial.store, train["scan_id"], trial.device, inputs.trusted)
    features = np.concatenate([_encoded(trial, train, view), _encoded(trial, test, trial.view)]).astype(float)
    scans = [*train["scan_id"], *test["scan_id"]]
    row = {scan: number for number, scan in enumerate(scans) if np.isfinite(features[number]).all()}
    target, columns = trial.target, trial.chosen["columns"]
    rows = with_columns(pd.concat([train, test], ignore_index=True), inputs.cohort, columns)
    parts = parts_of(rows, "test", features, row, target)
    return on_test(*parts, target, columns, settings, trial.chosen["metric"])


def _reconstructions(trial: Trial, inputs: Inputs, seed: int, folder: Path) -> dict:
    """What the decoders behind a model make of test scans: the model's own, and those of its pretrainings."""
    found, reasons = [], []
    for path in _networks(trial, inputs):
        try:
            found.append(_rebuilt(path, trial, inputs, seed, folder))
        except DoesNotApply as refusal:
            reasons.append(f"{path.name}: {refusal}")
    if found:
        return {"status": "ok", "reason": "; ".join(reasons), "networks": found}
    return _left_out("; ".join(reasons) or "no network has a decoder") | {"networks": []}


def _networks(trial: Trial, inputs: Inputs) -> list[Path]:
    """The folder of the model, then of the pretraining that it starts from and of those before, as far as they are
    there."""
    folders = [Path(inputs.models) / trial.chosen["id"]]
    identity = trial.chosen["init"]
    while identity and inputs.encoders and (folder := Path(inputs.encoders) / identity / "encoder.json").exists():
        folders.append(folder.parent)
        identity = read_json(folder).get("parent", "")
    return folders


def _rebuilt(path: Path, trial: Trial, inputs: Inputs, seed: int, folder: Path) -> dict:
    """The entry of one autoencoder; its picture is written."""
    auto = read_autoencoder(path, inputs.trusted)
    problems = fingerprint_problems(path.name, auto.facts, trial.store)
    if problems:
        raise DoesNotApply(problems[0].message)
    test = trial.rows[trial.rows["role"] == "test"].sort_values("scan_id").drop_duplicates("person")
    if not len(test):
        raise DoesNotApply("there are no test scans")
    order = np.random.default_rng(seed).permutation(len(test))[:CODED]
    rows = test.iloc[order].reset_index(drop=True)
    view = view_of(auto.facts, trial.store, rows["scan_id"], trial.device, inputs.trusted)
    images = presented(view, rows, [], trial.device)
    auto.network.to(trial.device)
    if auto.term is not None:
        auto.term.to(trial.device)
    found, numbers = [], []
    for part in images.split(SHOWN):
        made = rebuilt(auto, part)
        found.append((made.made - made.images).square().flatten(1).mean(1).cpu())
        numbers.append(codes(auto.network, part))
        if len(found) == 1:
            draw_grid(folder / f"reconstruction-{path.name}.png", made, f"held-out scans, {auto.facts['stage']}")
    facts = {"network": path.name, "stage": auto.facts["stage"], "png": f"reconstruction-{path.name}.png"}
    facts |= {"scans": rows["scan_id"].tolist()[:SHOWN], "error": float(torch.cat(found).mean())}
    return facts | {"code": histograms(torch.cat(numbers))}
