"""Images in formats that preprocessing does not read, written once as NIfTI."""

import gzip
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np

from tlimb.errors import InputError, Problem
from tlimb.files import replacing


Affine = Callable[[tuple[int, ...]], np.ndarray]


def to_niftis(jobs: Sequence[tuple[Path, Path, Affine]]) -> None:
    """Write each source as NIfTI; compression is what takes time, and threads share it."""
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1, 8) or 1) as pool:
        for _ in pool.map(lambda job: to_nifti(*job), jobs):
            pass


def to_nifti(source: Path, target: Path, affine: Affine) -> None:
    """Write the voxels of an Analyze image or an npy array as .nii.gz, unless `target` is there and newer.

    affine: shape -> the matrix from voxels to RAS mm. Axes of length 1 are dropped. Raises InputError for a file that
    cannot be read or is not 3D, and as `affine` does.
    """
    if _fresh(source, target):
        return
    try:
        voxels = (
            np.load(source, allow_pickle=False) if source.suffix == ".npy" else np.asanyarray(nib.load(source).dataobj)
        )
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise InputError([Problem(str(source), f"cannot be read: {error}")]) from None
    voxels = voxels.squeeze()
    if voxels.ndim != 3:
        raise InputError([Problem(str(source), f"expected a 3D image, found the shape {voxels.shape}")])
    try:
        place = affine(voxels.shape)
    except ValueError as error:
        raise InputError([Problem(str(source), str(error))]) from None
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    with replacing(target) as temporary:
        temporary.write_bytes(gzip.compress(nib.Nifti1Image(native, place).to_bytes(), compresslevel=1, mtime=0))


def _fresh(source: Path, target: Path) -> bool:
    return target.exists() and os.path.getmtime(target) >= os.path.getmtime(source)
