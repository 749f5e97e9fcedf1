"""Random affine transforms: turned, scaled, sheared, moved."""

from typing import Literal

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, uniform
from tlimb.data.augment.resample import affine_places, resampled, rotation


class RandomAffine(Augmentation):
    """Moves what is at p, counted in voxels from the centre, to R H S p + t: scaled, then sheared, rotated, moved.

    degrees: about each axis (slices: in the plane). scale: by which each axis' factor is off 1. shear: the entries
    above the diagonal of H. translation: along each axis, in voxels. One number stands for minus to plus itself.
    padding: what comes in from outside, `zeros` for masked scans, `border` for others. Linear interpolation; voxels
    that are exactly 0 are outside of the brain mask, which moves along with a sharp edge.
    """

    def __init__(
        self,
        probability: float = 0.5,
        degrees: float | list[float] = 10.0,
        scale: float | list[float] = 0.05,
        shear: float | list[float] = 0.0,
        translation: float | list[float] = 2.0,
        padding: Literal["zeros", "border"] = "zeros",
    ):
        arguments = Arguments("RandomAffine")
        super().__init__(arguments.share("probability", probability))
        self.degrees = arguments.deviations("degrees", degrees)
        self.scale = arguments.deviations("scale", scale, least=-0.9)
        self.shear = arguments.deviations("shear", shear)
        self.translation = arguments.deviations("translation", translation)
        arguments.require("padding", padding in ("zeros", "border"), f"expected zeros or border, found {padding!r}")
        self.padding = padding
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """degrees (B, 1 or 3), scale (B, d) factors, shear (B, d (d - 1) / 2), translation (B, d)."""
        count, axes = shape[0], len(shape) - 2
        planes = axes * (axes - 1) // 2
        return {
            "degrees": uniform(self.degrees, count, planes),
            "scale": 1 + uniform(self.scale, count, axes),
            "shear": uniform(self.shear, count, planes),
            "translation": uniform(self.translation, count, axes),
        }

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image is sampled where its voxels came from."""
        axes = images.ndim - 2
        sheared = torch.eye(axes).repeat(len(images), 1, 1)
        rows, columns = torch.triu_indices(axes, axes, offset=1)
        sheared[:, rows, columns] = drawn["shear"]
        back = torch.linalg.inv(rotation(drawn["degrees"]) @ sheared @ torch.diag_embed(drawn["scale"]))
        shift = -(back @ drawn["translation"][..., None])[..., 0]
        return resampled(images, affine_places(back, shift, images), self.padding)
