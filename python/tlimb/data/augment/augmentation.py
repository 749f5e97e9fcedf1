"""What every augmentation is: numbers drawn for each image of a batch, and the batch changed as they say."""

import torch
from torch import Tensor

from tlimb.errors import InputError, Problem

LAYOUTS = {1: "series (B, C, T)", 2: "slices (B, C, H, W)", 3: "volumes (B, C, X, Y, Z)"}
"""The batches there are, by their number of spatial axes."""


class Augmentation:
    """Changes each image of a batch with a probability and leaves labels alone.

    A subclass says in `parameters` what is drawn for every image and in `change` what it does to those chosen;
    `spatial` lists the numbers of spatial axes it works for, `axes` those it works along (null: all). All that is
    random follows from torch's generator of the CPU, whatever device the images are on, so that the seed set before a
    batch decides everything; images are float32.
    """

    spatial = (2, 3)

    def __init__(self, probability: float, axes: list[int] | None = None):
        self.probability, self.axes = probability, axes

    def __call__(self, images: Tensor, labels):
        """A batch (images, labels) with its images changed."""
        return self.apply(images, self.draw(images.shape)), labels

    def check(self, shape) -> None:
        """Raises InputError where batches of this shape (B, C, ...) cannot be augmented."""
        if len(shape) - 2 not in self.spatial:
            expected = " or ".join(LAYOUTS[axes] for axes in self.spatial)
            found = f"{len(shape)} dimensions, {tuple(shape)}"
            raise InputError([Problem(f"augment {type(self).__name__}", f"expected {expected}, found {found}")])
        if self.axes is not None and max(self.axes) >= len(shape) - 2:
            message = f"there is no axis {max(self.axes)} in {LAYOUTS[len(shape) - 2]}; axes count from 0 at the third"
            raise InputError([Problem(f"augment {type(self).__name__}: axes", message)])

    def draw(self, shape) -> dict[str, Tensor]:
        """What is done to a batch of this shape: tensors on the CPU with a row an image; `chosen` says to which."""
        self.check(shape)
        return {"chosen": torch.rand(shape[0]) < self.probability, **self.parameters(shape)}

    @torch.no_grad()
    def apply(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """The batch as `drawn` says, in new memory where anything changes."""
        chosen = drawn["chosen"].nonzero()[:, 0]
        if len(chosen) == 0:
            return images
        drawn = {name: rows[chosen] for name, rows in drawn.items()}
        if len(chosen) == len(images):
            return self.change(images, drawn)
        places = chosen.to(images.device)
        return images.index_copy(0, places, self.change(images[places], drawn))

    def parameters(self, shape) -> dict[str, Tensor]:
        """What is drawn beside `chosen` for a batch of this shape; nothing unless a subclass says so."""
        return {}

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """All images (n, C, ...) changed by their rows of `drawn`; a subclass says how, or has an `apply` of its own."""
        raise TypeError(f"{type(self).__name__} does not say how it changes images")


def of_item(drawn: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """The rows of one image, which do to it alone what the whole does to it in its batch."""
    return {name: rows[number : number + 1] for name, rows in drawn.items()}


def uniform(interval: tuple[float, float], *shape: int) -> Tensor:
    """Numbers between the two ends, each as likely as any other."""
    low, high = interval
    return low + (high - low) * torch.rand(shape)


def beside(values: Tensor, images: Tensor) -> Tensor:
    """A number an image (n,) on the images' device as (n, 1, 1, ...)."""
    return values.to(images).reshape(-1, *[1] * (images.ndim - 1))


def any_axis(axes: list[int] | None, shape) -> Tensor:
    """A spatial axis for each image of a batch (B,), out of `axes` or of all."""
    axes = torch.tensor(axes if axes is not None else range(len(shape) - 2))
    return axes[torch.randint(len(axes), (shape[0],))]


def signal_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images as a scanner gives them, 0 in air: the signal, what it was counted from (n, 1, ...), and where air is.

    Standardised images have their zero at the mean of the brain, so their darkest value stands for no signal here.
    Voxels that are exactly 0 lie outside of the brain mask and count as air.
    """
    outside = images == 0
    darkest = images.amin(dim=tuple(range(1, images.ndim)), keepdim=True).clamp(max=0)
    return (images - darkest).masked_fill_(outside, 0), darkest, outside


def as_acquired(images: Tensor, change) -> Tensor:
    """`change` done to the signal of images, then back to their own scale.

    Voxels outside of the brain mask take part as air and are 0 again afterwards, as if the mask came after the change.
    """
    signal, darkest, outside = signal_of(images)
    return change(signal).add(darkest).masked_fill_(outside, 0)
