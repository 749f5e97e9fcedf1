"""The signals of regions as they come out of a file, before anything is done to them."""

from dataclasses import dataclass, field

import numpy as np

COMPARED = 8
"""Time points that tell one scan from another: the fewest that a recipe can keep, so that every recipe sees them."""


@dataclass(frozen=True)
class Signals:
    """values: (T, R) float64, one column a region of `names`.  points: how many time points the file holds.

    tr: seconds between them, None where the file does not say.  snr: mean over standard deviation over time.
    overlap: Dice overlap of an image's foreground with the brain of the template.  coverage: share of that brain whose
    voxels vary over time. None where unknown.  content: 16 hexadecimal digits of the SHA-256 of the first COMPARED time
    points as they were decoded, before atlas, recipe and confounds: copies of a scan agree in it.
    """

    values: np.ndarray
    names: tuple[str, ...]
    points: int
    content: str
    tr: float | None = None
    snr: float | None = None
    overlap: float | None = None
    coverage: float | None = None
    warnings: list[str] = field(default_factory=list)


def as_hashed(points: np.ndarray) -> bytes:
    """Time points (T, ...) as `content` takes them: little-endian float32, -0 and 0 as one."""
    return np.ascontiguousarray(points + np.float32(0), "<f4").tobytes()


def too_few(points: int, wanted: int, hint: str = "") -> str:
    """Why a scan with fewer time points than its recipe keeps is of no use."""
    return f"holds {points} time points, the recipe keeps {wanted}" + (f"; {hint}" if hint else "")
