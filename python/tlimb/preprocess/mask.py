"""Brain masks: the user's own, and those that a learned extractor finds."""

import importlib.metadata
import importlib.util
import warnings as python_warnings
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from tlimb.errors import InputError, Problem
from tlimb.preprocess.nifti import ScanError, read_voxels
from tlimb.preprocess.placement import FARTHEST, farthest
from tlimb.preprocess.volume import Volume, oriented, resample

EXTRACTOR = "deepbet"
EXTRA = "learned-mask"


def own_mask(path: Path | None, scan: Volume, digest=None) -> tuple[Volume, list[str]]:
    """The mask that came with a scan, 1 where it is above 0.5 and 0 elsewhere, with warnings.

    It may stand on the scan's own grid or on any other, for its header says where it lies; a mask of as many voxels as
    the scan that lies elsewhere by its header is reported.
    digest: a hashlib object that is given the file's bytes. Raises ScanError where there is no mask to read.
    """
    if path is None:
        raise ScanError("the recipe asks for the scan's own mask, and the samplesheet gives none")
    try:
        data, header = read_voxels(path, digest)
    except ScanError as error:
        raise ScanError(f"mask: {error}") from None
    marked = data > 0.5
    if not marked.any():
        raise ScanError("mask: no voxel is above 0.5")
    mask = oriented(Volume(marked.astype(np.float32), header.affine))
    doubts = [*header.warnings, *_elsewhere(mask, scan)]
    return mask, [f"mask: {doubt}" for doubt in doubts]


def _elsewhere(mask: Volume, scan: Volume) -> list[str]:
    if mask.data.shape != scan.data.shape:
        return []
    apart = farthest(mask.affine, scan.affine, scan.data.shape)
    return [f"as many voxels as the scan, but {apart:.0f} mm away by its header"] if apart > FARTHEST else []


def on_grid(mask: Volume, world: np.ndarray, affine: np.ndarray, shape) -> np.ndarray:
    """Which voxels of a grid lie in a mask, (X, Y, Z) bool, by the mask's nearest voxel. `world`: as in `resample`."""
    return np.nan_to_num(resample(mask, world, affine, shape, "nearest")) > 0.5


def require_extractor() -> None:
    """Raise InputError where the package of the learned extractor is not installed."""
    if importlib.util.find_spec(EXTRACTOR) is None:
        message = f"'learned' needs the package {EXTRACTOR}, which is not installed"
        raise InputError([Problem("recipe: mask", message, f"pip install 'tlimb[{EXTRA}]'")])


def extractor_version() -> str:
    """Name and version of the learned extractor, whose weights come with it."""
    require_extractor()
    return f"{EXTRACTOR} {importlib.metadata.version(EXTRACTOR)}"


def learned_mask(scan: Volume) -> Volume:
    """The brain of a T1-weighted head as a trained network finds it in the scan's own space, 1 inside and 0 outside.

    Two 3D U-Nets, one for the bounding box and one for the mask within, and the largest connected part of the result
    with its holes filled (Fisch et al., deepbet, Comput. Biol. Med. 179, 2024,
    https://doi.org/10.1016/j.compbiomed.2024.108845). One core; about 1.5 GB of memory.
    Raises ScanError where it finds none, InputError where the extractor is not installed.
    """
    require_extractor()
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, mask, _ = _extractor().run(nib.Nifti1Image(scan.data, scan.affine))
    except (AssertionError, ValueError, IndexError) as error:  # how it says that there is no foreground
        raise ScanError(f"the learned extractor found no brain: {error}") from None
    finally:
        torch.set_num_threads(threads)
    return Volume(np.asarray(mask.dataobj, np.float32), np.asarray(mask.affine, float))


@cache
def _extractor():
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        from deepbet import BrainExtraction

        return BrainExtraction(no_gpu=True)
