"""Direct transfer: a pretrained encoder with its own head, measured and not trained."""

import math
import time

import torch
from torch.utils.data import Dataset

from tlimb.data.dataset import loader
from tlimb.scenarios.measures import validated
from tlimb.scenarios.progress import Progress, TrainingFailed, monitor_of
from tlimb.scenarios.scenario import Training
from tlimb.seeds import seed_for


def measure(training: Training, device: torch.device) -> Progress:
    """One row, of epoch 0, with the losses on the training and the validation part and the validation metrics.

    The network is left as it is, on the CPU. Raises TrainingFailed where a loss is not finite.
    """
    started, monitor = time.monotonic(), monitor_of(training.targets, training.stage["monitor"])
    before = validated(training.objective, training.targets, monitor, *_outputs(training, training.train, device))
    row = {"epoch": 0, "train_loss": before["validation_loss"]}
    found = validated(training.objective, training.targets, monitor, *_outputs(training, training.validation, device))
    row |= {"validation_loss": found.pop("validation_loss"), "lr": 0.0, "seconds": time.monotonic() - started, **found}
    for name in ("train_loss", "validation_loss"):
        if not math.isfinite(row[name]):
            raise TrainingFailed(f"{name} is {row[name]} with the weights as they are")
    progress = Progress()
    if not progress.record(row, monitor, None):
        raise TrainingFailed(f"{monitor.column} could not be computed on the validation part")
    training.network.cpu()
    return progress


@torch.no_grad()
def _outputs(training: Training, dataset: Dataset, device: torch.device) -> tuple[list, list]:
    """Outputs and labels of a dataset's scans, a batch each, in their order, in evaluation mode."""
    network, outputs, labels = training.network.to(device).eval(), [], []
    order = range(len(dataset))
    for number, batch in enumerate(loader(dataset, order, training.stage["batch_size"])):
        torch.manual_seed(seed_for(training.seed, "noise", training.stage["name"], 0, number))
        images, truth = training.view.before(batch, training=False)
        on_device = images.to(device), [label.to(device) for label in truth]
        images, truth = training.view.after(on_device, training=False)
        outputs.append(network(images))
        labels.append(truth)
    return outputs, labels
