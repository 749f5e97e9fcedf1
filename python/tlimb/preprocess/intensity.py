"""Intensities within the brain brought to a common scale, one scan at a time; 0 outside of the brain.

What is fitted over many scans, such as a histogram standard, belongs to training and is not here.
"""

import numpy as np

from tlimb.preprocess.nifti import ScanError

LEAST_VOXELS = 100  # of the brain mask inside of the image
LARGEST, SMALLEST = 65504.0, 2.0**-14  # float16: beyond the one it is infinite, below the other it loses digits
MOST_CLIPPED = 0.001  # share of the brain that may lie beyond LARGEST


def require_contrast(values: np.ndarray, brain: np.ndarray) -> None:
    """Raise ScanError where too little of the brain lies in the image or all of it has one value."""
    inside = values[brain]
    if len(inside) < LEAST_VOXELS:
        raise ScanError(f"only {len(inside)} voxels of the brain mask lie inside of the image")
    if inside.min() == inside.max():
        raise ScanError("every voxel in the brain mask has the same value")


def rescaled(values: np.ndarray, brain: np.ndarray, recipe) -> tuple[np.ndarray, list[str]]:
    """The values (X, Y, Z) float32 as the recipe's `intensity` says, as float16 and 0 outside of `brain`, and warnings.

    Raises ScanError where the scale cannot be told or the result cannot be held.
    """
    if recipe.intensity == "zscore":
        values = zscore(values, brain)
    elif recipe.intensity == "minmax":
        values = minmax(values, brain)
    elif recipe.intensity == "percentile":
        values = percentile(values, brain, *recipe.percentiles)
    return stored(values, brain)


def zscore(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """(v - m) / s with the mean m and the standard deviation s over the brain."""
    inside = values[brain]
    mean, spread = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    if not spread > 0:
        raise ScanError("every voxel in the brain mask has the same value")
    return (values - mean) / spread


def minmax(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """(v - a) / (b - a) with the least value a and the greatest b over the brain: 0 to 1 there."""
    return _between(values, float(values[brain].min()), float(values[brain].max()))


def percentile(values: np.ndarray, brain: np.ndarray, low: float, high: float) -> np.ndarray:
    """(v - a) / (b - a), cut to 0..1, with the `low` and `high` percentiles a and b over the brain."""
    least, greatest = np.percentile(values[brain], [low, high])
    return np.clip(_between(values, float(least), float(greatest)), 0, 1)


def _between(values: np.ndarray, least: float, greatest: float) -> np.ndarray:
    if not greatest > least:
        raise ScanError(f"the intensities in the brain mask have no range: {least:g} to {greatest:g}")
    return (values - least) / (greatest - least)


def stored(values: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The values as float16, 0 outside of the brain, with a warning where single ones lie beyond what float16 holds.

    Raises ScanError where many do, or where all are so small that it would lose their digits.
    """
    inside = np.abs(values[brain])
    largest, beyond = float(inside.max()), int((inside > LARGEST).sum())
    if beyond > MOST_CLIPPED * len(inside):
        raise ScanError(f"values up to {largest:g} are more than a store holds ({LARGEST:g}); choose an intensity step")
    if largest < SMALLEST:
        raise ScanError(f"values up to {largest:g} are too small for a store; choose an intensity step")
    warnings = [f"{beyond} voxels beyond {LARGEST:g} were cut to it"] if beyond else []
    return np.where(brain, np.clip(values, -LARGEST, LARGEST), 0).astype(np.float16), warnings
