"""Heads in known places: the MNI152 template moved by a known transform, with a scalp, noise and a scanner's grid."""

from functools import cache

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlimb.preprocess.template import template_path

CENTRE = np.array([0.0, -17.0, 5.0])


@cache
def head(scalp: bool) -> tuple[np.ndarray, np.ndarray]:
    """The template in 0..1 at 2 mm and its affine; with `scalp`, a bright shell 6 to 12 mm outside of the brain."""
    image = nib.load(template_path())
    data = np.asarray(image.dataobj)[:196, :232, :188].reshape(98, 2, 116, 2, 94, 2).mean((1, 3, 5)) / 255
    affine = image.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    data = np.pad(data, 10)
    affine = affine @ np.array([[1, 0, 0, -10], [0, 1, 0, -10], [0, 0, 1, -10], [0, 0, 0, 1]])
    if scalp:
        away = 2 * ndimage.distance_transform_edt(data < 0.02)
        data = data + 0.8 * ((away > 6) & (away <= 12))
    return data.astype(np.float32), affine


def pose(rng, degrees=6.0, mm=6.0, scale=0.04, kind="affine") -> np.ndarray:
    """A random transform (4, 4) from template mm to scanner mm about the brain's centre, uniform within the limits."""
    size = rng.uniform(-scale, scale, 3)
    sizes = {"affine": size, "similarity": np.full(3, size[0]), "rigid": np.zeros(3)}
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    world[:3, :3] = world[:3, :3] @ np.diag(1 + sizes[kind])
    world[:3, 3] = CENTRE + rng.uniform(-mm, mm, 3) - world[:3, :3] @ CENTRE
    return world


def scanned(world, rng, axes="RAS", scalp=True, noise=0.03, voxel=2.0, shape=(96, 112, 96)) -> nib.Nifti1Image:
    """A scan of the head that stands as `world` says, float32 up to about 1000, Rician noise, axes as named."""
    data, affine = head(scalp)
    grid = np.diag([voxel, voxel, voxel, 1.0])
    grid[:3, 3] = CENTRE - voxel * (np.array(shape) - 1) / 2
    index = np.linalg.inv(affine) @ np.linalg.inv(world) @ grid
    signal = ndimage.affine_transform(data, index[:3, :3], index[:3, 3], shape, order=1)
    real, imaginary = noise * rng.standard_normal((2, *shape), dtype=np.float32)
    image = nib.Nifti1Image((1000 * np.hypot(signal + real, imaginary)).astype(np.float32), grid)
    turn = nib.orientations.ornt_transform(nib.io_orientation(grid), nib.orientations.axcodes2ornt(axes))
    return image.as_reoriented(turn)


def distance(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance in mm (N,) between where two transforms take points (3, N)."""
    homogeneous = np.vstack([points, np.ones(points.shape[1])])
    return np.linalg.norm(((one - other) @ homogeneous)[:3], axis=0)
