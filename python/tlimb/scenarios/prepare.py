"""From a stage's specification to a training that can start."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.architectures.forward import encode
from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights, read_weights
from tlimb.data.dataset import ScanDataset
from tlimb.data.images import Images
from tlimb.data.modules import BaseDataModule
from tlimb.data.targets import fit_targets
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json
from tlimb.objectives.objective import build_objective
from tlimb.scenarios.job import Pretrained
from tlimb.scenarios.sequential import Training
from tlimb.store import Store


@dataclass
class Source:
    """The scans of a task; images, and features of frozen encoders, are made once for all trainings that share them."""

    store: Store
    scan_ids: Sequence[str]
    device: torch.device
    trusted: tuple[str, ...] = ()
    _images: dict = field(default_factory=dict)
    _features: dict = field(default_factory=dict)

    def images(self, spec: dict) -> Images:
        """All scans as a data module's spec presents them."""
        key = canonical_json(spec)
        if key not in self._images:
            module = registry.load("module", spec["class_path"], self.trusted)(**spec["init_args"])
            self._images[key] = Images(self.store, module, self.scan_ids)
        return self._images[key]

    def features(self, network: Network, encoder_id: str, spec: dict, scan_ids: Sequence[str]) -> Callable:
        """scan_ids -> features (n, F) of a frozen encoder, computed once over the sorted scans of one training."""
        scans = sorted(set(scan_ids))
        key = json.dumps([encoder_id, spec, scans])
        if key not in self._features:
            features = encode(network, scans, self.images(spec), self.device)
            row = {scan: number for number, scan in enumerate(scans)}
            self._features[key] = lambda wanted: features[[row[scan] for scan in wanted]]
        return self._features[key]


@dataclass(frozen=True)
class StageRun:
    """One stage to train: its spec, seed, scans (rows with role and labels), and the encoder it starts from, if any."""

    architecture: dict
    stage: dict
    seed: int
    rows: pd.DataFrame
    labels: dict
    encoder: Pretrained | None = None


def prepare(run: StageRun, source: Source) -> Training:
    """A training with its network built, its weights loaded, its targets scaled on the training part.

    Raises InputError for whatever does not fit: labels, shapes, weights, terms.
    """
    stage, images = run.stage, source.images(run.stage["data"]["module"])
    encoder = run.encoder if stage["strategy"] != "scratch" else None
    train, validation = (run.rows[run.rows["role"] == role] for role in ("train", "validation"))
    targets = fit_targets(run.labels, stage["targets"], train)
    _require_labels(stage["targets"], validation)
    network = build_network(
        run.architecture, images.shape, {of.name: of.outputs for of in targets}, run.seed, source.trusted
    )
    if encoder is not None:
        weights = encoder.folder / "encoder.safetensors"
        print(f"{weights}: {load_weights(network.encoder, read_weights(weights), str(weights))}")
    frozen = stage["strategy"] == "frozen"
    if frozen:
        _freeze(network, encoder)
    objective = build_objective(stage["objective"], targets, source.trusted)
    objective.start(network, pretrained=encoder is not None)
    shown, module, featured = images, images.module, frozen and not images.module.augments()
    if featured:
        module = BaseDataModule()
        scans = [*train["scan_id"], *validation["scan_id"]]
        shown = source.features(network, encoder.facts["id"], stage["data"]["module"], scans)
    datasets = [ScanDataset(rows, targets, shown) for rows in (train, validation)]
    return Training(
        stage, run.seed, network, objective, targets, *datasets, module, images.shape, featured, source.trusted
    )


def _require_labels(names: Sequence[str], validation: pd.DataFrame) -> None:
    empty = [name for name in names if validation[name].notna().sum() == 0]
    if empty:
        message = f"none of the {len(validation)} validation scans has a label; the best epoch cannot be found"
        raise InputError([Problem(f"label {name}", message) for name in empty])


def _freeze(network: Network, encoder: Pretrained | None) -> None:
    if encoder is None:
        raise InputError([Problem("strategy frozen", "there is no pretrained encoder to freeze")])
    network.freeze_encoder()
