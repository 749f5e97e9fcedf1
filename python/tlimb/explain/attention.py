"""Attention: what share of it each slice, position or patch gets, where a network attends."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.architectures.slice_set import AttentionPool
from tlimb.architectures.slices import AXES
from tlimb.explain.output import DoesNotApply
from tlimb.explain.upsample import grid_of, upsampled

DROPOUTS = ("drop_weights", "attn_drop")
"""What MONAI and timm call the layer that attention passes once it is a softmax."""


def attention(network: Network, target: str, images: Tensor) -> tuple[Tensor, dict]:
    """Maps (B, C, ...) on the CPU of the attention that each voxel's place gets, as a multiple of an even share.

    In this order: of the head of `target`, if it pools positions by attention; of the slices of a set, the mean over
    its heads of attention; of the patches of a transformer, see `rollout`. The dictionary says of what (`of`), and for
    slices their `axis` and `weights` (B, K), each row with the sum 1. Raises DoesNotApply for networks without such
    attention.
    """
    encoder, head = network.encoder, network.head(target)
    with torch.inference_mode():
        if hasattr(head, "attention"):
            maps = encoder.maps(images)
            return _positions(encoder, head.attention(maps), maps.shape[2:], images)
        if isinstance(getattr(encoder, "aggregation", None), AttentionPool):
            shares = encoder.slice_weights(images).mean(1)
            return _of_slices(encoder, shares, images)
        grid, shares = _patches(network, images)
        maps = shares.unflatten(1, grid) * prod(grid)
        return upsampled(encoder, maps, images), {"of": "patches"}


def _positions(encoder: nn.Module, shares: Tensor, size: tuple, images: Tensor) -> tuple[Tensor, dict]:
    """Shares (B, N) of a head's attention over maps of a size."""
    if hasattr(encoder, "slice_encoder"):
        return _of_slices(encoder, shares, images)
    grid = grid_of(encoder, images)
    if len(size) == 1 and grid is not None:
        shares, size = shares[:, shares.shape[1] - prod(grid) :], grid
    if len(size) != images.ndim - 2:
        raise DoesNotApply("the positions that the head attends to are no places of the image")
    return upsampled(encoder, shares.unflatten(1, tuple(size)) * shares.shape[1], images), {"of": "positions"}


def _of_slices(encoder: nn.Module, shares: Tensor, images: Tensor) -> tuple[Tensor, dict]:
    sizes = [1] * (images.ndim - 2)
    sizes[AXES[encoder.axis]] = shares.shape[1]
    maps = upsampled(encoder, shares.reshape(-1, *sizes) * shares.shape[1], images)
    return maps, {"of": "slices", "axis": encoder.axis, "weights": shares.float().cpu()}


def rollout(layers: list[Tensor]) -> Tensor:
    r"""A_L ... A_2 A_1, A_l = (W_l + I) / 2, W_l the mean over heads of a layer's attention: (B, N, N), rows sum to 1.

    Abnar, Zuidema (2020), "Quantifying attention flow in transformers", ACL: how much of each token on the way in
    reaches each token on the way out, if nothing but attention and the shortcut around it moved anything.

    layers: (B, heads, N, N) each, in their order.
    """
    count = layers[0].shape[-1]
    eye = torch.eye(count, device=layers[0].device)
    flow = eye.expand(len(layers[0]), count, count)
    for layer in layers:
        flow = (layer.float().mean(1) + eye) / 2 @ flow
    return flow


def _patches(network: Network, images: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The grid of patches, and the share of each (B, patches) in what is pooled."""
    encoder = network.encoder
    grid = grid_of(encoder, images)
    with _watched(encoder) as layers:
        network.encode(images)
    if not layers:
        raise DoesNotApply("the network has no layer of attention that can be looked at")
    count = layers[0].shape[-1]
    before = count - prod(grid) if grid else -1
    if not 0 <= before <= 5 or any(layer.shape != (len(images), *layers[0].shape[1:]) for layer in layers):
        raise DoesNotApply("its attention is within windows or other parts of the image, not over all of it")
    flow = rollout(layers)
    pooled = flow[:, before:].mean(1) if _pools_all(encoder, before) else flow[:, 0]
    shares = pooled[:, before:]
    return grid, shares / shares.sum(1, keepdim=True)


def _pools_all(encoder: nn.Module, before: int) -> bool:
    """Whether features are the mean over patches, not the first token."""
    pooling = getattr(encoder, "pooling", None) or getattr(getattr(encoder, "model", None), "global_pool", None)
    return pooling in ("mean", "avg") or (pooling is None and before == 0)


@contextmanager
def _watched(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """The softmax of every layer of attention (B, heads, N, N) that images pass while this lasts."""
    layers: list[Tensor] = []
    owners = [module for module in encoder.modules() if any(hasattr(module, name) for name in DROPOUTS)]
    fused = [module for module in owners if getattr(module, "fused_attn", False)]
    drops = [getattr(module, name) for module in owners for name in DROPOUTS if hasattr(module, name)]
    drops = [drop for drop in drops if isinstance(drop, nn.Module)]
    handles = [drop.register_forward_hook(lambda module, given, made: layers.append(made)) for drop in drops]
    for module in fused:
        module.fused_attn = False
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
        for module in fused:
            module.fused_attn = True
