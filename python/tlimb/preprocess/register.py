"""Registration of a scan to the template: 12 (affine), 7 (similarity) or 6 (rigid) parameters.

Three steps:

1. The centre of the scan's foreground is put on the template's. Necks and tilted heads move that centre, so shifts and
   turns about it are tried at 8 mm and ordered by the mutual information they give. A small head within a bright scalp
   would be stretched until the scalp lies on the template's brain, so a smaller size is tried too where one is sought.
2. From the first of them, Gauss-Newton at 8, 4 and 2 mm on the robust intensity-matched difference

       E(T, f) = sum_x w(r_x) r_x^2,    r_x = f(S(T x)) - R(x)

   with R the template, S the scan, f a cubic polynomial fitted anew in every iteration and w Tukey's biweight. Fitting
   f is what makes the criterion independent of contrast (Roche, Malandain, Ayache, Int. J. Imaging Syst. Technol. 11,
   2000); w is what keeps scalp, lesions and missing parts from pulling (Reuter, Rosas, Fischl, NeuroImage 53, 2010,
   https://doi.org/10.1016/j.neuroimage.2010.07.020). The template's gradient is used for the scan's, so that
   derivatives are computed once for all scans (inverse compositional: Baker, Matthews, IJCV 56, 2004).
3. The result is judged by the mutual information of the two images at 4 mm. Where it does not convince, the next
   starts are tried too and the best result is kept.

Every point of the template is used at 8 and 4 mm and one in four at 2 mm, always the same, so results repeat exactly.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.template import LENGTH, Level, Template
from tlimb.preprocess.volume import ScanError, Volume, sample, shrink

BINS = 32
ITERATIONS = {8.0: 8, 4.0: 25, 2.0: 4}  # at most, by spacing in mm
CONVERGED = 0.02  # mm
STARTS = 4
CONVINCING = -0.5  # metric below which no other start is tried
LEAST_OVERLAP = 0.2  # of the template's points inside of the scan
SHIFTS = ((0, 0, 0), (0, 0, 20), (0, 0, 40), (0, 0, 60), (0, 0, -20), (0, 20, 0), (0, -20, 0))  # mm
TURNS = ((0, 0, 0), (20, 0, 0), (-20, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 20), (0, 0, -20))  # degrees
SIZES = {"affine": (0.95, 0.8), "similarity": (0.95, 0.8), "rigid": (1.0,)}  # of the head against the template


@dataclass(frozen=True)
class Registration:
    """Where the template's brain lies in the scan.

    world: (4, 4), template mm -> scan mm.  metric: negative mutual information in nats; lower is better.
    displacement: mm by which the brain's points moved on average after the centres were put on each other.
    """

    world: np.ndarray
    metric: float
    displacement: float


def register(scan: Volume, template: Template, kind: str) -> Registration:
    """Register a scan to the template. `kind`: affine, similarity, rigid or none.

    Raises ScanError where too little of the scan overlaps with the template or the transform degenerates.
    """
    levels = {level.spacing: level for level in template.levels}
    scans = _pyramid(scan)
    start, worlds = np.eye(4), [np.eye(4)]
    if kind != "none":
        start[:3, 3] = foreground_centre(scans[8.0]) - template.centre
        worlds = _starts(scans[8.0], levels[8.0], start, kind)
    metric, world = np.inf, None
    for candidate in worlds:
        found = _refined(scans, levels, candidate, kind)
        if found is not None and (score := _metric(scans[4.0], levels[4.0], found)) < metric:
            metric, world = score, found
        if metric < CONVINCING:
            break
    if world is None:
        raise ScanError("registration failed: the scan and the template hardly overlap")
    moved = np.linalg.norm(_mapped(world, template.brain) - _mapped(start, template.brain), axis=0)
    return Registration(world, metric, float(moved.mean()))


def _refined(scans: dict, levels: dict, world: np.ndarray, kind: str) -> np.ndarray | None:
    if kind == "none":
        return world
    for spacing in ITERATIONS:
        world = _gauss_newton(scans[spacing], levels[spacing], world, kind)
        if world is None:
            return None
    return world


def _metric(scan: Volume, level: Level, world: np.ndarray) -> float:
    values, inside = sample(scan, _mapped(world, level.points))
    if inside.mean() < LEAST_OVERLAP:
        return np.inf
    return -mutual_information(level.values[inside], values[inside])


def foreground_centre(scan: Volume) -> np.ndarray:
    """Centre in mm, (3,), of the voxels above Otsu's threshold."""
    bright = sitk.OtsuThreshold(sitk.GetImageFromArray(scan.data), 0, 1)
    index = np.argwhere(sitk.GetArrayFromImage(bright))
    return scan.affine[:3, :3] @ index.mean(0) + scan.affine[:3, 3]


def mutual_information(a: np.ndarray, b: np.ndarray, bins: int = BINS) -> float:
    """I(a; b) = sum p(a, b) log(p(a, b) / (p(a) p(b))) in nats, from a joint histogram of two arrays (N,) in 0..1."""
    first, second = ((np.clip(v, 0, 1) * (bins - 1) + 0.5).astype(np.int64) for v in (a, b))
    joint = np.bincount(first * bins + second, minlength=bins * bins).reshape(bins, bins) / max(len(a), 1)
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / outer[there])).sum())


def _pyramid(scan: Volume) -> dict[float, Volume]:
    fine = shrink(scan, 2.0)
    middle = shrink(fine, 4.0)
    low, high = middle.data.min(), np.percentile(middle.data, 99.8)
    if high <= low:
        raise ScanError("registration failed: hardly any voxel differs from the background")
    volumes = {2.0: fine, 4.0: middle, 8.0: shrink(middle, 8.0)}
    return {spacing: Volume(np.clip((v.data - low) / (high - low), 0, 1), v.affine) for spacing, v in volumes.items()}


def _mapped(world: np.ndarray, points: np.ndarray) -> np.ndarray:
    return world[:3, :3] @ points + world[:3, 3:]


def _starts(scan: Volume, level: Level, start: np.ndarray, kind: str) -> list[np.ndarray]:
    candidates = []
    for shift, turn, size in product(SHIFTS, TURNS, SIZES[kind]):
        world = start @ _about(level.centre, size * _rotation(turn), np.zeros(3))
        world[:3, 3] += shift
        values, inside = sample(scan, _mapped(world, level.points))
        candidates.append((mutual_information(level.values, values) * inside.mean(), world))
    candidates.sort(key=lambda candidate: -candidate[0])
    return [world for _, world in candidates[:STARTS]]


def _rotation(degrees) -> np.ndarray:
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _about(centre: np.ndarray, linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    world = np.eye(4)
    world[:3, :3] = linear
    world[:3, 3] = shift + centre[:, 0] - linear @ centre[:, 0]
    return world


def _gauss_newton(scan: Volume, level: Level, world: np.ndarray, kind: str) -> np.ndarray | None:
    """The transform that iterations at one level lead to from `world`; None where they go astray."""
    directions = _directions(kind)
    jacobian = level.jacobian @ directions.astype(np.float32)
    for _ in range(ITERATIONS[level.spacing]):
        values, inside = sample(scan, _mapped(world, level.points))
        if inside.mean() < LEAST_OVERLAP:
            return None
        residual, weight = _matched(values, level.values, inside)
        weighted = jacobian * weight[:, None]
        normal = (weighted.T @ jacobian).astype(float)
        normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
        step = directions @ np.linalg.solve(normal, (weighted.T @ residual).astype(float))
        linear = _within(np.eye(3) + step[:9].reshape(3, 3) / LENGTH, kind)
        world = world @ np.linalg.inv(_about(level.centre, linear, step[9:]))
        if not 0.1 < np.linalg.det(world[:3, :3]) < 10:
            return None
        if np.linalg.norm(step) < CONVERGED:
            break
    return world


def _directions(kind: str) -> np.ndarray:
    """(12, p): the changes of matrix and shift that the parameters of a kind of transform make."""
    if kind == "affine":
        return np.eye(12)
    turns = np.zeros((3, 3, 3))
    for axis, (row, column) in enumerate(((2, 1), (0, 2), (1, 0))):
        turns[axis, row, column], turns[axis, column, row] = 1, -1
    linear = [*turns, np.eye(3)] if kind == "similarity" else list(turns)
    directions = np.zeros((12, len(linear) + 3))
    directions[:9, : len(linear)] = np.stack([matrix.ravel() for matrix in linear], 1)
    directions[9:, len(linear) :] = np.eye(3)
    return directions


def _within(linear: np.ndarray, kind: str) -> np.ndarray:
    """The matrix of the kind nearest to `linear`: itself, a rotation, or a rotation with one scale."""
    if kind == "affine":
        return linear
    left, scales, right = np.linalg.svd(linear)
    return left @ right * (scales.mean() if kind == "similarity" else 1.0)


def _matched(values: np.ndarray, target: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residual f(values) - target for the cubic f that fits best, and Tukey's weights, 0 outside; (N,) float32."""
    powers = np.stack([np.ones_like(values), values, values**2, values**3], 1)
    weight = inside.astype(np.float32)
    for _ in range(2):
        weighted = powers * weight[:, None]
        normal = (weighted.T @ powers).astype(float)
        normal += 1e-9 * np.trace(normal) * np.eye(4)
        residual = powers @ np.linalg.solve(normal, (weighted.T @ target).astype(float)).astype(np.float32) - target
        cut = 4.685 * 1.4826 * np.median(np.abs(residual[inside][::4])) + 1e-6
        weight = np.where(inside & (np.abs(residual) < cut), (1 - (residual / cut) ** 2) ** 2, 0).astype(np.float32)
    return residual, weight
