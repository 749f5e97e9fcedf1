"""U-Net-like decoder: from what any encoder makes of an image back to an image."""

import copy
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tlimb.architectures.cae import ACTIVATIONS
from tlimb.errors import InputError, Problem

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
GROUP, MOST = 8, 256
"""Channels normalised together, and the most that a step gives."""


class UNetDecoder(nn.Module):
    """Maps or levels of an encoder -> images (B, C, ...) of the shape of its input, for 1, 2 or 3 axes of space.

    After Ronneberger, Fischer, Brox (2015), "U-Net: Convolutional networks for biomedical image segmentation", MICCAI.
    From the encoder's maps on, each step doubles every axis, or less, by the nearest position, adds as channels what
    the encoder had at that size, if `skips`, and has one convolution 3 wide, group norm in groups of 8 and ReLU.
    Channels are halved from step to step, to 256 at most, down to `width`; a convolution 1 wide gives the image.

    skips: take the encoder's levels of every size. They let an image through without the encoder's last blocks, so
    leave them off where an encoder is pretrained by plain reconstruction, and set them for masked reconstruction.
    width: channels at full size, rounded up to a multiple of 8. output: what the image ends in, "linear" where null.
    Raises InputError for an encoder that has no maps or whose maps have other axes than its images.
    """

    def __init__(
        self,
        encoder: nn.Module,
        input_shape: tuple,
        skips: bool = False,
        width: int = 16,
        output: Literal["sigmoid", "elu", "relu", "linear"] | None = None,
    ):
        super().__init__()
        self.takes = "levels" if skips else "maps"
        self.grid = getattr(encoder, "grid", None)
        if not hasattr(encoder, self.takes):
            raise _refusal(f"needs an encoder with {self.takes}; {type(encoder).__name__} gives features alone")
        shapes = [tuple(self._as_images(level).shape[1:]) for level in _shown(encoder, input_shape, self.takes)]
        dims, *skipped = len(input_shape) - 1, *shapes[:-1]
        channels, *size = shapes[-1]
        if len(size) != dims:
            found = f"those of {type(encoder).__name__} have {len(size)}"
            raise _refusal(f"needs maps with {dims} axes of space, as the images have; {found}")
        least = -(-width // GROUP) * GROUP
        self.sizes, self.places, self.steps = [], [], nn.ModuleList()
        for target, place in _plan(size, input_shape[1:], [shape[1:] for shape in skipped]):
            outputs = min(max(least, channels // 2 // GROUP * GROUP), max(least, MOST))
            extra = 0 if place is None else skipped[place][0]
            convolution = CONVOLUTIONS[dims](channels + extra, outputs, 3, padding=1, bias=False)
            self.steps.append(nn.Sequential(convolution, nn.GroupNorm(outputs // GROUP, outputs), nn.ReLU()))
            self.sizes.append(target)
            self.places.append(place)
            channels = outputs
        self.last = nn.Sequential(CONVOLUTIONS[dims](channels, input_shape[0], 1), ACTIVATIONS[output or "linear"]())

    def forward(self, given: Tensor | list[Tensor]) -> Tensor:
        """The reconstruction, (B, C, ...)."""
        *skipped, images = [self._as_images(level) for level in (given if isinstance(given, list) else [given])]
        for size, place, step in zip(self.sizes, self.places, self.steps):
            images = enlarged(images, size)
            images = step(images if place is None else torch.cat([images, skipped[place]], 1))
        return self.last(images)

    def _as_images(self, level: Tensor) -> Tensor:
        """Tokens (B, channels, N) on the encoder's grid, without a class token before them; others as they are."""
        if self.grid is None or level.ndim == len(self.grid) + 2:
            return level
        return level[..., -prod(self.grid) :].unflatten(-1, self.grid)


def enlarged(images: Tensor, sizes: Sequence[int]) -> Tensor:
    """Images (B, C, ...) brought to `sizes` by the nearest position.

    Where each axis comes out twice as long, give or take one, it is doubled and cut or its last position repeated, so
    that position i of the smaller image, made by strides of two, lies at 2i.
    """
    if any(abs(2 * have - want) > 1 for have, want in zip(images.shape[2:], sizes)):
        return interpolate(images, size=list(sizes), mode="nearest")
    images = interpolate(images, scale_factor=2.0, mode="nearest")
    for axis, want in enumerate(sizes, start=2):
        if images.shape[axis] < want:
            images = torch.cat([images, images.narrow(axis, -1, 1)], axis)
        images = images.narrow(axis, 0, want)
    return images


def _plan(
    size: Sequence[int], target: Sequence[int], levels: list[Sequence[int]]
) -> list[tuple[list[int], int | None]]:
    """The sizes on the way to `target`, at least one, each with the number of the level to add there, if any."""
    size, target, steps = list(size), list(target), []
    for place in reversed(range(len(levels))):
        level = list(levels[place])
        if level == size or not all(have <= want <= full for have, want, full in zip(size, level, target)):
            continue
        steps += [(between, None) for between in _doublings(size, level)[:-1]] + [(level, place)]
        size = level
    return steps if steps and size == target else [*steps, *((between, None) for between in _doublings(size, target))]


def _doublings(size: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """Sizes from `size` (left out) to `target`, each at most twice the one before and one more."""
    sizes = [list(target)]
    while any(2 * have + 1 < first for have, first in zip(size, sizes[0])):
        sizes.insert(0, [max(have, -(-first // 2)) for have, first in zip(size, sizes[0])])
    return sizes


def _shown(encoder: nn.Module, input_shape: tuple, takes: str) -> list[Tensor]:
    """The levels of one image, or its maps alone, as tensors without numbers: their shapes are what is wanted."""
    tensors = chain(encoder.parameters(), encoder.buffers())
    twin = copy.deepcopy(encoder, {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}).eval()
    image = torch.empty(1, *input_shape, device="meta")
    with torch.no_grad():
        return twin.levels(image) if takes == "levels" else [twin.maps(image)]


def _refusal(message: str) -> InputError:
    return InputError([Problem("heads.reconstruction: UNetDecoder", message)])
