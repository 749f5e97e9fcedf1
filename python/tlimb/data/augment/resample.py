"""Images sampled at other places, linearly, a whole batch at once."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tlimb.data.augment.augmentation import signal_of


def rotation(degrees: Tensor) -> Tensor:
    """Rotation matrices (n, d, d): by one angle (n, 1) in the plane, or by three (n, 3) about X, then Y, then Z."""
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
    matrix, places = (matrix / half[:, None]).flip(1).to(images), (shift / half).flip(1).to(images)
    # Axis by axis, so that only the last sum is as large as the images; affine_grid takes four times as long.
    for axis, size in enumerate(images.shape[2:]):
        along = torch.arange(size, device=images.device) - (size - 1) / 2
        places = places[..., None] + (matrix[:, :, axis, None] * along).reshape(*shift.shape, *[1] * axis, size)
    return places.movedim(1, -1)


def displaced_places(field: Tensor) -> Tensor:
    """The places p + field(p) for all voxels p, as `affine_places` returns them; field: (n, d, ...) in voxels."""
    axes = field.ndim - 2
    places = affine_places(torch.eye(axes)[None], torch.zeros(1, axes), field)
    half = torch.tensor(field.shape[2:]).to(field) / 2
    return places + (field.movedim(1, -1) / half).flip(-1)


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
