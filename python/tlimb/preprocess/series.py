"""One fMRI scan -> one array of the store: signals of regions, cleaned."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from tlimb.labels import some
from tlimb.preprocess.atlas import Atlas
from tlimb.preprocess.nifti import ScanError, opened
from tlimb.preprocess.series_file import is_table, series_problem, table_names
from tlimb.preprocess.series_table import read_confounds, read_table, table_tr
from tlimb.preprocess.signals import Signals

__all__ = ["agreed_regions", "cleaned", "common_tr", "preprocess_series", "series_header", "series_problem"]

STANDARDISE = {"zscore": "zscore_sample", "percent_change": "psc", "none": None}
LEAST_FILTERED = 34  # time points, for a filter of fifth order that runs forth and back
FLAT = 1e-6  # a signal whose spread is below this share of its size varies by rounding alone
MOST_MOTION = 0.5  # mm, mean framewise displacement
MOST_BLUR = 0.01  # of a signal's standard deviation lost by rounding to 16 bits
LARGEST = 65504.0  # that 16 bits can hold
SAME_TR = 0.01  # share by which repetition times may differ
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
    image: Path,
    confounds: Path | None,
    recipe: SeriesRecipe,
    atlas: Atlas | None,
    regions: Sequence[str] | None = None,
    usual_tr: float | None = None,
) -> tuple[np.ndarray, dict]:
    """A scan as an array of the store, (timepoints, regions) float16, and what is known of it.

    image: a 4D NIfTI image in MNI space, averaged over `atlas`, or a parcellated table. confounds: its table, if any.
    regions: names that the columns shall have, in this order; a table with the same names in another order is sorted.
    usual_tr: seconds between time points of the scans beside it; one that differs gets a warning.
    Known are the `digest` of its files; its `content`, the same under every recipe; `mask_overlap` and `coverage` of an
    image and the template's brain, `snr` over time, `displacement`, the mean framewise displacement in mm where the
    confounds have it, and the texts `notes` and `warnings`.
    Raises ScanError with the reason where the scan is of no use.
    """
    digest = hashlib.sha256()
    with threadpool_limits(1):
        signals = _read(image, recipe, atlas, digest)
        values = _in_order(signals, regions)
        tr, timing, warnings = _repetition_time(signals, recipe, usual_tr)
        nuisance, motion, notes = _confounds(confounds, recipe, signals.points, digest)
        array, flat, doubts = cleaned(values, recipe, tr, nuisance)
        stored = _rounded(array)
    warnings = [*signals.warnings, *warnings, *doubts, *_blur(array, stored)]
    if flat.any():
        still = some(np.asarray(regions or signals.names)[flat], SHOWN)
        warnings.append(f"{flat.sum()} of {len(flat)} regions do not vary over time, taken as 0: {still}")
    if motion is not None and motion > MOST_MOTION:
        warnings.append(f"mean framewise displacement {motion:.2f} mm, expected at most {MOST_MOTION}")
    known = {"digest": digest.hexdigest()[:16], "content": signals.content, "displacement": motion}
    numbers = {"mask_overlap": signals.overlap, "coverage": signals.coverage, "snr": signals.snr}
    return stored, known | numbers | {"notes": "; ".join([*timing, *notes]), "warnings": "; ".join(warnings)}


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


def common_tr(images: Sequence[Path]) -> float | None:
    """The seconds between time points that most of a chunk's scans give, of equally common ones the least.

    Only headers are read; a file that cannot be read has no say. None where none says.
    """
    votes: Counter[float] = Counter()
    for image in images:
        try:
            tr = _known_tr(image)
        except ScanError:
            continue
        votes.update([] if tr is None else [tr])
    return min(votes, key=lambda tr: (-votes[tr], tr), default=None)


def _known_tr(image: Path) -> float | None:
    if is_table(image):
        table_names(image)
        return table_tr(image)
    from tlimb.preprocess.series_image import image_tr

    return image_tr(image)


def _read(image: Path, recipe: SeriesRecipe, atlas: Atlas | None, digest) -> Signals:
    if is_table(image):
        signals = read_table(image, recipe.timepoints)
        _drain(image, digest)
        return signals
    if atlas is None:
        raise ScanError("an image needs an atlas, and there is none")
    from tlimb.preprocess.series_image import read_image

    return read_image(image, atlas, recipe.timepoints, digest)


def _drain(path: Path, digest) -> None:
    with opened(path, digest) as source:
        source.drain()


def _in_order(signals: Signals, regions: Sequence[str] | None) -> np.ndarray:
    if regions is None or list(regions) == list(signals.names):
        return signals.values
    if len(regions) != len(signals.names):
        raise ScanError(f"holds {len(signals.names)} regions, most scans beside it {len(regions)}")
    other = sorted(set(signals.names) - set(regions))
    if other:
        raise ScanError(f"{len(other)} regions have other names than in most scans beside it: {some(other, SHOWN)}")
    return signals.values[:, [signals.names.index(name) for name in regions]]


def _repetition_time(
    signals: Signals, recipe: SeriesRecipe, usual: float | None
) -> tuple[float | None, list[str], list[str]]:
    """Seconds between time points, notes, warnings."""
    if signals.tr is None:
        return recipe.tr, [], []
    found, expected = f"{signals.tr:g} s between time points", recipe.tr or usual
    odd = expected is not None and abs(signals.tr / expected - 1) > SAME_TR
    if recipe.tr is not None:
        told = f"the file gives {found}, the recipe {recipe.tr:g} s, which is used"
        return recipe.tr, [], [told] * odd
    return signals.tr, [found], [f"{found}, in most scans beside it {usual:g} s"] if odd else []


def _confounds(path: Path | None, recipe: SeriesRecipe, points: int, digest) -> Confounds:
    if path is None:
        if recipe.confounds:
            raise ScanError("the recipe names confounds, and the samplesheet gives no table of them")
        return None, None, []
    read = read_confounds(path, recipe.confounds, points, recipe.timepoints)
    _drain(path, digest)
    return read


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
