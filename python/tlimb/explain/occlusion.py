"""Occlusion: how much an output falls when a part of the image is covered."""

from collections.abc import Iterator
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor

from tlimb.explain.output import Output

PARTS = (8, 6, 5, 4)
"""A patch is one of so many parts of an axis: of eight where that is not too many."""

MOST = 4000
"""Images that may pass in all: beyond it patches stand side by side instead of overlapping by half, then are larger."""


def occlusion(output: Output, images: Tensor, patch: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """At each voxel the mean over the patches that cover it of output(image) - output(image with zeros in the patch).

    Zeiler, Fergus (2014), "Visualizing and understanding convolutional networks", ECCV. Positive where what stands
    there speaks for the output. Zero is what stores hold outside of the brain, so patches that hold nothing else are
    left out.

    images: (B, C, ...); patch, stride: in voxels, for C and each further axis. The last patch along an axis ends at its
    end, cut where it does not fit. Returns (B, C, ...) on the CPU.
    """
    with torch.inference_mode():
        whole = output(images)
        total, covered = torch.zeros_like(images), torch.zeros(images.shape[1:], device=images.device)
        for place in patches(tuple(images.shape[1:]), patch, stride):
            covered[place] += 1
            there = (slice(None), *place)
            touched = images[there].flatten(1).any(1).nonzero()[:, 0]
            if len(touched):
                hidden = images[touched]
                hidden[there] = 0
                fall = whole[touched] - output(hidden)
                total[(touched, *place)] += fall.reshape(-1, *[1] * len(place))
        return (total / covered).cpu()


def patches(shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The boxes of patches over an array of this shape; together they cover it."""
    starts = [range(0, count * step, step) for count, step in zip(counts(shape, patch, stride), stride)]
    for corner in product(*starts):
        yield tuple(slice(start, min(start + width, size)) for start, width, size in zip(corner, patch, shape))


def counts(shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """Patches along each axis."""
    return [ceil(max(size - width, 0) / step) + 1 for size, width, step in zip(shape, patch, stride)]


def patch_sizes(shape: tuple[int, ...], scans: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Patch and stride for images (C, ...): an eighth of each axis of space, every half patch; where more than MOST
    images would pass, patches side by side, then larger ones. Channels of volumes are covered together; channels that
    are slices are an axis of space. Of time series (regions, time) each region is covered in turn."""
    if len(shape) == 2:
        return (1, shape[1]), (1, shape[1])
    for parts in PARTS:
        patch = tuple(ceil(size / parts) for size in shape)
        patch = (shape[0], *patch[1:]) if len(shape) == 4 else patch
        for stride in ([max(1, width // 2) for width in patch], patch) if parts == PARTS[0] else (patch,):
            if scans * prod(counts(shape, patch, stride)) <= MOST:
                return patch, tuple(stride)
    return patch, patch
