"""Random bias fields: brightness that changes slowly over the image, as near a receive coil."""

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, as_acquired, uniform
from tlimb.data.augment.separable import along_axes


class RandomBiasField(Augmentation):
    r"""Multiplies the signal by exp(sum_{0 < i + j + k <= order} c_ijk x^i y^j z^k), x, y, z from -1 to 1.

    Each c_ijk is uniform in `coefficients`; one number stands for minus to plus itself. There is no constant term: how
    bright a scan is as a whole is no matter of the field. The signal is counted from the darkest voxel, so that
    standardised scans get darker and brighter as real ones do; voxels that are exactly 0, outside of the brain mask,
    stay 0.

    Van Leemput et al. (1999), "Automated model-based bias field correction of MR images of the brain", IEEE TMI 18(10).
    """

    def __init__(self, probability: float = 0.5, coefficients: float | list[float] = 0.15, order: int = 3):
        arguments = Arguments("RandomBiasField")
        super().__init__(arguments.share("probability", probability))
        self.coefficients = arguments.deviations("coefficients", coefficients)
        arguments.require("order", 1 <= order <= 6, f"expected 1 to 6, found {order}")
        self.order = order
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """coefficients: (B, order + 1, ...), c_ijk at [b, i, j, k], 0 for the terms left out."""
        axes = len(shape) - 2
        drawn = uniform(self.coefficients, shape[0], *[self.order + 1] * axes)
        total = sum(torch.meshgrid(*[torch.arange(self.order + 1)] * axes, indexing="ij"))
        return {"coefficients": drawn * ((0 < total) & (total <= self.order))}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image is multiplied by its field."""
        powers = [_powers(size, self.order).to(images) for size in images.shape[2:]]
        field = along_axes(drawn["coefficients"].to(images)[:, None], powers).exp_()
        return as_acquired(images, lambda signal: signal * field)


def _powers(size: int, order: int) -> Tensor:
    """(size, order + 1): the powers of each voxel's place, from -1 to 1."""
    places = torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
    return places[:, None] ** torch.arange(order + 1)
