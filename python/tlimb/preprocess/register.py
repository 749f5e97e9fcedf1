"""Registration of a scan to the template: 12 (affine), 9 (affine9), 7 (similarity) or 6 (rigid) parameters.

1. The centre of the scan's foreground is put on the template's, and shifts, turns and sizes about it are ordered by
   the mutual information that they give at 8 mm (`poses.near`).
2. From the first of them Gauss-Newton iterations at 8 and 4 mm match the intensities (`gauss_newton`).
3. The result is judged by the mutual information of the two images at 4 mm. Where that leaves a doubt, the result made
   smaller, in case that the scalp was taken for the brain's border, and the next starts are tried too; where it still
   does not convince, the head is sought in every attitude (`poses.anywhere`). The best result is kept.
4. Gauss-Newton iterations at 2 mm, inside of the brain alone, end it.

A rigid transform is the similarity without its size: the turn and the place of the brain's centre are kept. Heads that
are larger or smaller than the template are so aligned at their own size, and judged as well as others.
The same points are used every time and one thread, so results repeat exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from tlimb.preprocess.gauss_newton import LEAST_OVERLAP, gauss_newton
from tlimb.preprocess.poses import about, anywhere, foreground_centre, mapped, mutual_information, near
from tlimb.preprocess.template import Level, Template
from tlimb.preprocess.volume import ScanError, Volume, sample, shrink

SURE = -0.9  # metric below which nothing else is tried
CONVINCING = -0.6  # metric below which a result convinces
SMALLER = (0.85, 0.72)  # than a doubtful result
STARTS = 4  # that are refined where the first leaves a doubt
SOUGHT = 8  # that are refined of all, where those do not convince
COARSE, MIDDLE, FINE = 8.0, 4.0, 2.0  # mm


@dataclass(frozen=True)
class Registration:
    """Where the template's brain lies in the scan.

    world: (4, 4), template mm -> scan mm.  metric: negative mutual information in nats; lower is better.
    displacement: mm by which the brain's points moved on average after the centres were put on each other.
    """

    world: np.ndarray
    metric: float
    displacement: float


@dataclass(frozen=True)
class _Problem:
    """The scan and the template at each spacing in mm, and the kind of transform."""

    scans: dict[float, Volume]
    levels: dict[float, Level]
    kind: str


@threadpool_limits.wrap(limits=1)
def register(scan: Volume, template: Template, kind: str) -> Registration:
    """Register a scan to the template. `kind`: affine, affine9, similarity, rigid or none.

    affine9 is three turns, three shifts and a size along each of the template's axes: its matrix is R S with R a
    rotation and S diagonal. Raises ScanError where too little of the scan overlaps with the template or the transform
    degenerates.
    """
    levels = {level.spacing: level for level in template.levels}
    problem = _Problem(_pyramid(scan), levels, "similarity" if kind == "rigid" else kind)
    start = np.eye(4)
    metric, world = _metric(problem, MIDDLE, start), start
    if kind != "none":
        start[:3, 3] = foreground_centre(problem.scans[COARSE]) - template.centre
        metric, world = _found(problem, start)
    if world is None or not np.isfinite(metric):
        raise ScanError("registration failed: the scan and the template hardly overlap")
    if kind == "rigid":
        world = _own_size(world, template.centre)
    moved = np.linalg.norm(mapped(world, template.brain) - mapped(start, template.brain), axis=0)
    return Registration(world, metric, float(moved.mean()))


def _found(problem: _Problem, start: np.ndarray) -> tuple[float, np.ndarray | None]:
    scan, level = problem.scans[COARSE], problem.levels[COARSE]
    starts = near(scan, level, start)
    best = _best(problem, starts[:1], (COARSE, MIDDLE), (np.inf, None))
    if best[0] > SURE:
        best = _smaller(problem, best)
        best = _best(problem, starts[1:STARTS], (COARSE, MIDDLE), best)
    if best[0] > CONVINCING:
        worlds = starts[STARTS:] + anywhere(scan, level, start)
        coarse = [_refined(problem, COARSE, world) for world in worlds]
        coarse = [world for world in coarse if world is not None]
        coarse.sort(key=lambda world: _metric(problem, MIDDLE, world))
        best = _smaller(problem, _best(problem, coarse[:SOUGHT], (MIDDLE,), best))
    fine = _best(problem, [best[1]], (FINE,), (np.inf, None))
    return best if fine[1] is None else fine


def _smaller(problem: _Problem, best: tuple) -> tuple[float, np.ndarray | None]:
    """The best of `best` and what it leads to when it is made smaller."""
    if best[1] is None:
        return best
    centre = problem.levels[MIDDLE].centre
    return _best(problem, [best[1] @ about(centre, size * np.eye(3)) for size in SMALLER], (MIDDLE,), best)


def _best(problem: _Problem, worlds: Iterable, spacings, best: tuple) -> tuple[float, np.ndarray | None]:
    """The best of `best` and what iterations at `spacings` make of `worlds`, (metric, world); a sure one ends it."""
    for world in worlds:
        if best[0] < SURE:
            break
        for spacing in spacings:
            world = None if world is None else _refined(problem, spacing, world)
        if world is not None and (metric := _metric(problem, MIDDLE, world)) < best[0]:
            best = (metric, world)
    return best


def _refined(problem: _Problem, spacing: float, world: np.ndarray) -> np.ndarray | None:
    return gauss_newton(problem.scans[spacing], problem.levels[spacing], world, problem.kind)


def _metric(problem: _Problem, spacing: float, world: np.ndarray) -> float:
    """Negative mutual information in nats at one spacing; infinite where the images hardly overlap."""
    level = problem.levels[spacing]
    values, inside = sample(problem.scans[spacing], mapped(world, level.points))
    if inside.mean() < LEAST_OVERLAP:
        return np.inf
    return -mutual_information(level.values[inside], values[inside])


def _own_size(world: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The rotation of a similarity (4, 4) that takes `centre` (3,) to the same place."""
    left, _, right = np.linalg.svd(world[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = world[:3, :3] @ centre + world[:3, 3] - rigid[:3, :3] @ centre
    return rigid


def _pyramid(scan: Volume) -> dict[float, Volume]:
    """The scan at the three spacings, its intensities in 0..1."""
    fine = shrink(scan, FINE)
    middle = shrink(fine, MIDDLE)
    low, high = middle.data.min(), np.percentile(middle.data, 99.8)
    if high <= low:
        raise ScanError("registration failed: hardly any voxel differs from the background")
    volumes = {FINE: fine, MIDDLE: middle, COARSE: shrink(middle, COARSE)}
    return {spacing: Volume(np.clip((v.data - low) / (high - low), 0, 1), v.affine) for spacing, v in volumes.items()}
