"""What a lab brings of its own, named in sweeps by import path; docs/data.md shows it."""

import numpy as np
import torch
from torch.utils.data import Sampler

from tlimb.data.dataset import ScanDataset
from tlimb.data.modules import BaseDataModule


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


class Echo(torch.nn.Module):
    """A term of a lab: the first output times the mean brightness of its image, which it does not announce."""

    def start(self, network, pretrained):
        self.axes = None

    def forward(self, network, batch, outputs):
        images = batch[0]
        self.axes = images.ndim
        return (next(iter(outputs.values()))[:, 0] * images.flatten(1).mean(1)).mean()


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
