"""The general data module: any part of any image, moved about in training."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tlimb.data.modules import AXES, BaseDataModule, overrides, padded
from tlimb.errors import InputError, Problem


class BioImageDataModule(BaseDataModule):
    """A crop of `size` voxels anywhere in an image, with zeros around images that are smaller.

    size: (x, y, z) of the crop; null keeps all. centre: where the crop's middle lies, as fractions of the axes
    (0 left, back, bottom; 1 right, front, top); a crop that would leave the image is pushed back into it.
    shift: in training each scan's crop is moved by up to so many voxels along every axis, at random; less where the
    image ends before that. channels: null for a volume (1, x, y, z), or the plane whose slices become channels, as for
    a thick slab or for a 2D image, which is a volume one voxel thick.
    """

    def __init__(
        self,
        size: list[int] | None = None,
        centre: list[float] | None = None,
        shift: int = 0,
        channels: Literal["axial", "coronal", "sagittal"] | None = None,
    ):
        problems = []
        if size is not None and (len(size) != 3 or min(size) < 1):
            problems.append(("size", f"expected three positive whole numbers, found {size}"))
        if centre is not None and (len(centre) != 3 or not all(0 <= part <= 1 for part in centre)):
            problems.append(("centre", f"expected three fractions from 0 to 1, found {centre}"))
        if shift < 0:
            problems.append(("shift", f"expected 0 or more voxels, found {shift}"))
        if size is None and (shift or centre is not None):
            problems.append(("size", "is not set, and `centre` and `shift` speak of a crop"))
        if problems:
            raise InputError([Problem(f"module.init_args.{name}", message) for name, message in problems])
        self.size, self.centre, self.shift, self.channels = size, centre or [0.5] * 3, shift, channels

    def box(self, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The crop and what it may be moved over, as much on one side as on the other."""
        return tuple(map(self._part, shape, self.size or shape, self.centre))

    def _part(self, have: int, want: int, centre: float) -> slice:
        want = min(want, have)
        start = min(max(math.floor(centre * have - want / 2), 0), have - want)
        around = min(self.shift, start, have - want - start)
        return slice(start - around, start + want + around)

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, x, y, z) as volumes (n, 1, x, y, z) or, slices as channels, as images (n, slices, ...)."""
        boxes = padded(boxes, self.size or boxes.shape[1:])
        return boxes[:, None] if self.channels is None else np.moveaxis(boxes, AXES[self.channels] + 1, 1)

    def present(self, images: Tensor, training: bool) -> Tensor:
        """Crops (B, C, ...): drawn at random for each scan in training, else about the centre."""
        if not self.shift:
            return images
        first = 2 if self.channels is None else 1
        sizes = self._order(self.size)
        room = [have - want for have, want in zip(images.shape[first:], sizes)]
        if not training:
            return images[_window(first, [free // 2 for free in room], sizes)]
        starts = torch.stack([torch.randint(free + 1, (len(images),)) for free in room], dim=1).tolist()
        return torch.stack([image[_window(first - 1, start, sizes)] for image, start in zip(images, starts)])

    def augments(self) -> bool:
        """Whether crops move in training."""
        return self.shift > 0 or overrides(self, BioImageDataModule)

    def _order(self, sizes: Sequence[int]) -> list[int]:
        """Sizes along x, y, z in the order of an image's axes."""
        sizes = list(sizes)
        return sizes if self.channels is None else [sizes.pop(AXES[self.channels]), *sizes]


def _window(before: int, starts: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """Slices of `sizes` from `starts`, behind `before` axes that are kept whole."""
    return (*[slice(None)] * before, *(slice(start, start + size) for start, size in zip(starts, sizes)))
