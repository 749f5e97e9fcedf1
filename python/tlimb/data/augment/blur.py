"""Random blur."""

import math

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, as_acquired, uniform
from tlimb.data.augment.separable import along_axes

REACH = 5
"""Standard deviations after which a Gaussian is cut off."""


class RandomBlur(Augmentation):
    """Convolves each image with a Gaussian of its own standard deviation, uniform in `sigma`, in voxels.

    One number stands for 0 to itself. Beyond its border an image goes on as at the border. The blur is that of the
    signal, counted from the darkest voxel: voxels that are exactly 0, outside of the brain mask, are dark and stay 0.
    """

    def __init__(self, probability: float = 0.5, sigma: float | list[float] = 1.0):
        arguments = Arguments("RandomBlur")
        super().__init__(arguments.share("probability", probability))
        self.sigma = arguments.amounts("sigma", sigma)
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """sigma: (B,) in voxels."""
        return {"sigma": uniform(self.sigma, shape[0])}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image is blurred along one axis after the other."""
        reach = math.ceil(REACH * self.sigma[1])
        sigma = drawn["sigma"].to(images)
        matrices = {size: gaussians(size, sigma, reach) for size in set(images.shape[2:])}
        return as_acquired(images, lambda signal: along_axes(signal, [matrices[size] for size in images.shape[2:]]))


def gaussians(size: int, sigma: Tensor, reach: int) -> Tensor:
    """(n, size, size): a row for each voxel of an axis, its weights for all of them; sigma is (n,)."""
    place = torch.arange(size, device=sigma.device)
    away = torch.arange(-reach, size + reach, device=sigma.device) - place[:, None]
    # A width of 0 leaves the voxel itself its only neighbour.
    weights = torch.exp(-0.5 * (away / sigma.clamp(min=1e-3)[:, None, None]) ** 2)
    weights = (weights / weights.sum(dim=2, keepdim=True)).contiguous()
    inner = weights[:, :, reach : reach + size].clone()
    inner[:, :, 0] += weights[:, :, :reach].sum(dim=2)
    inner[:, :, -1] += weights[:, :, reach + size :].sum(dim=2)
    return inner
