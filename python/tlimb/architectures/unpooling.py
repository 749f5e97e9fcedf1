"""Maximum pooling over blocks of two voxels along each axis, and undoing it; the same gradients in every run.

torch's own max_unpool2d and max_unpool3d have no deterministic kernel on a GPU; a plain scatter to places that are all
different does the same. The places come from torch's pooling, whose forward pass is deterministic, without a gradient.
"""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from tlimb.architectures.pooling import max_pool3d


def max_pool(images: Tensor) -> Tensor:
    """The maximum of each block of 2x2 or 2x2x2 voxels, (B, C, ...) in and out; an odd last one is left out."""
    return functional.max_pool2d(images, 2) if images.ndim == 4 else max_pool3d(images, 2, 2)


def max_positions(images: Tensor) -> Tensor:
    """Where in the flattened image each maximum of `max_pool` stands, (B, C, ...) integers; the first of equals."""
    pool = functional.max_pool2d if images.ndim == 4 else functional.max_pool3d
    return pool(images.detach(), 2, return_indices=True)[1]


def max_unpool(values: Tensor, positions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Values (B, C, ...) put at their positions into zeros (B, C, *sizes), as torch's max_unpool does."""
    empty = torch.zeros(*values.shape[:2], prod(sizes), dtype=values.dtype, device=values.device)
    return empty.scatter(2, positions.flatten(2), values.flatten(2)).unflatten(2, sizes)
