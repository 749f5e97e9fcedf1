"""Images sampled at other places, linearly, a whole batch at once."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tlimb.data.augment.augmentation import signal_of


def rotation(degrees: Tensor) -> Tensor:
    """Rotation matrices (n, d, d): by one angle (n, 1) in the plane, or by three (n, 3) about the axes X, then Y, then Z."""
    planes = [(0, 1)] if degrees.shape[1] == 1 else [(1, 2), (2, 0), (0, 1)]
    size = 2 if len(planes) == 1 else 3
    total = torch.eye(size).repeat(len(degrees), 1, 1)
    for (first, second), angle in zip(planes, (degrees * (math.pi / 180)).unbind(1)):
        turn = torch.eye(size).repeat(len(degrees), 1, 1)
        turn[:, first, first] = turn[:, second, second] = angle.cos()
        turn[:, second, first], turn[:, first, second] = angle.sin(), -angle.sin()
        total = turn @ total
    return total


def affine_places(matrix: Tensor, shift: Tensor, images: Tensor) -> Tensor:
    """The places matrix p + shift for all voxels p of the images, in voxels counted from the centre.

    matrix: (n, d, d), shift: (n, d). Returns them as `sampled` wants them: (n, ..., d), each axis from -1 to 1 between
    the outer faces of its voxels, the last axis first.
    """
    half = torch.tensor(images.shape[2:]) / 2
    unit = matrix * half / half[:, None]
    theta = torch.cat([unit.flip(1, 2), (shift / half).flip(1)[..., None]], dim=2)
    return functional.affine_grid(theta.to(images), list(images.shape), align_corners=False)


def displaced_places(field: Tensor) -> Tensor:
    """The places p + field(p) for all voxels p, as `affine_places` returns them; field: (n, d, ...) in voxels."""
    sizes = field.shape[2:]
    identity = torch.eye(len(sizes), len(sizes) + 1)[None].to(field)
    half = torch.tensor(sizes).to(field) / 2
    grid = functional.affine_grid(identity, [1, 1, *sizes], align_corners=False)
    return grid + (field.movedim(1, -1) / half).flip(-1)


def sampled(images: Tensor, places: Tensor, padding: str, mode: str = "bilinear") -> Tensor:
    """The images at the places; padding: `zeros` or `border`, what lies outside; mode: `bilinear` or `nearest`."""
    return functional.grid_sample(images, places, mode=mode, padding_mode=padding, align_corners=False)


def resampled(images: Tensor, places: Tensor, padding: str) -> Tensor:
    """The scans at the places, as if the brain mask had come after: its edge moves with the head and stays sharp.

    Voxels that are exactly 0 are outside of the mask. Between them and the brain there would else be a rim as bright as
    the mean of the brain, which no masked scan has.
    """
    signal, darkest, outside = signal_of(images)
    inside = sampled((~outside).to(images), places, padding, "nearest")
    return sampled(signal, places, padding).add_(darkest).mul_(inside)
