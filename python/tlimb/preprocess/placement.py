"""Where a NIfTI header places its voxels, and what in it contradicts itself."""

from itertools import product

import nibabel as nib
import numpy as np

FARTHEST = 1.0  # mm between two placements of one voxel that pass for the same
STEEPEST = 1.0  # degrees between two directions that pass for the same
SIZE_TOLERANCE = 0.01  # share by which two voxel sizes may differ


def placed(header, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """The affine (4, 4) of a nibabel header over `shape`, voxel index -> mm, and what speaks against it, one text each.

    The sform counts, then the qform, then the voxel sizes alone, as in nibabel. Reported are a qform and an sform that
    disagree, axes that are not at right angles, and voxel sizes that are not those of the affine.
    Raises ValueError where the affine is not finite, singular, or of a size that no scanner has.
    """
    sform = header.get_sform(coded=True)[0]
    qform, reason = _qform(header)
    if sform is None and reason:
        raise ValueError(reason)
    warnings = [reason] if reason else []
    affine = next((found for found in (sform, qform) if found is not None), None)
    if affine is None:
        affine = header.get_base_affine()
        warnings.append("the header gives no orientation: axes taken as left, anterior, superior")
    affine = np.asarray(affine, float)
    _require_sense(affine)
    if sform is not None and qform is not None:
        warnings += _disagreement(sform, qform, shape)
    warnings += _shear(affine) + _other_sizes(affine, header)
    return affine, warnings


def _qform(header) -> tuple[np.ndarray | None, str]:
    """The qform where its code says that it counts, or why it cannot be used."""
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        return None, f"the header's qform is not valid: {error}"
    if qform is not None and not np.isfinite(qform).all():
        return None, "the header's qform is not finite"
    return qform, ""


def _require_sense(affine: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        raise ValueError("the header's affine is not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if not 0 < sizes.min() or not abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3:
            raise ValueError("the header's affine is singular")
    if not 1e-3 <= sizes.min() or sizes.max() > 1e3 or np.abs(affine[:3, 3]).max() > 1e6:
        raise ValueError(f"the header's affine makes no sense: voxels of {_sizes(sizes)} mm")


def _disagreement(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    apart = farthest(sform, qform, shape)
    directions = [form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
    cosines = np.clip((directions[0] * directions[1]).sum(0), -1, 1)
    angle = np.rad2deg(np.arccos(cosines)).max()
    if apart <= FARTHEST and angle <= STEEPEST:
        return []
    mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    what = ", left and right among them" if mirrored else ""
    return [f"the affine may lie: sform and qform differ by {apart:.1f} mm and {angle:.0f} degrees{what}"]


def farthest(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Distance in mm between where two affines place the corner voxel of a grid that they place farthest apart."""
    ends = [(0, size - 1) for size in (*shape[:3], 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in product(*ends)], float)
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def _shear(affine: np.ndarray) -> list[str]:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((directions.T @ directions)[np.triu_indices(3, 1)])
    off = float(np.rad2deg(np.arcsin(np.clip(cosines.max(), 0, 1))))
    return [f"the affine may lie: its axes are {off:.1f} degrees off right angles"] if off > STEEPEST else []


def _other_sizes(affine: np.ndarray, header) -> list[str]:
    stated = np.abs(np.asarray(header.structarr["pixdim"][1:4], float))
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(stated, sizes, rtol=SIZE_TOLERANCE, atol=1e-3):
        return []
    return [f"the affine may lie: its voxels are {_sizes(sizes)} mm, the header's sizes {_sizes(stated)} mm"]


def _sizes(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)
