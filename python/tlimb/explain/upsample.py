"""From the coarse grid of maps or patches to the voxels of an image."""

from math import prod

from torch import Tensor, nn
from torch.nn.functional import interpolate

MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def grid_of(encoder: nn.Module, images: Tensor) -> tuple[int, ...] | None:
    """The grid of an encoder whose positions are tokens; of a series' tokens its time points. None for others."""
    grid = getattr(encoder, "grid", None)
    if grid is None and encoder.dims == 1:
        return tuple(images.shape[2:])
    return tuple(grid) if grid is not None else None


def on_grid(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Tokens (B, K, N) or (B, N, K) as (B, K, *grid), without those that stand before the patches; others as they
    are."""
    count = prod(grid)
    if not count <= tokens.shape[2] <= count + 5 and count <= tokens.shape[1] <= count + 5:
        tokens = tokens.transpose(1, 2)
    before = tokens.shape[2] - count
    return tokens[:, :, before:].unflatten(2, grid) if 0 <= before <= 5 else tokens


def upsampled(encoder: nn.Module, maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, ...) of an encoder, brought to the size of its images (B, C, ...) linearly, alike in all channels, on
    the CPU. What an encoder puts after the end of an axis is cut off."""
    whole = interpolate(maps[:, None].detach().float().cpu(), covered(encoder, images), mode=MODES[images.ndim])
    within = (slice(None), slice(None), *(slice(0, length) for length in images.shape[2:]))
    return whole[within].expand(images.shape)


def covered(encoder: nn.Module, images: Tensor) -> list[int]:
    """The size of images with what an encoder puts after the end of each axis."""
    size = list(images.shape[2:])
    if getattr(encoder, "patch", None):
        return list(encoder.size)
    after = list(getattr(encoder, "padding", []))[1::2][::-1]
    return [length + more for length, more in zip(size, after)] if after else size
