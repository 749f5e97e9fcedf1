"""The MNI152 template as preprocessing uses it: the store's grid, the brain mask, and the levels of registration.

The images are the skull-stripped ICBM 2009a nonlinear symmetric average that nilearn carries (Fonov et al.,
NeuroImage 54, 2011, https://doi.org/10.1016/j.neuroimage.2010.07.033); only their files are used, not nilearn's code.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tlimb.files import file_digest
from tlimb.preprocess.volume import Volume, resample, shrink

TEMPLATE_FILE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
NEAR = 6.0  # mm around the brain that still show where it ends
MARGIN = 2.0  # mm between the brain and the border of the store's grid
MULTIPLE = 8  # of voxels along each axis, so that encoders can halve three times
LENGTH = 50.0  # mm, brings the entries of a matrix to the scale of those of a shift
LEVELS = ((2.0, -4.0, 4), (4.0, 4.0, 1), (8.0, 4.0, 1))  # spacing, mm beyond the brain, one of how many voxels is used
WIDTH = 80.0  # mm, brings the polynomials of the place to about 1


@dataclass(frozen=True)
class Level:
    """The template's points at one spacing.

    points: (3, N) mm, in the brain and 4 mm around it; at 2 mm only those 4 mm inside of it, because the fluid and
    the membranes around a brain, which the skull-stripped template lacks, would bend its size by a percent.
    values: (N,) intensities in 0..1.
    jacobian: (12, N), change of the intensity with the nine entries of a matrix about `centre` (3, 1), scaled so that
    1 moves a point at LENGTH from the centre by 1 mm, then with the three of a shift in mm.
    place: (9, N), the terms of a quadratic polynomial of the points but the constant.
    """

    spacing: float
    points: np.ndarray
    centre: np.ndarray
    values: np.ndarray
    jacobian: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Template:
    """The store's grid (`affine` (4, 4), `shape`), the brain `mask` on it, and what registration needs.

    near: the mask and NEAR mm around it.
    centre: (3,) mm, centre of the brain.  brain: (3, N) mm, points spread evenly over the brain.
    levels: from fine to coarse.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    mask: np.ndarray
    near: np.ndarray
    centre: np.ndarray
    brain: np.ndarray
    levels: tuple[Level, ...]


def template_path() -> Path:
    """The T1-weighted template file that nilearn carries, found without importing nilearn."""
    spec = importlib.util.find_spec("nilearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / TEMPLATE_FILE


@lru_cache(maxsize=1)
def template_digest() -> str:
    """16 hexadecimal digits of the template file's SHA-256."""
    return file_digest(template_path())


@lru_cache(maxsize=4)
def load_template(spacing: float, shape: tuple[int, int, int] | None = None) -> Template:
    """The template for stores of `spacing` mm.

    shape: voxels along each axis; by default the brain's bounding box with a margin, rounded up to multiples of 8.
    The grid is centred on the brain, and exactly on the midline, so that reversing the first axis swaps left and right.
    """
    head, brain = _head_and_brain()
    affine, shape = _grid(brain, spacing, shape)
    mask = _brain_mask(brain, affine, shape)
    corners = np.argwhere(brain.data > 0)
    spread = corners[:: len(corners) // 2000]
    return Template(
        affine=affine,
        shape=shape,
        mask=mask,
        near=_grown(mask, NEAR / spacing),
        centre=head.affine[:3, :3] @ corners.mean(0) + head.affine[:3, 3],
        brain=head.affine[:3, :3] @ spread.T + head.affine[:3, 3:],
        levels=_levels(head, brain),
    )


def grid_shape(recipe) -> tuple[int, int, int]:
    """Voxels along each axis of a recipe's store (`spacing` in mm, and `shape` or None)."""
    return tuple(recipe.shape) if recipe.shape else _grid(_head_and_brain()[1], float(recipe.spacing), None)[1]


def _head_and_brain() -> tuple[Volume, Volume]:
    image = nib.load(template_path())
    head = Volume(image.get_fdata(dtype=np.float32) / np.float32(255), np.asarray(image.affine, float))
    return head, Volume((head.data > 0).astype(np.float32), head.affine)


def _grid(brain: Volume, spacing: float, shape) -> tuple[np.ndarray, tuple[int, int, int]]:
    there = [np.flatnonzero(brain.data.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    low, high = (np.array([axis[end] for axis in there]) + side for end, side in ((0, -0.5), (-1, 0.5)))
    low, high = low + brain.affine[:3, 3], high + brain.affine[:3, 3]
    low[0], high[0] = -max(-low[0], high[0]), max(-low[0], high[0])
    if shape is None:
        voxels = np.ceil((high - low + 2 * MARGIN) / spacing)
        shape = np.ceil(voxels / MULTIPLE) * MULTIPLE
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.round((low + high) / 2) - spacing * (np.array(shape) - 1) / 2
    return affine, tuple(int(size) for size in shape)


def _brain_mask(brain: Volume, affine: np.ndarray, shape) -> np.ndarray:
    share = resample(shrink(brain, affine[0, 0]), np.eye(4), affine, shape)
    filled = sitk.BinaryFillhole(sitk.GetImageFromArray((share >= 0.5).astype(np.uint8)))
    return sitk.GetArrayFromImage(filled).astype(bool)


def _grown(mask: np.ndarray, radius: float) -> np.ndarray:
    """The mask with `radius` voxels around it, or less as many where that is negative."""
    change = sitk.BinaryDilate if radius > 0 else sitk.BinaryErode
    grown = change(sitk.GetImageFromArray(mask.astype(np.uint8)), [max(1, round(abs(radius)))] * 3)
    return sitk.GetArrayFromImage(grown).astype(bool)


def _levels(head: Volume, brain: Volume) -> tuple[Level, ...]:
    head, brain = _padded(head, 16), _padded(brain, 16)
    levels = []
    for spacing, beyond, every in LEVELS:
        head, brain = shrink(head, spacing), shrink(brain, spacing)
        index = np.argwhere(_grown(brain.data >= 0.3, beyond / spacing))[::every]
        levels.append(_level(head, index, spacing))
    return tuple(levels)


def _level(head: Volume, index: np.ndarray, spacing: float) -> Level:
    points = head.affine[:3, :3] @ index.T + head.affine[:3, 3:]
    slopes = np.stack([slope[tuple(index.T)] for slope in np.gradient(head.data, spacing)])
    centre = points.mean(1, keepdims=True)
    turning = slopes[:, None, :] * ((points - centre) / LENGTH)[None]
    jacobian = np.concatenate([turning.reshape(9, -1), slopes]).astype(np.float32)
    x, y, z = (points - centre) / WIDTH
    place = np.stack([x, y, z, x * x, y * y, z * z, x * y, y * z, x * z]).astype(np.float32)
    return Level(spacing, points, centre, head.data[tuple(index.T)], jacobian, place)


def _padded(volume: Volume, voxels: int) -> Volume:
    shift = np.eye(4)
    shift[:3, 3] = -voxels
    return Volume(np.pad(volume.data, voxels), volume.affine @ shift)
