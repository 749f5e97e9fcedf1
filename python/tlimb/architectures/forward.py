"""Forward passes over many scans, without gradients."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tlimb.architectures.network import Network
from tlimb.data.dataset import fetch
from tlimb.data.view import View
from tlimb.seeds import seed_for

BATCH = 16
"""Scans that pass through a network together: the same for every task, so that the same scans give the same numbers."""


def encode(network: Network, dataset: Dataset, view: View, device: torch.device) -> np.ndarray:
    """Features (n, F) of a dataset's scans, float32, in their order, by the encoder in evaluation mode."""
    return in_batches(network, network.encode, dataset, view, device)


def run(
    network: Network, names: Sequence[str], dataset: Dataset, view: View, device: torch.device
) -> dict[str, np.ndarray]:
    """The raw outputs of some heads {name: (n, outputs)} for a dataset's scans, float32, in their order, in evaluation
    mode."""
    widths: list[int] = []

    def forward(images: Tensor) -> Tensor:
        outputs = network(images, names)
        widths[:] = [outputs[name].shape[1] for name in names]
        return torch.cat([outputs[name] for name in names], 1)

    together = in_batches(network, forward, dataset, view, device)
    return dict(zip(names, np.split(together, np.cumsum(widths)[:-1], axis=1)))


def in_batches(
    network: Network, forward: Callable[[Tensor], Tensor], dataset: Dataset, view: View, device: torch.device
) -> np.ndarray:
    """What `forward` makes of each scan's image, float32, in their order, in evaluation mode."""
    network.to(device).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(dataset), BATCH):
            torch.manual_seed(seed_for(0, "prediction", start))  # a hook that draws does so alike each time
            batch = fetch(dataset, list(range(start, min(start + BATCH, len(dataset)))))
            images, labels = view.before(batch, training=False)
            on_device = images.to(device), [label.to(device) for label in labels]
            parts.append(forward(view.after(on_device, training=False)[0]).float().cpu().numpy())
    return np.concatenate(parts)
