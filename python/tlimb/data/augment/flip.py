"""Random flips."""

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation


class RandomFlip(Augmentation):
    """Mirrors each image along each of `axes`, with the probability for each axis by itself.

    axes: spatial axes counted from 0. The default is left and right of volumes (RAS), axial and coronal slices; in
    sagittal slices axis 0 is front and back, which nobody wants to be mirrored.
    """

    def __init__(self, probability: float = 0.5, axes: list[int] = [0]):
        arguments = Arguments("RandomFlip")
        super().__init__(arguments.share("probability", probability), arguments.axes(axes))
        arguments.done()

    def draw(self, shape) -> dict[str, Tensor]:
        """flipped: (B, axes), which images are mirrored along which of `axes`."""
        self.check(shape)
        return {"flipped": torch.rand(shape[0], len(self.axes)) < self.probability}

    @torch.no_grad()
    def apply(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """The batch, mirrored axis by axis."""
        for axis, flipped in zip(self.axes, drawn["flipped"].unbind(1)):
            places = flipped.nonzero()[:, 0].to(images.device)
            images = images.index_copy(0, places, images[places].flip(2 + axis))
        return images
