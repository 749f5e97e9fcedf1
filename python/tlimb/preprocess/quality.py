"""Numbers that tell a good scan from a bad one, and the rules by which they become warnings and notes.

Every number is taken from one scan alone. docs/quality.md says what each means and how often each rule is right.
"""

import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.contrast import contrast_doubts
from tlimb.preprocess.reference import SPACING, Reference, on_reference, reference
from tlimb.preprocess.register import CONVINCING, Registration
from tlimb.preprocess.template import Template
from tlimb.preprocess.volume import Volume, sample

COLUMNS = {
    "mask_overlap": "float64",
    "metric": "float64",
    "snr": "float64",
    "displacement": "float64",
    "coverage": "float64",
    "lesion": "float64",
    "grey_white": "float64",
    "fluid_white": "float64",
    "front": "float64",
    "head": "float64",
    "size": "float64",
    "stretch": "float64",
    "turn": "float64",
    "notes": "string",
    "warnings": "string",
}
"""The quality columns of a shard's index and their Arrow types; a number that cannot be computed is None."""

LEAST_DICE = 0.8
LEAST_COVERAGE = 0.97
LARGEST_LESION = 1.5  # ml
SIZES = (0.8, 1.25)  # of a brain against the template's, along any axis
LARGEST_STRETCH = 1.25
LARGEST_TURN = 45.0  # degrees
HEADS = (0.7, 8.0)  # litres
PREPARED = (0.3, 8.0)  # litres of what another pipeline may have left of a head, down to maps of one tissue
EMPTY = 0.1  # share of places with tissue below which a region is empty
ERASED = 0.95  # share of places with the background's constant from which a region was erased
SEEN = 10  # places of a region that have to lie inside of the image before anything is said of it
BLANK = 0.01  # of the brain's median above the background: less holds nothing
TISSUE = 0.25  # of the same: more is tissue
FEW = 5  # medians and fits take every fifth value
CORNER = 10  # a corner block is one CORNER-th of each axis
MISFIT = 2.5  # mm by which people's anatomy may lie elsewhere than the template's
ODD, LOPSIDED = 1.2, 2.2  # robust standard deviations from the model, and from the other hemisphere


def assess(
    scan: Volume,
    found: Registration,
    registered: np.ndarray,
    inside: np.ndarray,
    brain: np.ndarray,
    template: Template,
    recipe,
    modality: str,
) -> dict:
    """Every column of COLUMNS for one scan, `warnings` as a list of texts.

    scan: as it was registered.  registered: (X, Y, Z) float32 on the store's grid before masking and intensity, 0
    outside of the field of view.  inside: bool, in the field of view.  brain: bool, the mask that was used.
    Where the recipe does not resample, the grid is the scan's own and what needs the template stays None.
    """
    quality = dict.fromkeys(COLUMNS) | {"notes": "", "warnings": []}
    quality["head"] = foreground_litres(scan)
    used = registered[brain & inside]
    quality["snr"] = signal_to_noise(scan, float(used.mean(dtype=np.float64))) if len(used) else None
    if recipe.resampling == "none":
        return quality | {"warnings": head_doubts(quality["head"], PREPARED)}
    there = template.mask & inside
    low = float(scan.data.min())
    middle = float(np.median(registered[there][::FEW])) if there.any() else low
    present = inside & (registered > low + BLANK * (middle - low))
    quality["metric"], quality["displacement"] = found.metric, found.displacement
    quality["mask_overlap"] = mask_overlap(registered, template)
    quality["coverage"] = np.count_nonzero(present & template.mask) / np.count_nonzero(template.mask)
    quality |= pose_numbers(found.world, recipe.registration)
    quality |= _anatomy_numbers(registered, present, template)
    quality["front"], notes = _outside_of_the_brain(scan, found.world, low, middle)
    if quality["coverage"] >= LEAST_COVERAGE and quality["metric"] <= CONVINCING:
        quality["notes"] = notes
    return quality | {"warnings": warnings_in(quality, recipe.registration, modality)}


def warnings_in(quality: dict, registration: str, modality: str) -> list[str]:
    """What looks wrong in the numbers of one scan, one text each.

    Where the metric does not convince, nothing is said that supposes the brain in its place.
    """
    placed = quality["metric"] <= CONVINCING
    warnings = []
    if registration != "none" and not placed:
        warnings.append(f"registration doubtful: metric {quality['metric']:.2f}, expected below {CONVINCING}")
    warnings += header_doubts(quality, placed)
    if quality["mask_overlap"] < LEAST_DICE:
        overlap = f"{quality['mask_overlap']:.2f}, expected {LEAST_DICE} or more"
        warnings.append(f"the foreground overlaps little with the brain: {overlap}")
    if quality["coverage"] < LEAST_COVERAGE:
        warnings.append(f"{1 - quality['coverage']:.0%} of the brain lies outside of the image or is blank")
    if placed and (quality["lesion"] or 0) > LARGEST_LESION:
        warnings.append(f"{quality['lesion']:.1f} ml of the brain look like nothing on the other side: a lesion?")
    return warnings + (contrast_doubts(quality["grey_white"], quality["fluid_white"], modality) if placed else [])


def header_doubts(quality: dict, placed: bool) -> list[str]:
    """Signs that the header's voxel sizes or axes are wrong; the pose counts where the brain is `placed` in it."""
    warnings = head_doubts(quality["head"], HEADS)
    size, stretch, turn = (quality[name] if placed else None for name in ("size", "stretch", "turn"))
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        warnings.append(f"the header's voxel sizes may be wrong: the brain would be {size:.2f} of the template's size")
    if stretch is not None and stretch > LARGEST_STRETCH:
        warnings.append(f"the header's voxel sizes may be wrong: the brain would be stretched by {stretch:.2f}")
    if turn is not None and turn > LARGEST_TURN:
        warnings.append(f"the header's axes may be wrong: the head is turned by {turn:.0f} degrees")
    return warnings


def head_doubts(litres: float | None, expected: tuple[float, float]) -> list[str]:
    """A warning where the volume of what is bright is no head's; none where it is not known."""
    if litres is None or expected[0] <= litres <= expected[1]:
        return []
    found = f"{litres:.1f} litres, expected {expected[0]} to {expected[1]}"
    return [f"the header's voxel sizes may be wrong: the head would have {found}"]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a and b| / (|a| + |b|) of two boolean arrays; 0 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0


def otsu(values: np.ndarray, bins: int = 128) -> float:
    """The threshold between two classes of values that differ most from each other (Otsu 1979), from a histogram.

    t = argmax_t (m w(t) - m(t))^2 / (w(t) (1 - w(t))), w the share and m(t) the summed share of values up to t.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    step = (high - low) / bins
    counts = np.bincount(((values.ravel() - np.float32(low)) * np.float32((1 - 1e-6) / step)).astype(np.int64))
    share = np.cumsum(counts) / values.size
    total = np.cumsum(counts * np.arange(len(counts))) / values.size
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (total[-1] * share - total) ** 2 / (share * (1 - share))
    return low + step * (int(np.nanargmax(between[:-1])) + 1)


def mask_overlap(registered: np.ndarray, template: Template) -> float:
    """Dice overlap of the voxels above Otsu's threshold with the template's brain, both near that brain.

    registered: (X, Y, Z) on the template's grid. Scalp and neck lie farther out and do not count. What is brighter than
    the brain's median counts as that, so that the threshold parts brain from skull where fluid is bright, too.
    """
    values, brain = registered[template.near], template.mask[template.near]
    values = np.minimum(values, np.median(values[brain][::FEW]))
    return dice(values > otsu(values), brain)


def signal_to_noise(scan: Volume, brain_mean: float) -> float | None:
    """Mean over the brain divided by the standard deviation of the background, None where the background is constant.

    The background is the median over those of the scan's eight corner blocks that are not constant.
    """
    counts = [max(1, size // CORNER) for size in scan.data.shape]
    x, y, z = ((slice(0, n), slice(-n, None)) for n in counts)
    spreads = [float(scan.data[i, j, k].std(dtype=np.float64)) for i in x for j in y for k in z]
    spreads = [spread for spread in spreads if spread > 0]
    return brain_mean / float(np.median(spreads)) if spreads and brain_mean > 0 else None


def foreground_litres(scan: Volume) -> float:
    """Volume of the voxels above Otsu's threshold, of every n-th along each axis so that they lie about 4 mm apart."""
    every = np.maximum(np.round(SPACING / scan.spacing), 1).astype(int)
    few = scan.data[tuple(slice(None, None, step) for step in every)]
    share = np.count_nonzero(few > otsu(few)) / few.size
    return float(share * scan.data.size * abs(np.linalg.det(scan.affine[:3, :3])) / 1e6)


def pose_numbers(world: np.ndarray, registration: str) -> dict:
    """How the scan's brain stands to the template's, as far as the kind of registration could measure it.

    world = R S with R a rotation. size: cube root of det S.  stretch: largest over smallest singular value.  turn:
    angle of R in degrees.
    """
    left, scales, right = np.linalg.svd(world[:3, :3])
    angle = np.degrees(np.arccos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1)))
    numbers = {"size": float(scales.prod() ** (1 / 3)), "stretch": float(scales[0] / scales[-1]), "turn": float(angle)}
    known = {"affine": 3, "affine9": 3, "similarity": 2, "rigid": 1, "none": 0}[registration]
    order = {"turn": 1, "size": 2, "stretch": 3}
    return {name: number if order[name] <= known else None for name, number in numbers.items()}


def _anatomy_numbers(registered: np.ndarray, present: np.ndarray, template: Template) -> dict:
    """lesion, grey_white and fluid_white; None where less than half of the brain can be seen."""
    about = reference()
    values = on_reference(Volume(np.where(present, registered, np.float32(np.nan)), template.affine))
    whole = np.isfinite(values) & ~_beside_a_gap(values, about.brain)
    if np.count_nonzero(whole & about.brain) < np.count_nonzero(about.brain) / 2:
        return {}
    medians = [_median(values[tissue & whole]) for tissue in (about.white, about.grey, about.fluid)]
    white, grey, fluid = medians
    return {
        "lesion": lesion_volume(values, whole, about),
        "grey_white": grey / white if white and grey is not None else None,
        "fluid_white": fluid / white if white and fluid is not None else None,
    }


def _beside_a_gap(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Where a neighbour in the brain cannot be seen: values there may be mixed with a blank."""
    gaps = brain & ~np.isfinite(values)
    return _cube_mean(gaps.astype(np.float32)) > 0 if gaps.any() else gaps


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def lesion_volume(values: np.ndarray, whole: np.ndarray, about: Reference) -> float:
    """Volume in ml of the largest connected region of the brain that fits neither the template nor the other side.

    A scan is modelled as v = sum_k a_k R^k + R q(x) with R the template and q a quadratic in space (receive field),
    fitted robustly. The residual is measured in z = r / sqrt(s^2 + (MISFIT |dv/dx|)^2), s its robust spread, for what
    lies at a border of tissues may lie elsewhere in another person; its mean over cubes of 12 mm has to exceed ODD,
    and to differ from the opposite hemisphere's by LOPSIDED, with one sign.
    values: on the reference's grid.  whole: where the scan can be seen; elsewhere values are not looked at.
    """
    seen = whole[about.brain]
    residual, steepness = _residual(np.where(seen, values[about.brain], 0), seen, about)
    spread = 1.4826 * np.median(np.abs(residual[seen][::FEW]))
    allowed = np.sqrt(spread**2 + (MISFIT * steepness * about.slopes) ** 2 + 1e-12)
    z = np.zeros(values.shape, np.float32)
    z[about.brain] = np.where(seen, residual / allowed, 0)
    weight = np.zeros(values.shape, np.float32)
    weight[about.brain] = seen
    smooth = np.where(weight > 0, _cube_mean(z) / np.maximum(_cube_mean(weight), 0.1), 0)
    uneven = smooth - smooth[::-1]
    both = (weight > 0) & (weight[::-1] > 0)
    sizes = [_largest(both & (sign * smooth > ODD) & (sign * uneven > LOPSIDED)) for sign in (1, -1)]
    return max(sizes) * SPACING**3 / 1000


def _residual(values: np.ndarray, seen: np.ndarray, about: Reference) -> tuple[np.ndarray, np.ndarray]:
    """The scan less its model, fitted with Tukey's biweight, and how steeply the model changes with the template."""
    basis, few, there = about.basis, values[::FEW], seen[::FEW]
    part, weight = basis[::FEW], there.astype(np.float32)
    for _ in range(3):
        weighted = part * weight[:, None]
        normal = (weighted.T @ part).astype(float)
        normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
        factors = np.linalg.solve(normal, (weighted.T @ few).astype(float)).astype(np.float32)
        error = part @ factors - few
        cut = 4.685 * 1.4826 * np.median(np.abs(error[there])) + 1e-12
        weight = np.where(there & (np.abs(error) < cut), (1 - (error / cut) ** 2) ** 2, 0).astype(np.float32)
    model = basis @ factors
    slope = factors[1] + 2 * factors[2] * basis[:, 1] + 3 * factors[3] * basis[:, 2]
    overall = np.ptp(np.percentile(model[::FEW], (5, 90))) / np.ptp(np.percentile(basis[::FEW, 1], (5, 90)))
    return values - model, np.maximum(np.abs(slope), overall)


def _cube_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the 27 voxels around each; what lies beyond the grid counts as 0."""
    for axis in range(3):
        moved = np.moveaxis(values, axis, 0)
        total = moved.copy()
        total[1:] += moved[:-1]
        total[:-1] += moved[1:]
        values = np.moveaxis(total, 0, axis)
    return values / np.float32(27)


def _largest(region: np.ndarray) -> int:
    """Voxels of the largest connected part of a region."""
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(region.astype(np.uint8)))
    counts = np.bincount(sitk.GetArrayFromImage(parts).ravel())[1:]
    return int(counts.max()) if len(counts) else 0


def _outside_of_the_brain(scan: Volume, world: np.ndarray, low: float, middle: float) -> tuple[float | None, str]:
    """Share of the places before and below the frontal lobes that hold tissue, and what that says of the head.

    low, middle: the scan's background and the brain's median.
    """
    about = reference()
    tissue, erased = {}, {}
    for name, places in (("head", about.head), ("front", about.front), ("face", about.face)):
        values, seen = sample(scan, world[:3, :3] @ places + world[:3, 3:])
        enough = np.count_nonzero(seen) >= SEEN
        tissue[name] = float((values[seen] > low + TISSUE * (middle - low)).mean()) if enough else None
        erased[name] = float((values[seen] <= low + 1e-3 * (middle - low)).mean()) if enough else None
    if tissue["head"] is None or tissue["head"] < EMPTY:
        return tissue["front"], "" if tissue["head"] is None else "skull-stripped: nothing outside of the brain"
    empty = tissue["front"] is not None and tissue["front"] < EMPTY
    gone = erased["face"] is not None and erased["face"] > ERASED
    return tissue["front"], "defaced: nothing in the place of the face" if empty or gone else ""

