"""One fMRI scan -> one array of the store: signals of regions, cleaned."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from tlimb.preprocess.atlas import Atlas
from tlimb.preprocess.nifti import ScanError
from tlimb.preprocess.series_file import is_table, series_problem, table_names
from tlimb.preprocess.series_table import read_confounds, read_table
from tlimb.preprocess.signals import Signals

__all__ = ["agreed_regions", "cleaned", "preprocess_series", "series_header", "series_problem"]

STANDARDISE = {"zscore": "zscore_sample", "percent_change": "psc", "none": None}
LEAST_FILTERED = 34  # time points, for a filter of fifth order that runs forth and back
FLAT = 1e-6  # a signal whose spread is below this share of its size varies by rounding alone
MOST_MOTION = 0.5  # mm, mean framewise displacement
MOST_BLUR = 0.01  # of a signal's standard deviation lost by rounding to 16 bits
LARGEST = 65504.0  # that 16 bits can hold
SHOWN = 3


Confounds = tuple[np.ndarray | None, float | None, list[str]]
"""Values (T, K) to regress out, mean framewise displacement in mm, notes."""


class SeriesRecipe(Protocol):
    """What preprocessing reads of a recipe for time series; meanings are those of `tlimb.config.SeriesRecipe`."""

    timepoints: int
    tr: float | None
    detrend: bool
    band_pass: Sequence[float] | None
    confounds: Sequence[str]
    standardise: str


def preprocess_series(
    image: Path, confounds: Path | None, recipe: SeriesRecipe, atlas: Atlas | None, regions: Sequence[str] | None = None
) -> tuple[np.ndarray, dict]:
    """A scan as an array of the store, (timepoints, regions) float16, and its quality.

    image: a 4D NIfTI image in MNI space, averaged over `atlas`, or a parcellated table. confounds: its table, if any.
    regions: names that the columns shall have, in this order; a table with the same names in another order is sorted.
    Quality: `mask_overlap` and `coverage` of an image and the template's brain, `snr` over time, `displacement`, the
    mean framewise displacement in mm where the confounds have it, and the texts `notes` and `warnings`.
    Raises ScanError with the reason where the scan is of no use.
    """
    with threadpool_limits(1):
        signals = _read(image, recipe, atlas)
        values = _in_order(signals, regions)
        tr, warnings = _repetition_time(signals, recipe)
        nuisance, motion, notes = _confounds(confounds, recipe, signals.points)
        array, flat, doubts = cleaned(values, recipe, tr, nuisance)
        stored = _rounded(array)
    warnings = [*signals.warnings, *warnings, *doubts, *_blur(array, stored)]
    if flat.any():
        still = _some(np.asarray(regions or signals.names)[flat])
        warnings.append(f"{flat.sum()} of {len(flat)} regions do not vary over time, taken as 0: {still}")
    if motion is not None and motion > MOST_MOTION:
        warnings.append(f"mean framewise displacement {motion:.2f} mm, expected at most {MOST_MOTION}")
    numbers = {"mask_overlap": signals.overlap, "coverage": signals.coverage, "snr": signals.snr}
    told = {"notes": "; ".join(notes), "warnings": "; ".join(warnings)}
    return stored, numbers | {"displacement": motion} | told


def cleaned(
    values: np.ndarray, recipe: SeriesRecipe, tr: float | None, confounds: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Signals (T, R) detrended, filtered, freed from confounds (T, K) and standardised; which do not vary; doubts.

    nilearn.signal.clean does it: the linear trend is taken off, a Butterworth filter of fifth order runs forth and
    back, and the signals are projected onto what is orthogonal to the confounds, which were detrended and filtered
    likewise (Lindquist, Geuter, Wager, Caffo (2019), "Modular preprocessing pipelines can reintroduce artifacts into
    fMRI data", Human Brain Mapping 40). z-scores divide by the standard deviation of a sample; percent change is of
    the mean before cleaning. A region that does not vary, before or after, is 0 throughout.
    Raises ScanError where the band or the confounds do not suit the number of time points.
    """
    from nilearn.signal import clean

    low, high = recipe.band_pass or (None, None)
    warnings = _check(values, recipe, tr, confounds)
    steps = {"detrend": recipe.detrend, "high_pass": low, "low_pass": high, "t_r": tr, "confounds": confounds}
    left = clean(values, standardize=None, **steps)
    flat = np.ptp(left, axis=0) <= FLAT * np.abs(values).max(axis=0)
    if flat.all():
        raise ScanError("no region's signal varies over time")
    if recipe.standardise == "percent_change" and (values.mean(0)[~flat] <= values.std(0)[~flat]).any():
        raise ScanError("percent change needs signals that are well above 0; these were centred before")
    if recipe.standardise != "none":
        left = clean(np.where(flat, 1.0, values), standardize=STANDARDISE[recipe.standardise], **steps)
    return np.where(flat, 0.0, left), flat, warnings


def series_header(recipe: SeriesRecipe, regions: Sequence[str]) -> dict:
    """What a shard's header says of time series beside its recipe: shape, repetition time, names of the regions."""
    shape = [int(recipe.timepoints), len(regions)]
    return {"shape": shape, "spacing": None, "affine": None, "tr": recipe.tr, "regions": list(regions)}


def agreed_regions(images: Sequence[Path], atlas: Atlas | None) -> list[str]:
    """The regions that most of a chunk's scans have; of equally many the ones that come first in the alphabet.

    Only headers and first lines are read; a file that cannot be read has no say. The atlas's where none can.
    """
    votes: Counter[tuple[str, ...]] = Counter()
    for image in images:
        try:
            names = table_names(image)[0] if is_table(image) else atlas.names if atlas else ()
        except ScanError:
            continue
        votes[tuple(names)] += 1
    return list(min(votes, key=lambda names: (-votes[names], names), default=atlas.names if atlas else ()))


def _read(image: Path, recipe: SeriesRecipe, atlas: Atlas | None) -> Signals:
    if is_table(image):
        return read_table(image, recipe.timepoints)
    if atlas is None:
        raise ScanError("an image needs an atlas, and there is none")
    from tlimb.preprocess.series_image import read_image

    return read_image(image, atlas, recipe.timepoints)


def _in_order(signals: Signals, regions: Sequence[str] | None) -> np.ndarray:
    if regions is None or list(regions) == list(signals.names):
        return signals.values
    if len(regions) != len(signals.names):
        raise ScanError(f"holds {len(signals.names)} regions, most scans beside it {len(regions)}")
    other = sorted(set(signals.names) - set(regions))
    if other:
        raise ScanError(f"{len(other)} regions have other names than in most scans beside it: {_some(other)}")
    return signals.values[:, [signals.names.index(name) for name in regions]]


def _repetition_time(signals: Signals, recipe: SeriesRecipe) -> tuple[float | None, list[str]]:
    tr = signals.tr if recipe.tr is None else recipe.tr
    if recipe.tr and signals.tr and abs(signals.tr / recipe.tr - 1) > 0.01:
        return tr, [f"the file gives {signals.tr:g} s between time points, the recipe {recipe.tr:g} s, which is used"]
    return tr, []


def _confounds(path: Path | None, recipe: SeriesRecipe, points: int) -> Confounds:
    if path is None:
        if recipe.confounds:
            raise ScanError("the recipe names confounds, and the samplesheet gives no table of them")
        return None, None, []
    return read_confounds(path, recipe.confounds, points, recipe.timepoints)


def _check(values: np.ndarray, recipe: SeriesRecipe, tr: float | None, confounds: np.ndarray | None) -> list[str]:
    points = len(values)
    if confounds is not None and confounds.shape[1] > points - 3:
        raise ScanError(f"{confounds.shape[1]} confounds leave nothing of {points} time points")
    if recipe.band_pass is None:
        return []
    low, high = recipe.band_pass
    if tr is None:
        raise ScanError("a band-pass needs the time between time points; neither the file nor the recipe's tr gives it")
    if high >= 0.5 / tr:
        known = f"at {tr:g} s between time points nothing above {0.5 / tr:g} Hz is known"
        raise ScanError(f"the band ends at {high:g} Hz; {known}")
    if points < LEAST_FILTERED:
        raise ScanError(f"{points} time points are too few for a band-pass, which needs {LEAST_FILTERED}")
    if low * tr * points < 1:
        return [f"the band begins at {low:g} Hz, and {points * tr:g} s hold no whole cycle of that"]
    return []


def _rounded(array: np.ndarray) -> np.ndarray:
    largest = float(np.abs(array).max())
    if not largest <= LARGEST:
        raise ScanError(f"values up to {largest:g} do not fit into 16 bits; standardise them")
    return array.astype(np.float16)


def _blur(array: np.ndarray, stored: np.ndarray) -> list[str]:
    spread = array.std(0)
    lost = (stored - array).std(0)[spread > 0] / spread[spread > 0]
    if lost.max(initial=0) <= MOST_BLUR:
        return []
    return [f"rounding to 16 bits blurs a signal by {lost.max():.0%} of its standard deviation; detrend or standardise"]


def _some(items) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:SHOWN]) + (", …" if len(items) > SHOWN else "")
