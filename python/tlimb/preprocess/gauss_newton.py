"""Gauss-Newton iterations that match a scan's intensities to the template's at one level.

They minimise the robust difference

    E(T, c) = sum_x w(r_x) r_x^2,    r_x = sum_k c_k B_k(x, S(T x)) - R(x)

with R the template, S the scan, and w Tukey's biweight, which keeps scalp, lesions and missing parts from pulling
(Reuter, Rosas, Fischl, NeuroImage 53, 2010, https://doi.org/10.1016/j.neuroimage.2010.07.020). The shades B are the
powers 1, s, s^2, s^3 of the scan's intensity s, which make the criterion independent of contrast (Roche, Malandain,
Ayache, Int. J. Imaging Syst. Technol. 11, 2000), and s times a quadratic polynomial of the place, which stands for the
receive field. Each iteration solves for the transform's parameters and c together. The template's gradient is used for
the scan's, so that derivatives are computed once for all scans (Baker, Matthews, IJCV 56, 2004).
"""

import numpy as np

from tlimb.preprocess.poses import mapped
from tlimb.preprocess.template import LENGTH, Level
from tlimb.preprocess.volume import Volume, sample

ITERATIONS = {8.0: 8, 4.0: 10, 2.0: 8}  # at most, by spacing in mm
CONVERGED = 0.02  # mm
LEAST_OVERLAP = 0.2  # of the template's points inside of the scan
TUKEY = 4.685 * 1.4826  # times the median absolute residual; 95 % efficient for normal residuals
POWERS = 4


def gauss_newton(scan: Volume, level: Level, world: np.ndarray, kind: str) -> np.ndarray | None:
    """The transform (4, 4) of a kind that iterations lead to from `world`; None where they go astray.

    kind: affine, affine9 (matrix R S, R a rotation, S diagonal) or similarity (the same with one size in S).
    """
    shades = np.empty((POWERS + len(level.place), len(level.values)), np.float32)
    weights = None
    for _ in range(ITERATIONS[level.spacing]):
        values, inside = sample(scan, mapped(world, level.points))
        if inside.mean() < LEAST_OVERLAP:
            return None
        directions = _directions(kind, np.linalg.norm(world[:3, :3], axis=0))
        design = np.concatenate([directions.T.astype(np.float32) @ level.jacobian, _shades(values, level, shades)])
        if weights is None:
            shading = _solved(shades, level.values, inside.astype(np.float32))
        weights = _tukey(shading @ shades - level.values, inside)
        solution = _solved(design, level.values, weights)
        step, shading = (directions @ solution[: -len(shades)], solution[-len(shades) :].astype(np.float32))
        world = _moved(world, step, level.centre, kind)
        if not 0.1 < np.linalg.det(world[:3, :3]) < 10:
            return None
        if np.linalg.norm(step) < CONVERGED:
            break
    return world


def _shades(values: np.ndarray, level: Level, out: np.ndarray) -> np.ndarray:
    out[0] = 1
    for power in range(1, POWERS):
        np.multiply(out[power - 1], values, out=out[power])
    np.multiply(level.place, values, out=out[POWERS:])
    return out


def _tukey(residual: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Tukey's biweights (N,) float32, 0 outside."""
    cut = TUKEY * np.median(np.abs(residual[inside][::4])) + 1e-6
    return np.where(inside & (np.abs(residual) < cut), (1 - (residual / cut) ** 2) ** 2, 0).astype(np.float32)


def _solved(design: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The combination of the rows of `design` (p, N) that comes nearest to `target` (N,) by weighted least squares."""
    weighted = design * weights
    normal = (weighted @ design.T).astype(float)
    normal += np.diag(1e-6 * np.diag(normal) + 1e-12)
    return np.linalg.solve(normal, (weighted @ target).astype(float))


def _directions(kind: str, sizes: np.ndarray) -> np.ndarray:
    """(12, p): how a kind's parameters move the template's points, as matrix and shift, at `sizes` (3,).

    Turns change the matrix R S to R (I + W) S = R S (I + S^-1 W S), and sizes to R S (I + D).
    """
    if kind == "affine":
        return np.eye(12)
    turns = np.zeros((3, 3, 3))
    for axis, (row, column) in enumerate(((2, 1), (0, 2), (1, 0))):
        turns[axis, row, column], turns[axis, column, row] = 1, -1
    growth = [np.eye(3)] if kind == "similarity" else [np.diag(axis) for axis in np.eye(3)]
    linear = [turn * sizes / sizes[:, None] for turn in turns] + growth
    directions = np.zeros((12, len(linear) + 3))
    directions[:9, : len(linear)] = np.stack([matrix.ravel() for matrix in linear], 1)
    directions[9:, len(linear) :] = np.eye(3)
    return directions


def _moved(world: np.ndarray, step: np.ndarray, centre: np.ndarray, kind: str) -> np.ndarray:
    """The transform of its kind after the template's points made a `step` (12,)."""
    matrix, change = world[:3, :3], step[:9].reshape(3, 3) / LENGTH
    moved = np.eye(4)
    if kind == "affine":
        moved[:3, :3] = matrix @ (np.eye(3) + change)
    else:
        sizes = np.linalg.norm(matrix, axis=0)
        turn = change * sizes[:, None] / sizes
        left, _, right = np.linalg.svd(matrix / sizes @ (np.eye(3) + (turn - turn.T) / 2))
        moved[:3, :3] = left @ right * (sizes * np.exp(np.diag(change)))
    anchor = matrix @ (centre[:, 0] + step[9:]) + world[:3, 3]
    moved[:3, 3] = anchor - moved[:3, :3] @ centre[:, 0]
    return moved
