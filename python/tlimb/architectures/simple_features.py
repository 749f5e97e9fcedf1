"""Simple features of scans: means and tissue volumes of regions in template space, connectivity of time series."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tlimb.errors import InputError, Problem

SURE = 0.05
"""Share of the template's brain in which a tissue is taken for sure: where its probability is highest."""

FLUID, WHITE = -0.7, 0.5
"""Intensities, with grey matter at 0 and white matter at 1, below which a voxel is fluid and from which it is white:
half-way between grey matter and fluid, which lies at -1.4 in the template, and between grey and white matter."""

MOST = 1 - 1e-6
"""Correlations are cut to this, so that their transform stays finite."""


def simple_features(input_shape: tuple[int, ...], recipe: dict | None) -> nn.Module:
    """`RegionalFeatures` of volumes (1, X, Y, Z) or `Connectivity` of time series (regions, time points).

    Raises InputError for anything else and for volumes that are not the whole of the template's grid.
    """
    if len(input_shape) == 2:
        return Connectivity(*input_shape)
    if len(input_shape) == 4 and input_shape[0] == 1:
        return RegionalFeatures(input_shape, recipe or {})
    message = f"expected whole volumes (1, X, Y, Z) or time series (regions, time points), found {input_shape}"
    raise InputError([Problem("architecture", message, "set the stage's data module to BaseDataModule")])


class RegionalFeatures(nn.Module):
    """Volumes (B, 1, X, Y, Z) in template space -> (B, 5 R): five numbers for each of R regions, region by region.

    Regions are those of the atlas "blocks": 32 parts of the template's brain. Each voxel of the store's grid has the
    label at its centre, and a region that no centre hits is left out.

    A scan's voxels that are exactly 0 are background: outside of its mask, or cut to 0 by the recipe's `percentile`.

    1. mean: of the intensity over the region's voxels that are not background, in the store's unit (standard
       deviations of the brain after zscore); 0 where there are none.
    2. sd: the standard deviation of the same (divided by n), in the same unit, at least 0.
    3. - 5. fluid, grey, white: share of the region's voxels, 0 to 1, that are of this tissue: its volume as a share of
       the region's. Background is no tissue, so the three add up to 1 where there is none.

    Tissue is told by intensity on a scale of each scan's own, which no linear rescaling changes (zscore, minmax or none
    of them): 0 is its median in places that are surely grey matter in the template, 1 its median in places that are
    surely white matter, the twentieth of the brain with the highest probability of each. A voxel below -0.7 is fluid,
    one from 0.5 on white, any other grey. That holds for T1w; of T2w, where the scale is turned round, too; of FLAIR,
    where fluid is dark and grey matter bright, fluid counts as white. Registration to the template takes the head's
    size away, so shares are relative to it; atrophy turns grey into fluid.

    recipe: how scans were prepared. Raises InputError where volumes are not the whole of the template's grid.
    """

    voxels: Tensor
    grey: Tensor
    white: Tensor

    def __init__(self, input_shape: tuple[int, ...], recipe: dict):
        super().__init__()
        spacing, shape = float(recipe.get("spacing", 2.0)), recipe.get("shape")
        if recipe.get("resampling", "linear") == "none":
            message = "regions are places of the template, and the recipe leaves scans on grids of their own"
            raise InputError([Problem("architecture", message, 'set the recipe\'s resampling to "linear"')])
        grid = _grid(spacing, tuple(shape) if shape else None)
        if tuple(input_shape[1:]) != grid.shape:
            message = f"takes whole volumes of the template's grid {grid.shape}, the data have {tuple(input_shape[1:])}"
            hint = "set the stage's data module to BaseDataModule, without zoom"
            raise InputError([Problem("architecture", message, hint)])
        labels = labels_on_grid(grid.affine, grid.shape).ravel()
        self.numbers, sizes = np.unique(labels[labels > 0], return_counts=True)
        self.sizes = sizes.tolist()
        order = np.argsort(labels, kind="stable")[-sum(self.sizes) :]
        for name, places in (("voxels", order), ("grey", grid.grey), ("white", grid.white)):
            self.register_buffer(name, torch.tensor(places.tolist(), dtype=torch.int32))
        self.width = 5 * len(self.sizes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) -> (B, 5 R), float32."""
        images = images.flatten(1).float()
        grey, white = _median(images, self.grey), _median(images, self.white)
        span = torch.where(white == grey, 1.0, white - grey)
        regions = images.index_select(1, self.voxels).split(self.sizes, 1)
        return torch.cat([_five(values, (values - grey) / span) for values in regions], 1)


def _five(values: Tensor, scaled: Tensor) -> Tensor:
    """Mean, sd, shares of fluid, grey and white (B, 5) of a region's voxels (B, N), as they are and `scaled`."""
    known = values != 0
    count = known.sum(1).clamp(min=1)
    mean = values.sum(1) / count
    variance = (known * (values - mean[:, None]).square()).sum(1) / count
    fluid, white = (known & (scaled < FLUID)).sum(1), (known & (scaled >= WHITE)).sum(1)
    shares = torch.stack([fluid, known.sum(1) - fluid - white, white], 1) / values.shape[1]
    return torch.cat([torch.stack([mean, variance.sqrt()], 1), shares], 1)


def _median(images: Tensor, places: Tensor) -> Tensor:
    """The median (B, 1) over an odd number of voxels, by sorting, which a GPU does alike each time."""
    return images.index_select(1, places).sort(1).values[:, len(places) // 2, None]


class Connectivity(nn.Module):
    """Time series (B, regions, time points) -> (B, R (R - 1) / 2): functional connectivity, pairs row by row.

    Of two regions' signals the Fisher transform artanh(r) of Pearson's correlation r over time, cut to 1 - 1e-6; 0
    where a signal is constant. No unit, -7.3 to 7.3.
    """

    pairs: Tensor

    def __init__(self, regions: int, points: int):
        super().__init__()
        if regions < 2 or points < 3:
            message = f"needs at least 2 regions and 3 time points, the data have {regions} and {points}"
            raise InputError([Problem("architecture", message)])
        first, second = np.triu_indices(regions, 1)
        self.register_buffer("pairs", torch.tensor((first * regions + second).tolist(), dtype=torch.int32))
        self.width = len(first)

    def forward(self, images: Tensor) -> Tensor:
        """(B, R, T) -> (B, R (R - 1) / 2), float32."""
        signals = images.float() - images.float().mean(2, keepdim=True)
        lengths = signals.norm(dim=2, keepdim=True)
        signals = signals / torch.where(lengths == 0, 1.0, lengths)
        correlations = (signals @ signals.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return torch.atanh(correlations.clamp(-MOST, MOST))


@dataclass(frozen=True)
class Grid:
    """The store's grid in template space: affine (4, 4), voxel index -> mm, shape, and flat indices of the voxels that
    are surely grey and surely white matter."""

    affine: np.ndarray
    shape: tuple[int, int, int]
    grey: np.ndarray
    white: np.ndarray


@lru_cache(maxsize=4)
def _grid(spacing: float, shape: tuple[int, int, int] | None) -> Grid:
    from tlimb.preprocess.template import load_template

    template = load_template(spacing, shape)
    brain = np.flatnonzero(template.mask)
    count = round(SURE * len(brain)) // 2 * 2 + 1
    sure = []
    for tissue in ("gm", "wm"):
        probability = _tissue(tissue, spacing, template.affine, template.shape).ravel()[brain]
        sure.append(np.sort(brain[np.argsort(-probability, kind="stable")[:count]]))
    return Grid(template.affine, template.shape, *sure)


def _tissue(name: str, spacing: float, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The template's map of grey (gm) or white matter (wm) on a grid, float32, 0 (none) to 255."""
    import nibabel as nib

    from tlimb.preprocess.template import template_path
    from tlimb.preprocess.volume import Volume, resample, shrink

    image = nib.load(template_path().with_name(f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"))
    volume = Volume(image.get_fdata(dtype=np.float32), np.asarray(image.affine, float))
    return np.nan_to_num(resample(shrink(volume, spacing), np.eye(4), affine, shape))


def labels_on_grid(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The labels of the atlas "blocks" at the centres of a grid's voxels, int32 of `shape`, 0 where there is no region.

    affine: (4, 4), voxel index -> MNI mm.
    """
    from tlimb.preprocess.atlas import load_atlas

    known = load_atlas("blocks")
    to_label = np.linalg.inv(known.affine) @ affine
    index = np.indices(shape).reshape(3, -1)
    place = np.round(to_label[:3, :3] @ index + to_label[:3, 3:]).astype(int)
    inside = ((place >= 0) & (place < np.array(known.labels.shape)[:, None])).all(0)
    labels = np.zeros(inside.shape, np.int32)
    labels[inside] = known.labels[tuple(place[:, inside])]
    return labels.reshape(shape)
