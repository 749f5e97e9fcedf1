"""What a lab brings of its own, named in sweeps by import path; docs/data.md shows it."""

import copy
import os
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import torch
from torch.utils.data import Sampler

from tlimb.data.dataset import ScanDataset, loader
from tlimb.data.modules import BaseDataModule
from tlimb.objectives.term import Term
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.scenarios.sequential import Sequential


class LeftHalf(BaseDataModule):
    """The left half of a volume; in training it is dimmed at random."""

    def box(self, shape):
        return (slice(0, shape[0] // 2), slice(0, shape[1]), slice(0, shape[2]))

    def present(self, images, training):
        bright = torch.rand(len(images), 1, 1, 1, 1).to(images.device)
        return images * bright if training else images


class Slow:
    """One scan at a time, in a unit of its own."""

    def __init__(self, rows, targets, images, factor: float = 1.0):
        self.whole, self.factor = ScanDataset(rows, targets, images), factor

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        image, labels = self.whole[index]
        return image * self.factor, labels


class Bare(Slow):
    """Items without a list of labels."""

    def __getitem__(self, index):
        return self.whole[index][0]


class Whole(Slow):
    """Items with labels of the wrong type."""

    def __getitem__(self, index):
        image, labels = self.whole[index]
        return image, [label.long() for label in labels]


class Echo(Term):
    """A term of a lab: the first output times the mean brightness of its image, which it does not announce."""

    def forward(self, step):
        self.axes = step.images.ndim
        output = next(iter(step.outputs.values()))[:, 0]
        return (output * step.labelled_images.flatten(1).mean(1)).mean()


class Smooth(torch.nn.Module):
    """(B, C, X, Y, Z) -> (B, 4), without batch norm, so that a scan's outputs do not depend on its batch."""

    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.stem = torch.nn.Conv3d(in_channels, 4, 3)
        self.last = torch.nn.Linear(4, 4)

    def forward(self, images):
        return torch.tanh(self.last(torch.nn.functional.gelu(self.stem(images)).flatten(2).mean(2)))


class Deep(Smooth):
    """Smooth and a block of three layers, of which one may be a batch norm."""

    def __init__(self, in_channels: int = 1, normed: bool = False):
        super().__init__(in_channels)
        norm = torch.nn.BatchNorm1d(8) if normed else torch.nn.Tanh()
        self.block = torch.nn.Sequential(torch.nn.Linear(4, 8), norm, torch.nn.Linear(8, 4))

    def forward(self, images):
        return self.block(super().forward(images))


class Teacher(Term):
    """The squared distance of all outputs to those of a teacher, a running mean of the network that trains."""

    sees_unlabelled = True

    def start(self, beginning):
        self.teacher = copy.deepcopy(beginning.network).requires_grad_(False).eval()

    def forward(self, step):
        taught = self.teacher.passed(step.images).outputs
        return sum((output - taught[name]).square().mean() for name, output in step.passed.outputs.items())

    @torch.no_grad()
    def after_step(self, network):
        for mean, now in zip(self.teacher.parameters(), network.parameters()):
            mean.lerp_(now, 0.1)


class Critic(Term):
    """Tells labelled scans from unlabelled ones by their features, with a layer of its own."""

    sees_unlabelled = True
    on_features = True

    def start(self, beginning):
        self.layer = torch.nn.Linear(beginning.network.encoder.features, 1)

    def forward(self, step):
        told = self.layer(step.passed.features)[:, 0]
        truth = (torch.arange(len(told)) >= step.labelled).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(told, truth)


class Turning(Term):
    """Not a number from some step of some epoch on, counted over all calls."""

    def __init__(self, calls: int = 0):
        super().__init__()
        self.calls, self.done = calls, 0

    def forward(self, step):
        self.done += 1
        output = next(iter(step.outputs.values()))
        return output.mean() * (float("nan") if self.done > self.calls else 0.0) + 0.25


class Noted(Term):
    """Takes note of what it is shown and changes nothing."""

    sees_unlabelled = True
    notes: list = []

    def forward(self, step):
        shown = [step.progress, step.epoch, step.labelled, len(step.unlabelled_images), len(step.labels[0])]
        self.notes.append((*shown, step.passed.features.dtype, torch.is_autocast_enabled("cpu")))
        return next(iter(step.outputs.values())).sum() * 0


class Halves(Sequential):
    """Every scan in batches of half the size, and half the loss."""

    def __init__(self, training, kept=None, share: float = 0.5):
        super().__init__(training, kept)
        self.share = share

    def batches(self):
        return loader(self.plan.train, self.plan.order, int(self.stage["batch_size"] * self.share))

    def training_step(self, batch, index):
        step = self.step(batch, training=True)
        return self.taken({name: self.share * value for name, value in self.objective(step).items()}, step)


class Counting(lightning.Callback):
    """Adds a number to a weight in each epoch, one more than in the epoch before; stops after some."""

    def __init__(self, stop: int = 100):
        self.count, self.stop, self.seen = 0, stop, []

    def on_train_epoch_start(self, trainer, scenario):
        self.count += 1
        with torch.no_grad():
            next(scenario.network.parameters()).add_(0.01 * self.count)
        self.seen.append((trainer.current_epoch, scenario.epoch))

    def on_validation_end(self, trainer, scenario):
        assert trainer.callback_metrics["validation_loss"] > 0
        trainer.should_stop = self.count >= self.stop

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Ending(lightning.Callback):
    """Sends one of the processes a signal, after the first batch of the second epoch."""

    def __init__(self, number: int, rank: int):
        self.number, self.rank = number, rank

    def on_train_batch_end(self, trainer, scenario, outputs, batch, index):
        if (trainer.current_epoch, index, scenario.rank) == (1, 0, self.rank):
            os.kill(os.getpid(), self.number)


def fine_tuned(job: str, store: str, models: str) -> None:
    """What the task that trains a pack does."""
    finetune(Path(job), Path(store), None, Path(models), Settings(torch.device("cpu"), trusted=("own_data",)))


class FirstHalf(Sampler):
    """The first half of the training scans."""

    def __init__(self, rows, seed, stage):
        self.n, self.epoch = len(rows) // 2, 1

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(range(self.n))


class ByLargest:
    """Divided by the largest training voxel."""

    fitted = {}

    def fit(self, batches):
        self.fitted = {"largest": max(float(np.max(batch)) for batch in batches)}

    def __call__(self, images):
        return images / self.fitted["largest"]


class Jitter:
    """Noise of a strength drawn for each scan."""

    def __init__(self, strength: float = 0.1):
        self.strength = strength

    def __call__(self, images, labels):
        scale = self.strength * torch.rand(len(images), *[1] * (images.ndim - 1))
        return images + (scale * torch.randn(images.shape)).to(images.device), labels


def brighter(batch):
    """Adds to every voxel, wherever the batch is of."""
    return batch[0] + 0.5, batch[1]


def noisier(batch, training):
    """Noise while training."""
    noise = torch.randn(batch[0].shape).to(batch[0].device)
    return (batch[0] + noise if training else batch[0]), batch[1]


def scaled(batch, factor=2.0):
    """Times a factor that has a default."""
    return batch[0] * factor, batch[1]


def told(batch, factor=1.0, *, training=False):
    """Adds 1 while training; told by name."""
    return batch[0] * factor + training, batch[1]


def marked(batch, part):
    """Adds 1 while training, whatever it calls that."""
    return batch[0] + part, batch[1]


def nothing():
    """Takes no batch."""
