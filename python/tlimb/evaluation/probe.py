"""PROBE: what every encoder's frozen features are worth on the target's training people, before anything is fine-tuned.

`probe.json`: {"id", "recipe", "target", "kind", "classes", "harmonise": column or null, "keeping": [columns],
"encoders": [{"id", "status", "reason", "architecture": class, "stage", "seed", "weights", "features": width, "seconds",
"splits": [{"split", "n": {"train": scans, "validation": scans}, "scores": {score: value or null},
"notes": [text], "probe": {"penalty", "validation": {metric: value}}, "harmonised": null or {"column",
"validation": {metric: value}, "site": {"before", "after", "chance"}, "unharmonised": scans, "reason"}}]}], "note":
text}. The encoder `random` stands for one of the same architecture that nothing has trained, one for each architecture
that occurs. `weights` is the path of published weights that trials start from; stage and seed are null then.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tlimb.architectures.build import build_network
from tlimb.architectures.forward import passed
from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights
from tlimb.data.targets import Target, read_targets, softmax
from tlimb.data.view import View
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation import transferability
from tlimb.evaluation.harmonised import harmonise
from tlimb.evaluation.linear_probe import (
    Labelled,
    Part,
    cross_validated,
    finite,
    fit_probe,
    measured,
    parts_of,
    probed,
    says_nothing,
)
from tlimb.evaluation.predict import LOOKS, view_of
from tlimb.evaluation.published import Published, read_published
from tlimb.files import canonical_json, write_json
from tlimb.registry import class_name
from tlimb.scenarios.job import Job, Pretrained, check_encoder, read_job, read_pretrained
from tlimb.seeds import seed_for
from tlimb.store import Store

RANDOM = "random"
"""The id of an encoder with the weights that it is born with."""

SEED = seed_for(0, "probe") % 2**31
"""Of weights that nothing fills."""

KINDS = tuple(transferability.SCORE)
"""Kinds of target that can be probed."""


@dataclass(frozen=True)
class Known:
    """What an encoder makes of scans: features (n, F) and, for each head of classes or bins that it was trained with,
    the probabilities (n, Z) that it gives; row: scan_id -> its row."""

    features: np.ndarray
    heads: dict[str, np.ndarray]
    row: dict[str, int]


@dataclass
class Shown:
    """The scans of a job as encoders are shown them; those that look alike to two encoders in turn are read once."""

    store: Store
    scans: list[str]
    device: torch.device
    trusted: tuple[str, ...] = ()
    _last: tuple[str, View] | None = None

    def view(self, facts: dict) -> View:
        """All scans as an encoder with these facts saw its own."""
        key = canonical_json([facts[name] for name in LOOKS])
        if self._last is None or self._last[0] != key:
            self._last = None  # given back before the next images are read: each may fill the memory meant for one
            looks = {name: facts[name] for name in LOOKS}
            self._last = key, view_of(looks, self.store, pd.Series(self.scans), self.device, self.trusted)
        return self._last[1]


def probe(
    job_folder,
    store_folder,
    encoders_folder,
    out,
    settings: Evaluate,
    device: torch.device,
    trusted=(),
    files: dict[str, Path] | None = None,
) -> None:
    """Look at every encoder of a probe job, into out/<job id>/probe.json.

    settings: of which `seed`, `harmonise` and `keeping` count. files: of published weights and maps, path as the sweep
    writes it -> where it lies now. Each encoder passes over the scans once, one from published weights once for each
    normaliser that splits fit. Raises InputError for an encoder that was made from scans prepared otherwise, or by
    people whom a split validates on, and for files that are not what they were. Published weights that do not fit are
    a row that says so.
    """
    job = read_job(job_folder)
    name = job.facts["target"]
    target = Target(name, job.labels[name]["kind"], tuple(job.labels[name]["classes"]))
    store = Store(store_folder, job.facts["shards"])
    encoders = [read_pretrained(Path(encoders_folder) / identity) for identity in job.facts["inits"]]
    starts = read_published(job, files or {})
    _check(job, [*encoders, *(start.encoder for start in starts if start.encoder)], store)
    shown = Shown(store, sorted(set(job.rows["scan_id"])), device, tuple(trusted))
    rows, note = [], ""
    if target.kind not in KINDS:
        note = f"'{name}' is of kind {target.kind}; encoders are compared on {', '.join(KINDS)}"
        encoders, starts = [], []
    for identity, encoder in [*_with_random(encoders), *_published_with_random(starts, encoders, shown)]:
        row = _published_row if isinstance(encoder, Published) else _encoder_row
        rows.append(row(identity, encoder, job, target, shown, settings))
        print(f"{len(rows)}: {identity}: {rows[-1]['seconds']:.1f} s" + (rows[-1]["reason"] and ", failed"))
    facts = {"id": job.facts["id"], "recipe": job.facts["recipe"], "target": name, "kind": target.kind}
    facts |= {"classes": list(target.classes), "harmonise": settings.harmonise, "keeping": settings.keeping}
    write_json(Path(out) / job.facts["id"] / "probe.json", facts | {"encoders": rows, "note": note})


def _check(job: Job, encoders: list[Pretrained], store: Store) -> None:
    problems = []
    for split in sorted(set(job.rows["split"])):
        for encoder in encoders:
            try:
                check_encoder(encoder, store, job.split(split), {"validation"}, f"split {split}")
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)


def _with_random(encoders: list[Pretrained]) -> list[tuple[str, Pretrained]]:
    """The encoders by their ids, and before them one of each architecture and shape of input, to be left untrained."""
    whole = [one for one in encoders if not one.failed]
    kinds = {canonical_json([one.facts["architecture"], one.facts["input_shape"]]): one for one in whole}
    return [*((RANDOM, kinds[key]) for key in sorted(kinds)), *((one.facts["id"], one) for one in encoders)]


def _published_with_random(
    starts: list[Published], encoders: list[Pretrained], shown: Shown
) -> list[tuple[str, Published]]:
    """Published encoders by their ids, and before them one of each architecture and shape of input that no other
    encoder has, to be left untrained."""
    kinds = {
        canonical_json([one.facts["architecture"], one.input_shape(shown.store, shown.trusted)]): one for one in starts
    }
    whole = [one for one in encoders if not one.failed]
    known = {canonical_json([one.facts["architecture"], one.facts["input_shape"]]) for one in whole}
    return [*((RANDOM, kinds[key]) for key in sorted(set(kinds) - known)), *((one.facts["id"], one) for one in starts)]


def _encoder_row(
    identity: str, encoder: Pretrained, job: Job, target: Target, shown: Shown, settings: Evaluate
) -> dict:
    started, facts = time.monotonic(), encoder.facts
    untrained = identity == RANDOM
    about = {"id": identity, "status": "failed" if encoder.failed else "ok", "reason": encoder.failed}
    about |= {"architecture": class_name(facts["architecture"])}
    about |= {"stage": None if untrained else facts["stage"], "seed": None if untrained else facts["seed"]}
    about |= {"weights": None}
    if encoder.failed:
        return about | {"features": None, "seconds": 0.0, "splits": []}
    known = known_of(encoder, shown, untrained)
    splits = [
        {"split": split} | split_scores(known, rows, target, job.facts["columns"], settings)
        for split, rows in job.rows.groupby("split")
    ]
    width = known.features.shape[1]
    return about | {"features": width, "seconds": time.monotonic() - started, "splits": splits}


def _published_row(identity: str, start: Published, job: Job, target: Target, shown: Shown, settings: Evaluate) -> dict:
    started, untrained = time.monotonic(), identity == RANDOM
    about = {"id": identity, "status": "ok", "reason": "", "architecture": class_name(start.facts["architecture"])}
    about |= {"stage": None, "seed": None, "weights": None if untrained else start.path}
    known: dict[str, Known] = {}
    splits = []
    try:
        for split, rows in job.rows.groupby("split"):
            train = rows[rows["role"] == "train"]
            drawn = train.loc[train.index.repeat(train["times"]), "scan_id"].tolist()
            normalise = start.normaliser(drawn, shown.store, shown.trusted)
            key = canonical_json(normalise)
            if key not in known:
                known[key] = known_of_published(start, normalise, shown, untrained)
            splits.append({"split": split} | split_scores(known[key], rows, target, job.facts["columns"], settings))
    except InputError as error:
        about |= {"status": "failed", "reason": "; ".join(map(str, error.problems))}
        return about | {"features": None, "seconds": 0.0, "splits": []}
    width = known[key].features.shape[1]
    return about | {"features": width, "seconds": time.monotonic() - started, "splits": splits}


def known_of(encoder: Pretrained, shown: Shown, untrained: bool = False) -> Known:
    """What an encoder makes of scans, which it is shown as in its own training; `untrained`: with fresh weights.

    Scans whose features are not finite are left out of `row`.
    """
    facts = encoder.facts
    targets = [] if untrained else _of_classes(encoder)
    outputs = {one.name: one.outputs for one in targets}
    heads = {name: facts["heads"][name] for name in outputs if facts["heads"].get(name)}
    seed = SEED if untrained else facts["seed"]
    shape = tuple(facts["input_shape"])
    network = build_network(facts["architecture"], shape, outputs, seed, shown.trusted, heads, facts["recipe"])
    if not untrained:
        _load(network, encoder, list(outputs))
    return _known(network, targets, shown.view(facts), shown)


def known_of_published(start: Published, normalise: dict | None, shown: Shown, untrained: bool = False) -> Known:
    """What an encoder makes of scans with published weights alone, shown as the stage that starts from them shows its
    own. normalise: the normaliser as it was fitted, if any. Raises InputError for weights that do not fit."""
    targets = _of_classes(start.whole) if start.whole is not None and not untrained else []
    outputs = {one.name: one.outputs for one in targets}
    network = start.network(outputs, SEED, shown.store, shown.trusted, untrained)
    for name in outputs:
        load_weights(network.head(name), start.whole.head_weights(name), f"{start.path}, head {name}")
    return _known(network, targets, shown.view(start.facts["data"] | {"normalise": normalise}), shown)


def _of_classes(encoder: Pretrained) -> list[Target]:
    """The targets of an encoder whose heads give probabilities of classes or bins."""
    targets = [one for one in read_targets(encoder.facts["targets"]) if one.kind in KINDS]
    return [one for one in targets if one.bins or one.kind != "regression"]


def _known(network: Network, targets: list[Target], view: View, shown: Shown) -> Known:
    """What a network makes of scans. targets: whose heads it has."""
    scans, names = shown.scans, [one.name for one in targets]
    dataset = view.dataset(pd.DataFrame({"scan_id": scans, "person": scans}), [])
    features, given = passed(network, names, dataset, view, shown.device)
    network.cpu()
    finite = np.isfinite(features).all(1)
    row = {scan: number for number, scan in enumerate(scans) if finite[number]}
    return Known(features.astype(float), {one.name: _probabilities(one, given[one.name]) for one in targets}, row)


def _load(network: Network, encoder: Pretrained, heads: list[str]) -> None:
    load_weights(network.encoder, encoder.encoder_weights(), str(encoder.file))
    for name in heads:
        load_weights(network.head(name), encoder.head_weights(name), f"{encoder.folder}, head {name}")


def _probabilities(target: Target, outputs: np.ndarray) -> np.ndarray:
    return softmax(outputs.astype(float)) if target.bins else target.decode(outputs)[1]


def split_scores(known: Known, rows: pd.DataFrame, target: Target, columns: dict, settings: Evaluate) -> dict:
    """What stands in probe.json of one encoder and one split. rows: train and validation, with `times` and labels."""
    drawn, held_out = parts_of(rows, "validation", known.features, known.row, target)
    train, shown = drawn.labelled, held_out.labelled
    seed, classes = seed_for(settings.seed, "probe"), len(target.classes)
    found = {"n": {"train": drawn.table["scan_id"].nunique(), "validation": len(held_out.table)}}
    note = says_nothing(drawn, held_out)
    if note:
        return found | {"scores": {}, "notes": [note], "probe": None, "harmonised": None}
    own = [known.row[scan] for scan in drawn.table["scan_id"]]
    heads = {name: shares[own] for name, shares in known.heads.items()}
    values = training_scores(train, heads, target, seed)
    values["linear"], penalty = cross_validated(train, target.kind, classes, seed)
    fitted = fit_probe(train.features, train.truth, target.kind, classes, penalty)
    reached = measured(fitted(shown.features), shown.truth, target.kind)
    found |= {"scores": finite(values), "notes": _notes(values, train, target, known)}
    found |= {"probe": {"penalty": penalty, "validation": finite(reached)}}
    return found | {"harmonised": _harmonised(drawn, held_out, target, columns, settings)}


def _harmonised(train: Part, shown: Part, target: Target, columns: dict, settings: Evaluate) -> dict | None:
    """The key `harmonised` of probe.json: validation scores of the probe on features without effects of the site."""
    if settings.harmonise is None:
        return None
    seed = seed_for(settings.seed, "probe")
    found = harmonise(train, shown, target, columns, settings.harmonise, seed)
    about = {"column": settings.harmonise, "validation": None, "site": found.site}
    about |= {"unharmonised": found.unharmonised, "reason": found.reason}
    if found.train is None:
        return about
    outputs = probed(found.train, found.shown.features, target.kind, len(target.classes), seed)
    return about | {"validation": finite(measured(outputs, found.shown.truth, target.kind))}


def training_scores(train: Labelled, heads: dict[str, np.ndarray], target: Target, seed: int) -> dict[str, float]:
    """Score -> value, NaN where it does not apply, of the training scans alone; `leep` of the head that gives most."""
    features, truth, kind = train.features, train.truth, target.kind
    values = dict.fromkeys(("leep", "nleep", "h_score", "h_score_shrunk"), math.nan)
    if kind == "regression":
        standard = (truth - truth.mean()) / truth.std()
        values["logme"] = transferability.logme(features, standard[:, None])
    else:
        classes = truth.astype(int)
        values["logme"] = transferability.logme(features, transferability.one_column_each(classes))
        values["leep"] = max((transferability.leep(shares, classes) for shares in heads.values()), default=math.nan)
        values["nleep"] = transferability.nleep(features, classes, seed)
        values["h_score"] = transferability.h_score(features, classes)
        values["h_score_shrunk"] = transferability.shrunk_h_score(features, classes)
    values["knn"] = transferability.knn_score(features, truth, train.persons, kind, len(target.classes))
    return values


def _notes(values: dict, train: Labelled, target: Target, known: Known) -> list[str]:
    """Why scores are missing."""
    notes = []
    if target.kind == "regression":
        notes.append("LEEP, NLEEP and H-score are for classes")
    elif not known.heads:
        notes.append("LEEP needs a head of classes or bins, and this encoder brings none")
    if target.kind != "regression" and math.isnan(values["h_score"]):
        scans, width = train.features.shape
        notes.append(f"H-score needs more scans than features; there are {scans} and {width}")
    if math.isnan(values["linear"]):
        notes.append("too few people of some class for cross-validation")
    return notes
