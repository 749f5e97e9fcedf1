"""Random smooth deformations."""

import math

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation
from tlimb.data.augment.resample import displaced_places, resampled
from tlimb.data.augment.separable import along_axes

FOLDING = 2.479472335
"""Displacements below the spacing over this number never fold space (Choi, Lee 2000, for cubic B-splines in 3D)."""


class RandomElastic(Augmentation):
    r"""out(p) = in(p + u(p)), with u(p) = sum_k c_k prod_a B(p_a / h - k_a), B the cubic B-spline.

    The c_k, one a knot and axis, are uniform between minus and plus `displacement` voxels; the knots stand `spacing`
    voxels h apart. As B is positive and its translates sum to 1, no voxel moves further than `displacement` along an
    axis; and as that must be less than h / 2.48, nothing folds or tears. Linear interpolation; what
    lies outside is as the border; voxels that are exactly 0 are outside of the brain mask, which moves along with a
    sharp edge.

    Rueckert et al. (1999), "Nonrigid registration using free-form deformations", IEEE TMI 18(8); Choi, Lee (2000),
    "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", Graphical Models 62(6).
    """

    def __init__(self, probability: float = 0.5, displacement: float = 3.0, spacing: int = 12):
        arguments = Arguments("RandomElastic")
        super().__init__(arguments.share("probability", probability))
        arguments.require("spacing", spacing >= 1, f"expected at least 1 voxel, found {spacing}")
        arguments.require("displacement", displacement >= 0, f"expected at least 0 voxels, found {displacement}")
        folds = f"{displacement} voxels could fold space; at most {spacing / FOLDING:.2f} with knots {spacing} apart"
        arguments.require("displacement", displacement <= spacing / FOLDING, folds)
        self.displacement, self.spacing = float(displacement), spacing
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """knots: (B, d, ...) displacements c_k in voxels."""
        knots = [knots_of(size, self.spacing) for size in shape[2:]]
        return {"knots": self.displacement * (2 * torch.rand(shape[0], len(knots), *knots) - 1)}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image is sampled where its field says."""
        field = self.field(drawn["knots"].to(images), images.shape[2:])
        return resampled(images, displaced_places(field), "border")

    def field(self, knots: Tensor, sizes) -> Tensor:
        """u (n, d, *sizes) in voxels."""
        return along_axes(knots, [splines(size, self.spacing).to(knots) for size in sizes])


def knots_of(size: int, spacing: int) -> int:
    """How many cubic B-splines, `spacing` voxels apart, reach an axis of `size` voxels."""
    return math.ceil((size - 1) / spacing) + 3


def splines(size: int, spacing: int) -> Tensor:
    """(size, knots): the value of each spline at each voxel; rows sum to 1."""
    places = torch.arange(size)[:, None] / spacing
    away = (places - torch.arange(knots_of(size, spacing)) + 1).abs()
    near, far = 2 / 3 - away**2 * (1 - away / 2), (2 - away).clamp(min=0) ** 3 / 6
    return torch.where(away < 1, near, far)
