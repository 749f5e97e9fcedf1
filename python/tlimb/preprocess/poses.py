"""Where a head may stand: starts for registration, ordered by the mutual information that they give."""

from functools import cache
from itertools import product

import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.template import Level
from tlimb.preprocess.volume import Volume, sample

BINS = 32
FEW_BINS = 16  # for few points: mutual information is too high by about bins^2 / (2 points)
SHIFTS = ((0, 0, 0), (0, 0, 20), (0, 0, 40), (0, 0, 60), (0, 0, -20), (0, 20, 0), (0, -20, 0))  # mm
TURNS = ((0, 0, 0), (20, 0, 0), (-20, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 20), (0, 0, -20))  # degrees
SIZES = (0.95, 0.8)  # of the head against the template
ATTITUDES = 600  # about 30 degrees apart
NECKS = (0, 35)  # mm from the foreground's centre up to the brain's, along the body
ANY_SIZES = (1.0, 0.8)
PROMISING = 30  # starts that are worth iterations
EVERY = 3  # one of how many points is used for attitudes


def near(scan: Volume, level: Level, start: np.ndarray) -> list[np.ndarray]:
    """The PROMISING best of small shifts, turns and sizes about `start` (4, 4), best first.

    Necks and tilted heads move the foreground's centre, hence the shifts. A small head within a bright scalp would be
    stretched until the scalp lies on the template's brain, hence the sizes.
    """
    worlds = []
    for shift, turn, size in product(SHIFTS, TURNS, SIZES):
        world = start @ about(level.centre, size * rotation(turn))
        world[:3, 3] += shift
        worlds.append(world)
    return _ordered(scan, level.points, level.values, worlds, BINS)[:PROMISING]


def anywhere(scan: Volume, level: Level, start: np.ndarray) -> list[np.ndarray]:
    """The PROMISING best of all attitudes and two sizes about `start` (4, 4), best first."""
    worlds = []
    for turn, neck, size in product(attitudes(ATTITUDES), NECKS, ANY_SIZES):
        shift = np.eye(4)
        shift[2, 3] = neck
        worlds.append(start @ about(level.centre, size * turn) @ shift)
    return _ordered(scan, level.points[:, ::EVERY], level.values[::EVERY], worlds, FEW_BINS)[:PROMISING]


def _ordered(scan: Volume, points: np.ndarray, target: np.ndarray, worlds: list, bins: int) -> list[np.ndarray]:
    def likeness(world):
        values, inside = sample(scan, mapped(world, points))
        return mutual_information(target, values, bins) * inside.mean()

    return sorted(worlds, key=likeness, reverse=True)


@cache
def attitudes(number: int) -> np.ndarray:
    """(number, 3, 3): rotations spread evenly over all there are.

    Super-Fibonacci spirals (Alexa, CVPR 2022): quaternions (sqrt(s) sin a, sqrt(s) cos a, sqrt(1 - s) sin b,
    sqrt(1 - s) cos b) with s = (i + 1/2) / number, a = 2 pi i / phi, b = 2 pi i / psi, where phi = sqrt(2) and
    psi^4 = psi + 4.
    """
    steps = np.arange(number) + 0.5
    share, a, b = (steps / number, 2 * np.pi * steps / np.sqrt(2), 2 * np.pi * steps / 1.533751168755204288118041)
    inner, outer = np.sqrt(share), np.sqrt(1 - share)
    x, y, z, w = (inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


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


def mapped(world: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (3, N) taken by a transform (4, 4)."""
    return world[:3, :3] @ points + world[:3, 3:]


def rotation(degrees) -> np.ndarray:
    """(3, 3): turns about x, then y, then z."""
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def about(centre: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """(4, 4): the matrix `linear` (3, 3) applied about `centre` (3, 1)."""
    world = np.eye(4)
    world[:3, :3] = linear
    world[:3, 3:] = centre - linear @ centre
    return world
