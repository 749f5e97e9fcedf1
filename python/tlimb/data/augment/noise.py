"""Random noise."""

from typing import Literal

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, as_acquired, beside, uniform


class RandomNoise(Augmentation):
    r"""Gaussian: x + s n1. Rician, as magnitude images have it: |m + s n1 + i s n2| for the signal m.

    n1, n2 are white and standard normal. s is uniform in `sd`, in units of the images (of the brain's standard
    deviation, for z-scored scans); one number stands for 0 to itself. The signal m of Rician noise is counted from the
    darkest voxel. Voxels that are exactly 0 are outside of the brain mask and stay 0.

    Gudbjartsson, Patz (1995), "The Rician distribution of noisy MRI data", MRM 34(6).
    """

    spatial = (1, 2, 3)

    def __init__(
        self,
        probability: float = 0.5,
        sd: float | list[float] = 0.15,
        distribution: Literal["gaussian", "rician"] = "gaussian",
    ):
        arguments = Arguments("RandomNoise")
        super().__init__(arguments.share("probability", probability))
        self.sd = arguments.amounts("sd", sd)
        good = distribution in ("gaussian", "rician")
        arguments.require("distribution", good, f"expected gaussian or rician, found {distribution!r}")
        self.distribution = distribution
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """sd (B,), and a seed (B,) for the noise itself, which is drawn on the images' device."""
        return {"sd": uniform(self.sd, shape[0]), "seed": torch.randint(2**62, (shape[0],))}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Each image gets the noise of its own seed."""
        parts = 1 if self.distribution == "gaussian" else 2
        noise = white_noise((parts, *images.shape), drawn["seed"], images.device) * beside(drawn["sd"], images)
        if parts == 1:
            return (images + noise[0]).masked_fill_(images == 0, 0)
        return as_acquired(images, lambda signal: torch.hypot(signal + noise[0], noise[1]))


def white_noise(shape, seeds: Tensor, device) -> Tensor:
    """Standard normal (parts, n, ...): what [:, i] holds follows from seeds[i] alone."""
    noise = torch.empty(shape, device=device)
    generator = torch.Generator(device)
    for part, rows in enumerate(noise):
        for row, seed in zip(rows, seeds.tolist()):
            row.normal_(generator=generator.manual_seed(seed + part))
    return noise
