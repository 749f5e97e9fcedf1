"""Numbers that tell a good scan from a bad one, and the rules by which they become warnings."""

import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.register import CONVINCING, Registration
from tlimb.preprocess.template import Template
from tlimb.preprocess.volume import Volume

LEAST_DICE = 0.8
LEAST_COVERAGE = 0.97
VOLUME_RANGE = (0.55, 1.8)  # of the scan's brain against the template's
CORNER = 10  # a corner block is one CORNER-th of each axis


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a and b| / (|a| + |b|) of two boolean arrays; 0 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 0.0


def mask_overlap(registered: np.ndarray, template: Template) -> float:
    """Dice overlap of the voxels above Otsu's threshold with the template's brain, both near that brain.

    registered: (X, Y, Z) on the template's grid. Scalp and neck lie farther out and do not count.
    """
    bright = np.zeros(template.shape, bool)
    values = sitk.GetImageFromArray(registered[template.near].reshape(1, 1, -1))
    bright[template.near] = sitk.GetArrayFromImage(sitk.OtsuThreshold(values, 0, 1)).ravel() > 0
    return dice(bright, template.mask)


def signal_to_noise(scan: Volume, brain_mean: float) -> float | None:
    """Mean over the brain divided by the standard deviation of the background, None where the background is constant.

    The background is the median over those of the scan's eight corner blocks that are not constant.
    """
    counts = [max(1, size // CORNER) for size in scan.data.shape]
    x, y, z = ((slice(0, n), slice(-n, None)) for n in counts)
    spreads = [float(scan.data[i, j, k].std(dtype=np.float64)) for i in x for j in y for k in z]
    spreads = [spread for spread in spreads if spread > 0]
    return brain_mean / float(np.median(spreads)) if spreads and brain_mean > 0 else None


def warnings_about(found: Registration, overlap: float, coverage: float, registered: bool) -> list[str]:
    """What looks wrong, one text each.

    overlap: Dice overlap with the template's brain. coverage: share of that brain inside of the scan's field of view.
    registered: whether the recipe asks for registration at all.
    """
    warnings = []
    if registered and found.metric > CONVINCING:
        warnings.append(f"registration doubtful: metric {found.metric:.2f}, expected below {CONVINCING}")
    size = np.linalg.det(found.world[:3, :3])
    if not VOLUME_RANGE[0] <= size <= VOLUME_RANGE[1]:
        warnings.append(f"registration doubtful: the brain's volume would be {size:.2f} of the template's")
    if overlap < LEAST_DICE:
        warnings.append(f"the foreground overlaps little with the brain: {overlap:.2f}, expected {LEAST_DICE} or more")
    if coverage < LEAST_COVERAGE:
        warnings.append(f"{1 - coverage:.0%} of the brain lies outside of the image")
    return warnings
