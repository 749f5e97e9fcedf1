"""Pooling whose gradient is the same in every run on any device."""

from torch import Tensor
from torch.nn.functional import max_pool2d


def max_pool3d(images: Tensor, size: int, stride: int, padding: int = 0) -> Tensor:
    """Maximum over cubes of `size` voxels, (B, C, X, Y, Z) in and out; equal to torch's max_pool3d.

    Two 2D poolings, over (Y, Z) and then over X: torch's own 3D pooling has no deterministic gradient on a GPU.
    """
    batch, channels, depth = images.shape[:3]
    planes = max_pool2d(images.flatten(1, 2), size, stride, padding)
    lines = planes.reshape(batch, channels, depth, -1)
    return max_pool2d(lines, (size, 1), (stride, 1), (padding, 0)).unflatten(3, planes.shape[2:])
