"""One person's scan: the anatomy deformed, posed, seen by a scanner and stored, with one interpolation."""

from functools import cache

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlimb.demo.anatomy import FIELD_SPACING, SPACING, anatomy, grid
from tlimb.demo.recipe import FACTOR_NAMES, KNOTS, MODE_NAMES, ORIENTATIONS, SITES, STORAGE

# Displacements and the receive field are smooth: they are computed at every fourth voxel and interpolated between.
STEP = 4
FIELD_OF_VIEW = np.array([172.0, 210.0, 182.0])
CENTRE = np.array([0.0, -17.0, 8.0])


def weights_of(person) -> np.ndarray:
    """(factors + modes,) float32 in sd, from a mapping that names them."""
    return np.array([person[name] for name in (*FACTOR_NAMES, *MODE_NAMES)], dtype=np.float32)


def render(weights: np.ndarray, shape, affine, pose=None) -> np.ndarray:
    """The noise-free image of a person on the grid (shape, affine), air 0 to fat 1, float32.

    weights: factors and modes in sd.  affine: (4, 4), voxel index to scanner mm.
    pose: (4, 4), template mm to scanner mm, the identity where absent.
    """
    lattice = _lattice(shape)
    to_template = affine if pose is None else np.linalg.inv(pose) @ affine
    place = _apply(to_template, lattice)
    template_index = _apply(_inverse_grid(SPACING), place + displacement(weights, place))
    full = _between(template_index.astype(np.float32), shape)
    return ndimage.map_coordinates(_changed_template(weights), full, order=1, output=np.float32, mode="nearest")


def displacement(weights: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(3, ...) mm from `place` (3, ...) in mm to its counterpart in the template, for weights in sd."""
    field = np.zeros(anatomy().fields.shape[1:], dtype=np.float32)
    for weight, basis in zip(weights, anatomy().fields):
        field += weight * basis
    index = _apply(_inverse_grid(FIELD_SPACING), place)
    return np.stack([ndimage.map_coordinates(axis, index, order=1, mode="nearest") for axis in field])


def scan(person, seed: int) -> bytes:
    """A NIfTI file (not compressed) of the person as their site would have archived it.

    person: mapping with site, size, factors and modes.  Drawn from the seed: pose, oblique acquisition, voxel size,
    orientation, noise, receive field, gain, data type and scaling.
    """
    rng = np.random.default_rng(seed)
    site = SITES[person["site"]]
    pose, shape, affine = head_pose(person, rng), *_acquisition(site, rng)
    signal = np.interp(render(weights_of(person), shape, affine, pose).ravel(), KNOTS, site.levels).astype(np.float32)
    signal = signal.reshape(shape) * _receive_field(shape, site.bias, rng)
    real = signal + site.noise * rng.standard_normal(shape, dtype=np.float32)
    imaginary = site.noise * rng.standard_normal(shape, dtype=np.float32)
    image = np.sqrt(real * real + imaginary * imaginary)
    return _stored(image, affine, rng)


def head_pose(person, rng) -> np.ndarray:
    """(4, 4) from template mm to scanner mm: turned by 6 degrees (sd), moved by 6 mm, scaled by size and by 3 %."""
    pose = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.normal(0, 6, 3).clip(-14, 14), degrees=True).as_matrix()
    pose[:3, :3] = turn @ np.diag(person["size"] * np.exp(0.03 * rng.standard_normal(3)))
    pose[:3, 3] = rng.normal(0, 6, 3)
    return pose


def _acquisition(site, rng) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the RAS grid that covers the head; every second one is oblique by some degrees."""
    voxel = np.asarray(site.voxel) * rng.uniform(0.95, 1.05, 3)
    shape = np.round(FIELD_OF_VIEW / voxel).astype(int)
    oblique = rng.normal(0, 4, 3) * rng.integers(2)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", oblique, degrees=True).as_matrix() @ np.diag(voxel)
    affine[:3, 3] = CENTRE + rng.normal(0, 3, 3) - affine[:3, :3] @ ((shape - 1) / 2)
    return tuple(int(n) for n in shape), affine


def _receive_field(shape, bias: float, rng) -> np.ndarray:
    """(X, Y, Z) float32 around 1: a random quadratic in the position, at most `bias` from 1."""
    x, y, z = (2 * axis / n - 1 for axis, n in zip(_lattice(shape), shape))
    terms = (x, y, z, x * x, y * y, z * z, x * y, y * z, x * z)
    field = sum(weight * term for weight, term in zip(rng.standard_normal(len(terms)), terms))
    return _between((1 + bias * field / np.abs(field).max())[None].astype(np.float32), shape)[0]


def _stored(image: np.ndarray, affine: np.ndarray, rng) -> bytes:
    """The image as an archive holds it: gain, axes in some order, a data type with its scaling."""
    storage = STORAGE[rng.integers(len(STORAGE))]
    fat = storage.fat * rng.uniform(0.8, 1.0)
    steps = np.rint((image * fat - storage.intercept) / (storage.slope * storage.step))
    stored = (steps * storage.step).astype(np.float32)
    if storage.dtype != "float32":
        limits = np.iinfo(storage.dtype)
        stored = stored.clip(limits.min, limits.max)
    axes = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    turned = apply_orientation(stored.astype(storage.dtype), turn)
    nifti = nibabel.Nifti1Image(turned, affine @ inv_ornt_aff(turn, image.shape), dtype=storage.dtype)
    nifti.header.set_slope_inter(storage.slope, storage.intercept)
    nifti.set_qform(nifti.affine, code="scanner")
    nifti.set_sform(nifti.affine, code="scanner")
    return nifti.to_bytes()


def _changed_template(weights: np.ndarray) -> np.ndarray:
    """The template with the grey matter that each factor takes away (or, below the reference age, adds)."""
    image = anatomy().image
    for weight, loss in zip(weights, anatomy().thinning):
        if loss is not None:
            image = image + weight * loss
    return image


def _lattice(shape) -> np.ndarray:
    """(3, x, y, z): voxel indices 0, STEP, 2 STEP ... until past the last voxel of each axis."""
    axes = [np.arange(-(-(n - 1) // STEP) + 1, dtype=np.float64) * STEP for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _between(lattice: np.ndarray, shape) -> np.ndarray:
    """Interpolate (channels, x, y, z) given on the lattice linearly to (channels, *shape)."""
    for axis, n in enumerate(shape, start=1):
        position = np.arange(n) / STEP
        low = np.minimum(position.astype(int), max(lattice.shape[axis] - 2, 0))
        share = (position - low).astype(np.float32).reshape([-1 if d == axis else 1 for d in range(4)])
        below, above = lattice.take(low, axis), lattice.take(low + 1, axis)
        lattice = below + share * (above - below)
    return lattice


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine (4, 4) applied to points (3, ...)."""
    return np.einsum("ij,j...->i...", affine[:3, :3], points) + affine[:3, 3].reshape(3, *[1] * (points.ndim - 1))


@cache
def _inverse_grid(spacing: float) -> np.ndarray:
    return np.linalg.inv(grid(spacing)[1])
