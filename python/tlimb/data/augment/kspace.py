"""Images weighted in k-space along one axis: the direction in which a scanner encodes phase, line after line."""

from collections.abc import Iterator

import torch
from torch import Tensor


def lines(images: Tensor, axis: int) -> Tensor:
    """The frequencies 0, 1, ..., size // 2 of spatial axis `axis`; those below 0 are their conjugates."""
    return torch.fft.rfft(images, dim=2 + axis)


def image_of(spectrum: Tensor, axis: int, size: int) -> Tensor:
    """The images whose `lines` these are."""
    return torch.fft.irfft(spectrum, n=size, dim=2 + axis)


def weighted(spectrum: Tensor, axis: int, weights: Tensor) -> Tensor:
    """`lines` of images (n, C, ...) with each frequency multiplied by its weight, (n, frequencies)."""
    shape = [len(weights)] + [1] * (spectrum.ndim - 1)
    shape[2 + axis] = weights.shape[1]
    return spectrum * weights.to(spectrum.device).reshape(shape)


def by_axis(axes: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each axis that stands in `axes` (n,), with the places where it does."""
    for axis in axes.unique().tolist():
        yield axis, (axes == axis).nonzero()[:, 0]
