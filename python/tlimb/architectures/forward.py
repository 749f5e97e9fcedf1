"""Forward passes over many scans, without gradients."""

from collections.abc import Callable, Sequence
from math import prod

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

VOXELS = 2**22
"""Voxels of a batch above which fewer scans pass together, so that one large volume does not cost the time and memory
of sixteen."""


def batch_size(input_shape: Sequence[int]) -> int:
    """Scans of images (C, ...) that pass together: 16, or the power of 2 of them that has at most `VOXELS` voxels."""
    size = BATCH
    while size > 1 and size * prod(input_shape) > VOXELS:
        size //= 2
    return size


def encode(network: Network, dataset: Dataset, view: View, device: torch.device) -> np.ndarray:
    """Features (n, F) of a dataset's scans, float32, in their order, by the encoder in evaluation mode."""
    return in_batches(network, network.encode, dataset, view, device)


def run(
    network: Network, names: Sequence[str], dataset: Dataset, view: View, device: torch.device
) -> dict[str, np.ndarray]:
    """The raw outputs of some heads {name: (n, outputs)} for a dataset's scans, float32, in their order, in evaluation
    mode."""
    return passed(network, names, dataset, view, device)[1]


def passed(
    network: Network, names: Sequence[str], dataset: Dataset, view: View, device: torch.device
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The encoder's features (n, F) and the outputs that `run` gives, of one pass."""
    widths: list[int] = []

    def forward(images: Tensor) -> Tensor:
        found = network.passed(images, names)
        parts = [found.features, *(found.outputs[name] for name in names)]
        widths[:] = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    together = in_batches(network, forward, dataset, view, device)
    features, *outputs = np.split(together, np.cumsum(widths)[:-1], axis=1)
    return features, dict(zip(names, outputs))


def in_batches(
    network: Network, forward: Callable[[Tensor], Tensor], dataset: Dataset, view: View, device: torch.device
) -> np.ndarray:
    """What `forward` makes of each scan's image, float32, in their order, in evaluation mode.

    A last batch of fewer scans is filled up with copies of its last one: libraries choose their algorithms by a batch's
    size, and a scan's numbers shall not depend on the scans beside it.
    """
    network.to(device).eval()
    parts, size = [], batch_size(view.input_shape)
    with torch.inference_mode():
        for start in range(0, len(dataset), size):
            torch.manual_seed(seed_for(0, "prediction", start))  # a hook that draws does so alike each time
            batch = fetch(dataset, list(range(start, min(start + size, len(dataset)))))
            images, labels = view.before(batch, training=False)
            on_device = images.to(device), [label.to(device) for label in labels]
            images = view.after(on_device, training=False)[0]
            parts.append(forward(_filled(images, size))[: len(images)].float().cpu().numpy())
    return np.concatenate(parts)


def _filled(images: Tensor, size: int) -> Tensor:
    """Images (B, C, ...) and as many copies of the last one as a batch of `size` lacks."""
    copies = size - len(images)
    return torch.cat([images, images[-1:].expand(copies, *images.shape[1:])]) if copies > 0 else images
