"""Forward passes over many scans, without gradients."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tlimb.architectures.network import Network
from tlimb.data.images import Images

BATCH = 16
"""Scans that pass through a network together: the same for every task, so that the same scans give the same numbers."""


def encode(network: Network, scan_ids: Sequence[str], images: Images, device: torch.device) -> np.ndarray:
    """Features (n, F) of scans, float32, in their order, by the encoder in evaluation mode."""
    return _batched(network, network.encode, scan_ids, images, device)


def run(network: Network, scan_ids: Sequence[str], images: Images, device: torch.device) -> dict[str, np.ndarray]:
    """Each head's raw outputs {target: (n, outputs)} for scans, float32, in their order, in evaluation mode."""
    together = _batched(network, lambda batch: torch.cat(list(network(batch).values()), 1), scan_ids, images, device)
    widths = [head.out_features for head in network.heads]
    return dict(zip(network.targets, np.split(together, np.cumsum(widths)[:-1], axis=1)))


def _batched(
    network: Network, forward: Callable[[Tensor], Tensor], scan_ids: Sequence[str], images: Images, device: torch.device
) -> np.ndarray:
    network.to(device).eval()
    images.module.training = False
    parts = []
    with torch.inference_mode():
        for start in range(0, len(scan_ids), BATCH):
            block = np.ascontiguousarray(images(scan_ids[start : start + BATCH]), dtype="float32")
            batch = images.module.on_before_batch_transfer((torch.from_numpy(block), []), 0)
            batch = images.module.on_after_batch_transfer((batch[0].to(device), batch[1]), 0)
            parts.append(forward(batch[0]).float().cpu().numpy())
    return np.concatenate(parts)
