"""Where the voxels of a network's image lie in a store's grid, whatever the data module."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from tlimb.data.modules import BaseDataModule

WITHIN = 1.0
"""Voxels by which a place may differ from the straight grid that is fitted to all of them; resizing bends the edges."""


@dataclass(frozen=True)
class Geometry:
    """The place in the store's grid of voxel p of an image is matrix @ p + offset.

    p counts the axes of space of the image: all of (slices, H, W), those after the channel of (C, X, Y, Z).
    shape: of the store's grid.
    """

    matrix: np.ndarray
    offset: np.ndarray
    shape: tuple[int, int, int]

    def place(self, image: np.ndarray) -> np.ndarray:
        """An image's array over its axes of space, in the store's grid: linear between voxels, 0 outside of it."""
        grid = np.indices(self.shape).reshape(3, -1) - self.offset[:, None]
        places = np.linalg.solve(self.matrix, grid)
        within = (places > -0.501) & (places < np.array(image.shape)[:, None] - 0.499)
        values = map_coordinates(image.astype("float64"), places, order=1, mode="nearest")
        return np.where(within.all(0), values, 0.0).reshape(self.shape).astype("float32")

    def along(self, axis: int, places: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """The coordinate in mm, on the axis of space that it runs along, of each of the places on an image's axis."""
        column = affine[:3, :3] @ self.matrix[:, axis]
        there = int(np.abs(column).argmax())
        start = (affine[:3, :3] @ self.offset + affine[:3, 3])[there]
        return start + column[there] * places


def spatial(images: np.ndarray) -> np.ndarray:
    """Images (B, C, ...) over their axes of space: the mean over the channels of volumes; slices as they are."""
    return images.mean(1) if images.ndim == 5 else images


def geometry(module: BaseDataModule, shape: tuple[int, ...], input_shape: tuple[int, ...]) -> Geometry | None:
    """How a data module shows scans of this shape, found by showing it their coordinates in place of intensities.

    input_shape: (C, ...) as the network sees an image. None for time series, and where what a module does is no
    straight grid or hooks change the image's shape.
    """
    if len(shape) != 3:
        return None
    coordinates = np.indices(shape, dtype="float32") + 1  # from 1, so that what a module puts around is 0
    shown = module.arrange(coordinates[(slice(None), *module.box(shape))])
    shown = np.asarray(module.present(torch.from_numpy(np.array(shown, "float32")), False))
    if shown.shape[1:] != tuple(input_shape) or shown.ndim not in (4, 5):
        return None
    return _fitted(spatial(shown), shape)


def _fitted(shown: np.ndarray, shape: tuple[int, ...]) -> Geometry | None:
    """The straight grid nearest to coordinates (3, a, b, c), counted from 1 and 0 where there is none."""
    sizes = shown.shape[1:]
    inside = (shown > 0.5).all(0).ravel()
    places = np.indices(sizes).reshape(3, -1)[:, inside].astype(float)
    wanted = shown.reshape(3, -1)[:, inside].astype(float) - 1
    if not inside.any():
        return None
    moving = [axis for axis in range(3) if np.ptp(places[axis]) > 0]
    design = np.vstack([places[moving], np.ones(places.shape[1])])
    found = np.linalg.lstsq(design.T, wanted.T, rcond=None)[0].T
    if np.abs(found @ design - wanted).max() > WITHIN:
        return None
    matrix = np.zeros((3, 3))
    matrix[:, moving] = np.round(found[:, :-1], 4)
    free = sorted(range(3), key=lambda axis: np.abs(matrix[axis]).max())
    for axis, along in zip([axis for axis in range(3) if axis not in moving], free):
        matrix[along, axis] = 1
    if abs(np.linalg.det(matrix)) < 1e-6:
        return None
    offset = wanted.mean(1) - matrix @ places.mean(1)
    return Geometry(matrix, np.round(offset, 3), tuple(shape))
