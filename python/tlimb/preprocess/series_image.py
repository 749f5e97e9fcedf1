"""4D images averaged over the regions of an atlas."""

import hashlib
import zlib
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from tlimb.preprocess.atlas import Atlas
from tlimb.preprocess.nifti import Header, ScanError, Source, opened, read_header, require_bytes
from tlimb.preprocess.series_file import require_series
from tlimb.preprocess.signals import COMPARED, Signals, as_hashed, too_few
from tlimb.preprocess.template import template_path

BLOCK = 32 * 2**20  # bytes of voxels that are decoded at a time
NEAR = 20.0  # mm around the brain beyond which neck and eyes may shine
LEAST_DICE = 0.8
LEAST_COVERAGE = 0.85
UNITS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # NIfTI's codes for seconds, milliseconds, microseconds
TIME_BITS = 0x38  # of the header's units
LONGEST_TR = 30.0  # s; a larger number without a unit is in milliseconds


def read_image(path: Path, atlas: Atlas, timepoints: int, digest=None) -> Signals:
    """The mean over each region's voxels at the first `timepoints` of a 4D image in MNI space.

    The atlas is brought to the image's voxels by nearest neighbours; a region without a voxel there is 0 throughout.
    Memory is that of a few volumes. digest: a hashlib object that is given the file's bytes.
    Raises ScanError where the file cannot be read, is damaged at any place, is not 4D or is too short.
    """
    content = hashlib.sha256()
    with opened(path, digest) as source:
        header = read_header(source)
        require_series(header, source.compressed, path)
        require_bytes(header, source)
        if header.shape[3] < timepoints:
            raise ScanError(too_few(header.shape[3], timepoints))
        source.skip(header.offset - source.position)
        labels, brain = _on_grid(atlas, header.affine.tobytes(), header.shape[:3])
        values, mean, spread, mended = _averaged(source, header, labels, atlas, timepoints, content)
        _require_rest(source, header)
    tr, guessed = _tr_of(path)
    warnings = [*header.warnings, *guessed]
    if mended:
        warnings.append(f"{mended} voxels are not finite, taken as 0")
    overlap = _overlap(mean, brain, header.affine)
    if overlap < LEAST_DICE:
        expected = f"expected {LEAST_DICE} or more, is the image in MNI space?"
        warnings.append(f"the foreground overlaps little with the template's brain: {overlap:.2f}, {expected}")
    varying = (labels > 0) & (spread > 0)
    snr = float(np.median(mean[varying] / spread[varying])) if varying.any() else None
    seen = (brain & (spread > 0)).sum() * abs(np.linalg.det(header.affine[:3, :3]))
    coverage = min(1.0, float(seen / _brain()[2]))
    if coverage < LEAST_COVERAGE:
        warnings.append(f"{1 - coverage:.0%} of the template's brain has no signal in the image")
    told = content.hexdigest()[:16]
    return Signals(values, atlas.names, header.shape[3], told, tr, snr, overlap, coverage, warnings)


def image_tr(path: Path) -> float | None:
    """Seconds between time points by an image's header, None where it does not say; ScanError where it is not 4D."""
    with opened(path, block=4096) as source:
        require_series(read_header(source), source.compressed, path)
    return _tr_of(path)[0]


def header_tr(header) -> tuple[float | None, list[str]]:
    """Seconds between time points by a NIfTI header, None where it does not say, with what was guessed."""
    length, unit = float(header["pixdim"][4]), int(header["xyzt_units"]) & TIME_BITS
    if not np.isfinite(length) or length <= 0:
        return None, []
    if unit in UNITS:
        return round(length * UNITS[unit], 6), []
    if unit:
        return None, ["the header counts the fourth axis in something else than time"]
    tr = round(length * (1e-3 if length > LONGEST_TR else 1.0), 6)
    return tr, [f"the header gives no unit of time, {tr:g} s between time points assumed"]


def _tr_of(path: Path) -> tuple[float | None, list[str]]:
    try:
        return header_tr(nib.load(path).header)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError):
        return None, ["the header does not say how long a time point takes"]


@lru_cache(maxsize=8)
def _on_grid(atlas: Atlas, affine: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The atlas's labels (int32) and the template's brain on the voxels of an image."""
    affine = np.frombuffer(affine).reshape(4, 4)
    brain, place, _ = _brain()
    return _nearest(atlas.labels, atlas.affine, affine, shape), _nearest(brain, place, affine, shape) > 0


@lru_cache(maxsize=1)
def _brain() -> tuple[np.ndarray, np.ndarray, float]:
    """The template's brain (uint8), its affine, and its volume in mm³."""
    image = nib.load(template_path())
    brain, affine = (np.asarray(image.dataobj) > 0).astype(np.uint8), np.asarray(image.affine, float)
    return brain, affine, float(brain.sum() * abs(np.linalg.det(affine[:3, :3])))


def _nearest(values: np.ndarray, source: np.ndarray, affine: np.ndarray, shape) -> np.ndarray:
    """`values` on another grid by nearest neighbours, 0 outside."""
    index = np.linalg.inv(source) @ affine
    return ndimage.affine_transform(values, index[:3, :3], index[:3, 3], tuple(shape), order=0, mode="constant", cval=0)


def _averaged(source: Source, header: Header, labels: np.ndarray, atlas: Atlas, timepoints: int, content):
    """Means over regions (T, R); each voxel's mean and standard deviation over time; count of values not finite.

    content: a hashlib object that is given the first COMPARED volumes, in RAS with the first axis fastest.
    """
    from nilearn.maskers import NiftiLabelsMasker

    there = np.isin(atlas.numbers, labels)
    if not there.any():
        raise ScanError("no region of the atlas lies inside of the image; is it in MNI space?")
    grid, turn = nib.Nifti1Image(labels, header.affine), nib.orientations.io_orientation(header.affine)
    masker = NiftiLabelsMasker(grid, resampling_target=None, standardize=None, reports=False).fit()
    values, mended, step = np.zeros((timepoints, len(atlas.names))), 0, max(1, BLOCK // (4 * labels.size))
    for start in range(0, timepoints, step):
        block = _volumes(source, header, min(step, timepoints - start))
        finite = np.isfinite(block)
        if not finite.all():
            mended += int((~finite).sum())
            block = np.where(finite, block, np.float32(0))
        for volume in nib.orientations.apply_orientation(block, turn).T[: max(0, COMPARED - start)]:
            content.update(as_hashed(volume))
        values[start : start + step, there] = masker.transform(nib.Nifti1Image(block, header.affine))
        if start == 0:
            first, total, squares = block[..., 0].copy(), np.zeros(labels.shape), np.zeros(labels.shape)
        change = np.subtract(block, first[..., None], dtype=np.float64)
        total += change.sum(3)
        squares += np.square(change, out=change).sum(3)
    change = total / timepoints
    return values, first + change, np.sqrt(np.maximum(squares / timepoints - change**2, 0)), mended


def _volumes(source: Source, header: Header, count: int) -> np.ndarray:
    """The next `count` time points, (X, Y, Z, count) float32 with slope and intercept applied."""
    shape = (*header.shape[:3], count)
    size = int(np.prod(shape)) * header.dtype.itemsize
    raw = source.read(size)
    if len(raw) < size:
        raise _truncated(source, header)
    stored = np.frombuffer(raw, header.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        if (header.slope, header.intercept) != (1.0, 0.0):
            stored = stored * np.float64(header.slope) + header.intercept
        return stored.astype(np.float32).reshape(shape, order="F")


def _require_rest(source: Source, header: Header) -> None:
    """Read what follows the time points that are kept; ScanError where the file breaks off or its checksum is wrong."""
    source.skip(header.promised - source.position)
    if source.position < header.promised:
        raise _truncated(source, header)
    source.finish()


def _truncated(source: Source, header: Header) -> ScanError:
    return ScanError(f"truncated: the header promises {header.promised} bytes, the file holds {source.position}")


def _overlap(mean: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> float:
    """Dice overlap of the voxels above Otsu's threshold with the brain, both within NEAR mm of it; 0 where none is."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    near = ndimage.distance_transform_edt(~brain, spacing) <= NEAR if brain.any() else brain
    values = mean[near].astype(np.float32)
    if not len(values) or values.min() == values.max():
        return 0.0
    image = sitk.GetImageFromArray(values.reshape(1, 1, -1))
    bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1)).ravel() > 0
    inside = brain[near]
    return 2 * int((bright & inside).sum()) / (int(bright.sum()) + int(inside.sum()))
