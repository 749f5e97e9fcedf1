"""The anatomy that the demo's persons share: the MNI152 template in a head, and how each factor changes it."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from tlimb.demo.recipe import FACTORS, MODE_MM, MODES
from tlimb.seeds import seed_for

SPACING = 1.5
FIELD_SPACING = 4.5
# A box in mm (RAS) that holds the template's head; both grids begin at its lower corner.
BOX = ((-90.0, 90.0), (-126.0, 94.0), (-84.0, 104.0))


@dataclass(frozen=True)
class Anatomy:
    """The template and its basis of change, in template space.

    image: (X, Y, Z) float32, 0 for air to 1 for fat, on the grid with SPACING.
    brain: (X, Y, Z) bool, on the same grid.
    ventricles: (X, Y, Z) bool, the lateral ventricles, on the same grid.
    thinning: one (X, Y, Z) float32 or None a factor: what one sd adds to the image.
    fields: (factors + modes, 3, x, y, z) float32, mm by which one sd displaces, on the grid with FIELD_SPACING.
    """

    image: np.ndarray
    brain: np.ndarray
    ventricles: np.ndarray
    thinning: tuple[np.ndarray | None, ...]
    fields: np.ndarray


@cache
def anatomy() -> Anatomy:
    """Build the anatomy from the template that nilearn carries (about two seconds, once a process)."""
    t1, grey, white = (_on_grid(_template_map(name)) for name in ("t1", "gm", "wm"))
    brain = ndimage.binary_fill_holes(t1 > 0.1)
    fluid = np.where(brain, np.clip(1 - grey - white, 0, 1), 0)
    depth = ndimage.distance_transform_edt(brain, sampling=SPACING)
    ventricles = _box((-42, 42), (-50, 40), (-2, 34)) & (fluid > 0.5) & (depth > 25)
    regions = {
        "ventricles": ventricles.astype(np.float32),
        "medial_temporal": _blobs((26, -20, -15), 11),
        "sylvian": _blobs((42, -10, 6), 15),
        "cortex": np.ones_like(t1),
    }
    regions["cortex"] = 1 - regions["medial_temporal"] - regions["sylvian"]
    eroded = ndimage.gaussian_filter(ndimage.grey_erosion(t1, size=3), 0.7)
    loss = np.minimum(eroded - t1, 0) * grey * (depth < 25)
    thinning = tuple(f.thin / 0.5 * loss * regions[f.name] if f.thin else None for f in FACTORS)
    factors = [_factor_field(f, regions, fluid, brain) for f in FACTORS]
    fields = np.stack([*factors, *_mode_fields(brain)]).astype(np.float32)
    return Anatomy(_with_head(t1, brain), brain, ventricles, thinning, fields)


def grid(spacing: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and (4, 4) affine (voxel index to mm, RAS) of the grid over BOX with that spacing in mm."""
    shape = tuple(int((high - low) // spacing) + 1 for low, high in BOX)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [low for low, _ in BOX]
    return shape, affine


def coordinates(spacing: float) -> np.ndarray:
    """(3, X, Y, Z) float32: the position in mm of each voxel of the grid over BOX."""
    shape, affine = grid(spacing)
    axes = [affine[d, 3] + spacing * np.arange(shape[d], dtype=np.float32) for d in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _template_map(name: str) -> nibabel.Nifti1Image:
    folder = Path(find_spec("nilearn").origin).parent / "datasets" / "data"
    return nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")


def _on_grid(image: nibabel.Nifti1Image) -> np.ndarray:
    """A template map, 0 to 1, on the grid with SPACING."""
    data = np.asarray(image.dataobj, dtype=np.float32) / 255
    shape, affine = grid(SPACING)
    to_stored = np.linalg.inv(image.affine) @ affine
    return ndimage.affine_transform(data, to_stored[:3, :3].diagonal(), to_stored[:3, 3], shape, order=1)


def _box(*bounds) -> np.ndarray:
    position = coordinates(SPACING)
    return np.logical_and.reduce([(low < p) & (p < high) for p, (low, high) in zip(position, bounds)])


def _blobs(centre, sigma: float, spacing: float = SPACING) -> np.ndarray:
    """A Gaussian of height 1 around `centre` (mm) and its mirror image in the other hemisphere."""
    x, y, z = coordinates(spacing)
    rest = (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return sum(np.exp(-((x - side * centre[0]) ** 2 + rest) / (2 * sigma**2)) for side in (-1, 1))


def _factor_field(factor, regions, fluid, brain) -> np.ndarray:
    """(3, x, y, z) mm: how far from a place its template counterpart lies when the factor is one sd above."""
    coarse_brain = _coarsely(brain.astype(np.float32)) > 0.5
    if factor.name == "forehead":
        field = _without_affine(_push((0, 52, 20), 20, (0, 1, 0)), coarse_brain)
    elif factor.name == "parietal_width":
        field = _without_affine(_push((48, -38, 34), 20, (1, 0, 0)), coarse_brain)
    elif factor.widen_mm:
        # Up the gradient of smoothed fluid: each place takes what lies nearer to the fluid, which so grows wider.
        smooth = ndimage.gaussian_filter(fluid * regions[factor.name], 6.0 / SPACING)
        field = np.stack([_coarsely(slope) for slope in np.gradient(smooth)])
    else:
        return np.zeros((3, *coarse_brain.shape))
    return field * factor.widen_mm / np.sqrt((field**2).sum(0)).max()


def _push(centre, sigma: float, direction) -> np.ndarray:
    """A displacement along `direction` around `centre`; the part along x is outward in both hemispheres."""
    x = coordinates(FIELD_SPACING)[0]
    outward = np.tanh(x / 10)
    blob = _blobs(centre, sigma, FIELD_SPACING)
    return np.stack([-blob * step * (outward if axis == 0 else 1) for axis, step in enumerate(direction)])


def _without_affine(field: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The field less the affine map that fits it best (least squares) over the brain."""
    position = coordinates(FIELD_SPACING).reshape(3, -1) / 100
    design = np.vstack([position, np.ones(position.shape[1])]).T
    inside = brain.ravel()
    flat = field.reshape(3, -1)
    fit = np.linalg.lstsq(design[inside], flat[:, inside].T, rcond=None)[0]
    return (flat - (design @ fit).T).reshape(field.shape)


def _mode_fields(brain: np.ndarray) -> np.ndarray:
    """(MODES, 3, x, y, z) mm: smoothed white noise, MODE_MM in root mean square over the brain, whatever the seed."""
    shape, _ = grid(FIELD_SPACING)
    noise = np.random.default_rng(seed_for(0, "demo", "modes")).standard_normal((MODES, 3, *shape))
    fields = ndimage.gaussian_filter(noise, (0, 0, *[18 / FIELD_SPACING] * 3), mode="wrap")
    inside = _coarsely(brain.astype(np.float32)) > 0.5
    size = np.sqrt((fields[:, :, inside] ** 2).sum(1).mean(1))
    return fields * MODE_MM / size[:, None, None, None, None]


def _coarsely(image: np.ndarray) -> np.ndarray:
    """Every third voxel: FIELD_SPACING is three times SPACING and both grids begin at the same corner."""
    shape, _ = grid(FIELD_SPACING)
    return image[::3, ::3, ::3][: shape[0], : shape[1], : shape[2]]


def _with_head(t1: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The brain within fluid (2 mm), skull (6 mm) and a patchy scalp (5 mm); open below where the template ends."""
    closed = ndimage.gaussian_filter(brain.astype(np.float32), 8 / SPACING) > 0.4
    outside = ndimage.distance_transform_edt(~(closed | brain), sampling=SPACING)
    shell = np.interp(outside, [0, 2, 3, 8, 10, 13, 15], [0.27, 0.27, 0.1, 0.1, 0.65, 0.65, 0.0])
    rng = np.random.default_rng(seed_for(0, "demo", "scalp"))
    patches = ndimage.gaussian_filter(rng.standard_normal(brain.shape, dtype=np.float32), 12 / SPACING)
    fat = np.clip(1 + 0.35 * patches / patches.std(), 0.4, 1.6)
    shell = np.where(outside > 8, np.minimum(shell * fat, 1), shell)
    soft = ndimage.gaussian_filter(brain.astype(np.float32), 0.7)
    head = np.where(brain, np.maximum(t1, 0.2), shell)
    return (soft * head + (1 - soft) * ndimage.gaussian_filter(head, 0.7)).astype(np.float32)
