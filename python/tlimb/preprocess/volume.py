"""A scan as an array with its place in the world, and the few moves that preprocessing makes with it."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk


# Scans run side by side, each on one core, and give the same numbers wherever they run.
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


class ScanError(ValueError):
    """A scan that cannot be preprocessed; its text is the reason that the store's index gives."""


@dataclass(frozen=True)
class Volume:
    """An image on a grid.

    data: (X, Y, Z) float32.  affine: (4, 4), voxel index -> world in mm, RAS+.
    """

    data: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def read_volume(path) -> tuple[Volume, list[str]]:
    """Read a NIfTI file as a volume whose axes run nearest to RAS, with warnings about what had to be mended.

    Trailing axes of length 1 are dropped; voxels that are not finite become 0.
    Raises ScanError where the file cannot be read, is not 3D, or holds no image.
    """
    try:
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(f"cannot be read: {str(error).replace(str(path), Path(path).name)}") from None
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3 or 0 in data.shape:
        raise ScanError(f"not a 3D image: shape {data.shape}")
    volume = _reoriented(data, np.asarray(image.affine, float))
    data, warnings = _finite(volume.data)
    header = image.header
    if "sform_code" in header and not header["sform_code"] and not header["qform_code"]:
        warnings.append("the header gives no orientation, RAS assumed")
    return Volume(data, volume.affine), warnings


def _reoriented(data: np.ndarray, affine: np.ndarray) -> Volume:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise ScanError("the header's affine is singular")
    orientation = nib.orientations.io_orientation(affine)
    flip = nib.orientations.inv_ornt_aff(orientation, data.shape)
    return Volume(nib.orientations.apply_orientation(data, orientation), affine @ flip)


def _finite(data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    finite = np.isfinite(data)
    if not finite.any():
        raise ScanError("no voxel is finite")
    warnings = []
    if not finite.all():
        warnings.append(f"{int((~finite).sum())} voxels are not finite, taken as 0")
        data = np.where(finite, data, np.float32(0))
    if data.min() == data.max():
        raise ScanError(f"empty image: every voxel is {data.min():g}")
    return data, warnings


def shrink(volume: Volume, spacing: float) -> Volume:
    """Average blocks of voxels so that each axis comes as near to `spacing` mm as whole factors allow.

    The mean over a block is the anti-alias filter; voxels that fill no whole block at the far ends are dropped.
    """
    factors = np.clip(np.round(spacing / volume.spacing), 1, volume.data.shape).astype(int)
    if (factors == 1).all():
        return volume
    data = volume.data
    for axis, factor in enumerate(factors):
        data = _block_means(data, axis, int(factor))
    scaling = np.diag([*factors, 1.0])
    scaling[:3, 3] = (factors - 1) / 2
    return Volume(np.ascontiguousarray(data), volume.affine @ scaling)


def _block_means(data: np.ndarray, axis: int, factor: int) -> np.ndarray:
    data = np.moveaxis(data, axis, 0)
    end = len(data) // factor * factor
    total = data[0:end:factor]
    for offset in range(1, factor):
        total = total + data[offset:end:factor]
    return np.moveaxis(total / np.float32(factor), 0, axis)


def sample(volume: Volume, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trilinear values (N,) of a volume at world `points` (3, N), and which of them lie inside; outside gives 0."""
    inverse = np.linalg.inv(volume.affine)
    index = inverse[:3, :3] @ points + inverse[:3, 3:]
    corner = np.floor(index).astype(np.int32)
    shape = np.array(volume.data.shape)[:, None]
    inside = ((corner >= 0) & (corner < shape - 1)).all(0)
    fx, fy, fz = (index - corner).astype(np.float32)
    corner = np.where(inside, corner, 0)
    flat = np.ascontiguousarray(volume.data).ravel()
    stride_x, stride_y = int(shape[1, 0] * shape[2, 0]), int(shape[2, 0])
    base = corner[0] * stride_x + corner[1] * stride_y + corner[2]

    def along_z(offset):
        near = flat[base + offset]
        return near + (flat[base + (offset + 1)] - near) * fz

    def along_y(offset):
        near = along_z(offset)
        return near + (along_z(offset + stride_y) - near) * fy

    near = along_y(0)
    values = near + (along_y(stride_x) - near) * fx
    return np.where(inside, values, np.float32(0)), inside


def resample(volume: Volume, world: np.ndarray, affine: np.ndarray, shape, nearest: bool = False) -> np.ndarray:
    """The volume on the grid (`affine`, `shape`) of another space, (X, Y, Z) float32, NaN outside of its field of view.

    world: (4, 4), maps that space's mm to the volume's mm. Linear interpolation, or nearest neighbour for masks.
    """
    index = np.linalg.inv(volume.affine) @ world @ affine
    grid = sitk.Image([int(size) for size in shape], sitk.sitkFloat32)
    transform = sitk.AffineTransform(index[:3, :3].ravel().tolist(), index[:3, 3].tolist(), [0.0, 0.0, 0.0])
    source = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    resampled = sitk.Resample(source, grid, transform, interpolator, float("nan"), sitk.sitkFloat32)
    return sitk.GetArrayFromImage(resampled).T
