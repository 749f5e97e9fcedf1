"""Random boxes set to zero."""

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, uniform


class RandomCutout(Augmentation):
    """Sets `count` boxes of each image to 0, in all its channels: the mean of a z-scored scan.

    size: the share of each axis that a box covers, drawn for each axis by itself; one number stands for 0 to itself.
    A box's centre is anywhere in the image, so that part of it may lie outside. In a series (B, C, T) a box is a
    stretch of time.

    DeVries, Taylor (2017), "Improved regularization of convolutional neural networks with cutout", arXiv:1708.04552.
    """

    spatial = (1, 2, 3)

    def __init__(self, probability: float = 0.5, count: int = 1, size: float | list[float] = [0.2, 0.4]):
        arguments = Arguments("RandomCutout")
        super().__init__(arguments.share("probability", probability))
        arguments.require("count", count >= 1, f"expected at least 1, found {count}")
        self.size = arguments.amounts("size", size, most=1)
        self.count = count
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """centre, size: (B, count, d) as shares of each axis."""
        axes = len(shape) - 2
        boxes = (shape[0], self.count, axes)
        return {"centre": torch.rand(boxes), "size": uniform(self.size, *boxes)}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """A voxel is cut out where its centre lies in a box along every axis."""
        starts, stops = drawn["centre"] - drawn["size"] / 2, drawn["centre"] + drawn["size"] / 2
        cut = torch.zeros((), dtype=torch.bool, device=images.device)
        for start, stop in zip(starts.to(images).unbind(1), stops.to(images).unbind(1)):
            cut = cut | _boxes(start, stop, images.shape[2:])
        return images.masked_fill(cut[:, None], 0)


def _boxes(start: Tensor, stop: Tensor, sizes) -> Tensor:
    """(n, *sizes), true inside of the boxes from start to stop, (n, d), shares of each axis."""
    inside = torch.ones((), dtype=torch.bool, device=start.device)
    for axis, size in enumerate(sizes):
        place = (torch.arange(size, device=start.device) + 0.5) / size
        within = (start[:, axis, None] <= place) & (place < stop[:, axis, None])
        inside = inside & within.reshape(-1, *[size if other == axis else 1 for other in range(len(sizes))])
    return inside
