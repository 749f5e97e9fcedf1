"""A scan as an array with its place in the world, and the few moves that preprocessing makes with it."""

import hashlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.nifti import ScanError, read_voxels

__all__ = ["ScanError", "Volume", "content_digest", "lifted", "oriented", "read_volume", "resample", "sample", "shrink"]

# Scans run side by side, each on one core, and give the same numbers wherever they run.
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

INTERPOLATORS = {"linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline, "nearest": sitk.sitkNearestNeighbor}
HUGE = 1e15  # beyond it a value is damage, and its square no float32
FLOOR = 0.1  # percentile of a scan with negative values below which they are taken for outliers


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


def read_volume(path, digest=None, orient: bool = True) -> tuple[Volume, list[str]]:
    """Read a NIfTI file as a volume, with warnings about what is odd in its header and what had to be mended.

    digest: a hashlib object that is given the file's bytes. orient: turn and mirror the axes to run nearest to RAS.
    Trailing axes of length 1 are dropped; voxels that are not finite, or beyond HUGE, become 0.
    Raises ScanError where the file cannot be read, is not 3D, or holds no image.
    """
    data, header = read_voxels(path, digest)
    data, mended = _finite(data)
    volume = Volume(data, header.affine)
    return oriented(volume) if orient else volume, [*header.warnings, *mended]


def content_digest(volume: Volume) -> str:
    """16 hexadecimal digits of the SHA-256 of the voxels, float32 in RAS with the first axis fastest.

    Copies of an image agree, however they are compressed, oriented, or stored as numbers.
    """
    voxels = oriented(volume).data.T + np.float32(0)  # the sum makes -0 and 0 one
    return hashlib.sha256(np.ascontiguousarray(voxels, "<f4")).hexdigest()[:16]


def oriented(volume: Volume) -> Volume:
    """The volume with its axes turned and mirrored to run nearest to right, anterior, superior."""
    orientation = nib.orientations.io_orientation(volume.affine)
    flip = nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    return Volume(nib.orientations.apply_orientation(volume.data, orientation), volume.affine @ flip)


def _finite(data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    finite = np.abs(data) < HUGE
    if not finite.any():
        raise ScanError("no voxel is finite")
    warnings = []
    if not finite.all():
        warnings.append(f"{int((~finite).sum())} voxels are not finite, taken as 0")
        data = np.where(finite, data, np.float32(0))
    if data.min() == data.max():
        raise ScanError(f"empty image: every voxel is {data.min():g}")
    return data, warnings


def lifted(volume: Volume) -> tuple[Volume, float]:
    """The volume without negative values, and what was taken from every voxel for that: 0 where there were none.

    Some scanners and tools leave an offset or ringing below 0, and a wrong value here and there far below: what lies
    below the FLOOR percentile is raised to it, so that those do not set the scale.
    """
    if volume.data.min() >= 0:
        return volume, 0.0
    floor = min(np.float32(np.percentile(volume.data, FLOOR)), np.float32(0))
    return Volume(np.maximum(volume.data, floor) - floor, volume.affine), float(floor)


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


def resample(volume: Volume, world: np.ndarray, affine: np.ndarray, shape, kind: str = "linear") -> np.ndarray:
    """The volume on the grid (`affine`, `shape`) of another space, (X, Y, Z) float32, NaN outside of its field of view.

    world: (4, 4), maps that space's mm to the volume's mm. kind: linear, nearest, or bspline (cubic, whose overshoots
    are cut at the volume's own least and greatest value).
    """
    index = np.linalg.inv(volume.affine) @ world @ affine
    grid = sitk.Image([int(size) for size in shape], sitk.sitkFloat32)
    transform = sitk.AffineTransform(index[:3, :3].ravel().tolist(), index[:3, 3].tolist(), [0.0, 0.0, 0.0])
    source = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    found = sitk.Resample(source, grid, transform, INTERPOLATORS[kind], float("nan"), sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(found).T
    return np.clip(values, volume.data.min(), volume.data.max()) if kind == "bspline" else values
