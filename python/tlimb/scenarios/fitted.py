"""One stage whose heads are fitted at once: the scenario of baselines."""

import math
import time

import numpy as np
import torch
from torch.utils.data import Dataset

from tlimb.architectures.baselines import Part
from tlimb.architectures.forward import BATCH
from tlimb.data.dataset import fetch
from tlimb.errors import InputError, Problem
from tlimb.scenarios.measures import validated
from tlimb.scenarios.progress import Progress, TrainingFailed, monitor_of
from tlimb.scenarios.scenario import Training
from tlimb.seeds import seed_for


def is_fitted(encoder: torch.nn.Module) -> bool:
    """Whether an encoder fits its heads itself."""
    return hasattr(encoder, "fit_heads")


def fit_at_once(training: Training, device: torch.device) -> Progress:
    """Fit a stage's heads on the encoder's features of the training scans as they look in prediction.

    The scans are those that the stage's order draws in its first epoch: each once, k times where a bootstrap drew it k
    times, or as a sampler says. The history has one row, epoch 1 with lr 0, and that epoch is the best one. The network
    is left on the CPU. Raises TrainingFailed where features or losses are not finite or the monitored value cannot be
    computed, InputError for targets or heads that are not fitted.
    """
    from threadpoolctl import threadpool_limits

    if not training.targets:
        raise InputError([Problem("targets", "none; a baseline is fitted to labels")])
    started, network = time.monotonic(), training.network.to(device).eval()
    heads = [network.head(target.name) for target in training.targets]
    train, validation = (_seen(training, dataset, device) for dataset in (training.train, training.validation))
    training.order.epoch = 1
    train = _taken(train, np.sort(np.fromiter(training.order, dtype=int)))
    network.cpu()
    with threadpool_limits(torch.get_num_threads()):
        found = network.encoder.fit_heads(heads, training.targets, train, validation)
    print("; ".join(found))
    return _recorded(training, train, validation, started)


def _seen(training: Training, dataset: Dataset, device: torch.device) -> Part:
    """Features (n, F) float32 of a dataset's scans as in prediction, and their labels (n,) for each target."""
    view, features, labels = training.view, [], []
    with torch.inference_mode():
        for start in range(0, len(dataset), BATCH):
            torch.manual_seed(seed_for(0, "prediction", start))
            images, known = view.before(fetch(dataset, list(range(start, min(start + BATCH, len(dataset))))), False)
            labels.append([label.cpu().numpy() for label in known])
            images = view.after((images.to(device), [label.to(device) for label in known]), False)[0]
            encoded = images if training.featured else training.network.encode(images)
            features.append(encoded.float().cpu().numpy())
    together = np.concatenate(features)
    if not np.isfinite(together).all():
        raise TrainingFailed("features of some scans are not finite")
    return together, [np.concatenate(parts) for parts in zip(*labels)]


def _taken(part: Part, rows: np.ndarray) -> Part:
    return part[0][rows], [label[rows] for label in part[1]]


def _recorded(training: Training, train: Part, validation: Part, started: float) -> Progress:
    """The progress of one epoch with the losses and metrics of the fitted network."""
    monitor, progress = monitor_of(training.targets, training.stage["monitor"]), Progress()
    outputs, labels = _outputs(training, train)
    train_loss = float(training.objective.primary(outputs, labels))
    outputs, labels = _outputs(training, validation)
    measured = validated(training.objective, training.targets, monitor, [outputs], [labels])
    row = {"epoch": 1, "train_loss": train_loss, "validation_loss": measured.pop("validation_loss"), "lr": 0.0}
    for name in ("train_loss", "validation_loss"):
        if not math.isfinite(row[name]):
            raise TrainingFailed(f"{name} is {row[name]} after fitting")
    row |= {"seconds": time.monotonic() - started, **measured}
    if not progress.record(row, monitor, training.stage["early_stopping"]):
        raise TrainingFailed(f"{training.stage['monitor']} could not be computed on the validation part")
    return progress


def _outputs(training: Training, part: Part) -> tuple[dict, list[torch.Tensor]]:
    with torch.inference_mode():
        outputs = training.network.predict(torch.from_numpy(part[0]))
    return outputs, [torch.from_numpy(label) for label in part[1]]
