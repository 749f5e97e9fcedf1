"""From a stage's specification to a training that can start."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Sampler

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.architectures.forward import encode
from tlimb.architectures.network import Network, takes
from tlimb.data.dataset import EpochOrder, loader
from tlimb.data.fingerprint import recipe_of
from tlimb.data.images import CPU, Images
from tlimb.data.modules import BaseDataModule
from tlimb.data.normalise import build_normaliser, fit_normaliser
from tlimb.data.targets import Target, fit_targets, known_targets, read_targets
from tlimb.data.view import View, build_module, build_view, may_stay_on_gpu
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json
from tlimb.objectives.objective import Objective, build_objective
from tlimb.objectives.term import Beginning
from tlimb.scenarios.budget import Budget
from tlimb.scenarios.fitted import is_fitted
from tlimb.scenarios.job import Pretrained
from tlimb.scenarios.scenario import Training, steps_an_epoch
from tlimb.scenarios.start import load_start, starts_from
from tlimb.scenarios.tuning import Tuner
from tlimb.search.scans import SECOND
from tlimb.search.tuning_problems import tuning_problems
from tlimb.seeds import seed_for
from tlimb.store import Store


@dataclass
class Source:
    """The scans of a task; what is made of them once is shared by all trainings that need it alike: fitted
    normalisers, features of frozen encoders, and the images, of which only the last set is kept."""

    store: Store
    scan_ids: Sequence[str]
    device: torch.device
    trusted: tuple[str, ...] = ()
    _made: dict = field(default_factory=dict)
    _shown: tuple[str, Images] | None = None

    def view(self, data: dict, normalise: dict | None) -> View:
        """All scans as a stage's `data` presents them. normalise: the normaliser with its fitted facts, if any."""
        module = build_module(data["module"], self.trusted)
        device = self.device if may_stay_on_gpu(data, module) else CPU
        ready = build_normaliser(normalise, self.trusted) if normalise else None
        key = canonical_json([data["module"], normalise, device.type])
        if self._shown is None or self._shown[0] != key:
            self._shown = None
            gc.collect()  # an earlier training refers to its images in circles; each set may fill the memory for one
            torch.cuda.empty_cache()  # what torch keeps for itself does not count as free
            self._shown = key, Images(self.store, module, self.scan_ids, normalise=ready, device=device)
        return build_view(self._shown[1], data, self.trusted, training=True)

    def normaliser(self, data: dict, train: Sequence[str], encoder: Pretrained | None) -> dict | None:
        """The stage's normaliser with what was fitted on the training scans or came with the encoder; None for none."""
        spec = data["normalise"]
        if spec is None:
            return None
        module = build_module(data["module"], self.trusted)
        earlier = encoder.facts["normalise"] if encoder is not None else None

        def fit() -> dict:
            read = Images(self.store, module, [], memory=-1)
            return fit_normaliser(spec, earlier, lambda: read.blocks(train), self.trusted)

        return self._once(["normaliser", data["module"], spec, earlier, list(train)], fit)

    def features(self, network: Network, key: list, scan_ids: Sequence[str], view: View) -> Callable:
        """scan_ids -> features (n, F) of a frozen encoder, computed once over the sorted scans of one training.

        key: what they depend on beside the scans, as JSON values.
        """
        scans = sorted(set(scan_ids))

        def compute() -> tuple[Tensor, dict]:
            dataset = view.dataset(pd.DataFrame({"scan_id": scans}), [])
            features = torch.from_numpy(encode(network, dataset, view, self.device))
            return features, {scan: number for number, scan in enumerate(scans)}

        features, row = self._once(["features", key, scans], compute)
        return lambda wanted: features[[row[scan] for scan in wanted]]

    def _once(self, key: list, make: Callable):
        name = canonical_json(key)
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


@dataclass(frozen=True)
class StageRun:
    """One stage to train: its spec, seed, scans (rows with role, times and labels), the encoder of tlimb that it starts
    from, where files that the sweep names lie now, kind and classes of the label columns that its terms look at, and
    how many of its epochs it is trained for now, if not all."""

    architecture: dict
    stage: dict
    seed: int
    rows: pd.DataFrame
    labels: dict
    encoder: Pretrained | None = None
    files: dict[str, Path] = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    budget: Budget | None = None


def prepare(run: StageRun, source: Source) -> Training:
    """A training with its network built, its weights loaded, its targets and normaliser fitted on the training part.

    Raises InputError for whatever does not fit: labels, intensities, shapes, weights, terms.
    """
    stage, data, encoder = run.stage, run.stage["data"], _encoder(run)
    if encoder is not None:
        _require_one_scale(stage, encoder)
    if stage["strategy"] == "direct" and encoder is not None:
        known = encoder.facts.get("heads", {})
        stage = stage | {"heads": {name: known[name] for name in stage["targets"] if name in known}}
    train, validation = _drawn(run.rows[run.rows["role"] == "train"]), run.rows[run.rows["role"] == "validation"]
    more = run.rows[run.rows["role"].isin(SECOND)]
    targets = _targets(run, encoder, train)
    _require_labels(stage["targets"], validation)
    normalise = source.normaliser(data, [*train["scan_id"], *more["scan_id"]], encoder)
    view = source.view(data, normalise)
    objective = build_objective(stage["objective"], targets, source.trusted)
    columns = fit_targets(run.columns, objective.columns(), pd.concat([train, more]))
    heads = objective.heads(stage["heads"]) | stage["heads"]
    outputs = {of.name: of.outputs for of in targets}
    recipe = recipe_of(source.store)
    network = build_network(run.architecture, view.input_shape, outputs, run.seed, source.trusted, heads, recipe)
    tuner = Tuner(network, stage, run.seed, source.trusted)
    start = load_start(network, stage, encoder, run.files)
    tuner.start()
    still = (tuner.features_stand_still or is_fitted(network.encoder)) and view.stands_still()
    shown, featured = view, still and _features_suffice(network, objective)
    if featured:
        key = [run.architecture, run.seed, stage["weights"], start, data["module"], normalise]
        scans = [*train["scan_id"], *validation["scan_id"], *more["scan_id"]]
        shown = View(source.features(network, key, scans, view), view.input_shape, BaseDataModule())
    parts = [shown.dataset(rows, [*targets, *columns]) if len(rows) else None for rows in (train, validation, more)]
    training = Training(
        stage, run.seed, network, objective, targets, parts[0], parts[1], shown, _order(run, train, source.trusted),
        tuner, normalise, start, featured, source.trusted, columns, unlabelled=parts[2],
        again=(run, source), budget=run.budget,
        labels=[torch.from_numpy(of.encode(train[of.name])) for of in targets],
    )  # fmt: skip
    objective.start(_beginning(training, encoder, start is not None), run.seed)
    return training


def _beginning(training: Training, encoder: Pretrained | None, pretrained: bool) -> Beginning:
    """What terms may look at once."""
    source = read_targets(encoder.facts["targets"]) if encoder is not None else []
    return Beginning(
        training.network,
        pretrained,
        tuple(training.targets),
        tuple(training.columns),
        lambda: _batches(training),
        tuple(source),
        {of.name: encoder.head_weights(of.name) for of in source},
        encoder.fisher() if encoder is not None else None,
        tuple(training.view.input_shape),
        training.stage["epochs"] * steps_an_epoch(training),
        training.trusted,
        encoder.facts.get("temperatures", {}) if encoder is not None else {},
    )


def _batches(training: Training) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The labelled training scans once, in their order, as they look in prediction."""
    order, count = range(len(training.train)), len(training.targets)
    for number, batch in enumerate(loader(training.train, order, training.stage["batch_size"])):
        torch.manual_seed(seed_for(training.seed, "beginning", training.stage["name"], number))
        images, labels = training.view.after(training.view.before(batch, training=False), training=False)
        yield images, labels[:count]


def _encoder(run: StageRun) -> Pretrained | None:
    """The encoder that a stage starts from, if that is one of tlimb's.

    Raises InputError for a strategy or ways to tune that need one where there is nothing to start from.
    """
    stage, origin = run.stage, starts_from(run.stage, run.encoder)
    strategy, where = stage["strategy"], f"stages.{stage['name']}.strategy"
    if strategy == "frozen" and origin == "nothing":
        raise InputError([Problem(where, "there is no pretrained encoder to freeze", "expected 'scratch'")])
    if strategy == "direct" and origin == "nothing":
        message = "there is no pretrained encoder with a head of its own to use directly"
        hint = "a stage before, or a folder of tlimb in `weights`, brings one"
        raise InputError([Problem(where, message, hint)])
    unknown = _unknown_scales(stage) if strategy == "direct" and origin == "file" else []
    if unknown:
        raise InputError(unknown)
    where, start = f"stages.{stage['name']}.tuning", "scratch" if origin == "nothing" else strategy
    problems = tuning_problems(stage["tuning"], start, where, stage["epochs"])
    if problems:
        raise InputError(problems)
    return None if origin == "nothing" else run.encoder


def _unknown_scales(stage: dict) -> list[Problem]:
    """Targets whose outputs nothing explains: a file that others made says no scale, and nothing is fitted here, so
    only bins with both ends give outputs a meaning."""
    bins = {name: (stage["heads"].get(name) or {}).get("bins") or {} for name in stage["targets"]}
    unknown = [name for name in bins if None in (bins[name].get("low"), bins[name].get("high"))]
    message = "needs low and high, for a file that others made does not say what its outputs mean"
    where, hint = f"stages.{stage['name']}.heads", "strategy 'frozen' trains a head instead"
    return [Problem(f"{where}.{name}.bins", f"strategy 'direct' {message}", hint) for name in unknown]


def _targets(run: StageRun, encoder: Pretrained | None, train: pd.DataFrame) -> list[Target]:
    """Targets fitted on the training scans or, for direct transfer, as the encoder's own heads know them.

    Raises InputError where these were trained for others, or know them otherwise than the data.
    """
    stage = run.stage
    if stage["strategy"] != "direct" or encoder is None:
        return fit_targets(run.labels, stage["targets"], train, stage["heads"])
    where = f"stages.{stage['name']}"
    if not stage["targets"]:
        raise InputError([Problem(f"{where}.targets", "none; direct transfer measures heads of targets")])
    source = f"{where}.strategy direct, {encoder.kind} {encoder.facts['id']}"
    return known_targets(encoder.facts["targets"], run.labels, stage["targets"], source)


def _features_suffice(network: Network, objective: Objective) -> bool:
    """Whether no head and no term looks at more than features; terms that do not say so by `on_features` may."""
    looking = [term for term in objective.terms.values() if not getattr(term, "on_features", False)]
    return {takes(head) for head in network.heads} <= {"features"} and not looking


def _drawn(train: pd.DataFrame) -> pd.DataFrame:
    """The training part with a scan that is drawn k times standing k times."""
    return train.loc[train.index.repeat(train["times"])].reset_index(drop=True)


def _require_labels(names: Sequence[str], validation: pd.DataFrame) -> None:
    empty = [name for name in names if validation[name].notna().sum() == 0]
    if empty:
        message = f"none of the {len(validation)} validation scans has a label; the best epoch cannot be found"
        raise InputError([Problem(f"label {name}", message) for name in empty])


def _require_one_scale(stage: dict, encoder: Pretrained) -> None:
    """That scans come on the scale that the encoder knows, unless the stage's normaliser asks for another: `refit`."""
    own, earlier = stage["data"]["normalise"], encoder.facts["normalise"]
    alike = registry.normaliser_key(own) == registry.normaliser_key(earlier)
    if alike or (own is not None and own["init_args"].get("refit")):
        return
    known, found = ("none" if spec is None else canonical_json(_named(spec)) for spec in (earlier, own))
    message = f"its normaliser is {found}, and that of encoder {encoder.facts['id']}, from which it starts, is {known}"
    hint = f"set stages.{stage['name']}.data.normalise to that of the encoder, or one with \"refit\": true"
    raise InputError([Problem(f"stage {stage['name']}", message, hint)])


def _named(normalise: dict) -> dict:
    """A normaliser as a sweep names it, without what was fitted."""
    return {key: normalise[key] for key in ("class_path", "init_args")}


def _order(run: StageRun, train: pd.DataFrame, trusted) -> Sampler:
    """The order of training scans: the stage's sampler, or each scan once an epoch."""
    spec, stage = run.stage["data"]["sampler"], run.stage["name"]
    if spec is None:
        return EpochOrder(len(train), run.seed, stage)
    return registry.load("sampler", spec["class_path"], trusted)(train, run.seed, stage, **spec["init_args"])
