"""Grad-CAM: the last maps of an encoder, each weighed by what it does to an output."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.architectures.slices import AXES
from tlimb.explain.output import DoesNotApply, Output, require_gradient
from tlimb.explain.upsample import grid_of, on_grid, upsampled

Kept = list[Tensor]
"""What passed one place of a network while it was watched: leaves, so that gradients end there."""


def grad_cam(network: Network, output: Output, images: Tensor, positive: bool) -> tuple[Tensor, dict]:
    r"""sum_k alpha_k A_k, alpha_k the mean over all positions of d output / d A_k, brought to the size of the image.

    Selvaraju et al. (2017), "Grad-CAM: visual explanations from deep networks", ICCV, equations 1 and 2. A are the last
    maps that an encoder pools: its `maps`, or what the last of its blocks makes that has more than one position whose
    gradient is not zero. Positions are those of every axis of space, three in volumes. Of networks of slices each slice
    has maps and weights of its own.

    positive: what speaks against the output becomes 0, as in the paper; otherwise it stays, for quantities.
    Returns maps (B, C, ...) on the CPU, alike for all channels, and of which layer and size they are. Raises
    DoesNotApply where there are no such maps, or no gradients.
    """
    for layer, watched in _places(network.encoder):
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            with watched as kept:
                made = output(images)
            if not kept:
                continue
            require_gradient(made)
            gradients = torch.autograd.grad(made.sum(), kept[-1], allow_unused=True)[0]
        if gradients is None:
            continue
        maps, gradients = (_positions(network.encoder, part.detach(), images) for part in (kept[-1], gradients))
        if maps is not None and bool(gradients.any()):
            cam = weighed(maps, gradients)
            cam = _beside(network.encoder, cam.relu() if positive else cam, images)
            return upsampled(network.encoder, cam, images), {"layer": layer, "size": list(cam.shape[1:])}
    raise DoesNotApply("the encoder pools no maps with positions whose gradient reaches the output")


def weighed(maps: Tensor, gradients: Tensor) -> Tensor:
    """Equation 1 and the sum of equation 2: (B, K, ...) and (B, K, ...) -> (B, ...)."""
    alpha = gradients.flatten(2).mean(2)
    return (alpha.reshape(*alpha.shape, *[1] * (maps.ndim - 2)) * maps).sum(1)


def _places(encoder: nn.Module) -> Iterator[tuple[str, AbstractContextManager[Kept]]]:
    """Where maps may be had, the best place first: its name, and a context that keeps them."""
    inner = getattr(encoder, "slice_encoder", encoder)
    if hasattr(inner, "maps"):
        yield "maps" if inner is encoder else "slice_encoder.maps", _watched_maps(inner)
    for name in reversed(encoder.blocks):
        yield name, _watched_block(encoder.get_submodule(name))


def _leaf(kept: Kept, made):
    if not isinstance(made, Tensor) or made.ndim < 3:
        return made
    kept.append(made.detach().clone().requires_grad_())
    return kept[-1]


@contextmanager
def _watched_maps(encoder: nn.Module) -> Iterator[Kept]:
    """What an encoder's `maps` makes while this lasts."""
    kept, maps = [], encoder.maps
    vars(encoder)["maps"] = lambda images: _leaf(kept, maps(images))
    try:
        yield kept
    finally:
        del vars(encoder)["maps"]


@contextmanager
def _watched_block(block: nn.Module) -> Iterator[Kept]:
    """What a submodule makes while this lasts."""
    kept: Kept = []
    handle = block.register_forward_hook(lambda module, given, made: _leaf(kept, made))
    try:
        yield kept
    finally:
        handle.remove()


def _positions(encoder: nn.Module, maps: Tensor, images: Tensor) -> Tensor | None:
    """Maps (B, K, ...) on a grid with the image's axes, of slices (B * K, k, h, w); None for one position or none."""
    sliced = hasattr(encoder, "slice_encoder")
    grid = None if sliced else grid_of(encoder, images)
    if grid is not None and maps.ndim == 3:
        maps = on_grid(maps, grid)
    axes = images.ndim - 2 - sliced
    whole = len(maps) % len(images) == 0 if sliced else len(maps) == len(images)
    return maps if whole and maps.ndim == 2 + axes and prod(maps.shape[2:]) > 1 else None


def _beside(encoder: nn.Module, cam: Tensor, images: Tensor) -> Tensor:
    """The maps of slices (B * K, h, w) beside each other along the axis that is cut, (B, ...); others as they are."""
    if not hasattr(encoder, "slice_encoder"):
        return cam
    return cam.unflatten(0, (len(images), -1)).movedim(1, 1 + AXES[encoder.axis])
