"""Tensors of one shape made into those of another, where that has a meaning."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.conv import _ConvNd


def first_convolution(module: nn.Module) -> str | None:
    """The name of the weight that meets the image's channels first; None where no convolution does."""
    found = (name for name, one in module.named_modules() if isinstance(one, _ConvNd))
    return next((f"{name}.weight".lstrip(".") for name in found), None)


def reshaped(tensor: Tensor, shape: torch.Size, is_first: bool) -> tuple[Tensor, list[str]] | None:
    """A tensor in another shape and how it came to it, in words; None where no rule leads there.

    inflated: a kernel (O, I, a, b) of slices becomes one of volumes (O, I, a, b, c), repeated along the new last axis
    and divided by its size c, so that a volume of equal slices gives what the slice gave. Carreira, Zisserman (2017),
    "Quo vadis, action recognition?", CVPR.
    folded: where the first convolution (`is_first`) has another number of channels, its weights are summed over the
    file's channels, divided by the number of the data's and given to each of these: exact for images whose channels
    are all alike, such as a grey image repeated thrice.
    squeezed: a convolution of size 1 and a linear layer are the same.
    """
    how = []
    if tensor.ndim == 4 and len(shape) == 5:
        tensor = tensor.unsqueeze(-1).expand(*tensor.shape, shape[4]) / shape[4]
        how.append("inflated")
    if tensor.ndim == len(shape) >= 3 and is_first and tensor.shape[1] != shape[1]:
        tensor = tensor.sum(1, keepdim=True).expand(-1, shape[1], *tensor.shape[2:]) / shape[1]
        how.append("folded")
    if tensor.ndim != len(shape) and _bare(tensor.shape) == _bare(shape):
        tensor = tensor.reshape(shape)
        how.append("squeezed")
    return (tensor, how) if tensor.shape == shape else None


def _bare(shape: torch.Size) -> tuple[int, ...]:
    """A weight's shape without the kernel's trailing ones."""
    sizes = list(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def absorbed_biases(own: set[str], tensors: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Biases that the module lacks, each right before a batch norm that can take it over, exactly:
    BN(Wx + b) with mean m is BN(Wx) with mean m - b. Yields (bias, running mean, its new value).

    In a sequence the batch norm bears the next number: ``downsample.0.bias`` and ``downsample.1.running_mean``.
    """
    for name, bias in tensors.items():
        place, _, last = name.rpartition(".")
        before, _, number = place.rpartition(".")
        if last != "bias" or name in own or not number.isdigit() or f"{place}.weight" not in own:
            continue
        mean = f"{before}.{int(number) + 1}.running_mean".lstrip(".")
        if mean in own and mean in tensors and tensors[mean].shape == bias.shape:
            yield name, mean, tensors[mean] - bias


def with_class_position(tensors: dict[str, Tensor], token: str, positions: str) -> dict[str, Tensor]:
    """Position codes (1, n + 1, d) whose first belongs to the class token, as a module has them whose codes (1, n, d)
    are of patches alone: the first is added to the token (1, 1, d), which is the same."""
    codes, start = tensors[positions], tensors[token]
    return tensors | {token: start + codes[:, :1], positions: codes[:, 1:]}


def resized(codes: Tensor, grid: tuple[int, ...]) -> Tensor | None:
    """Position codes (1, n, d) of a square or cube of patches for another grid, interpolated between them as
    Dosovitskiy et al. (2021), section 3.2, do; None where n is no square or cube."""
    side = round(codes.shape[1] ** (1 / len(grid)))
    if side ** len(grid) != codes.shape[1] or len(grid) not in (2, 3):
        return None
    image = codes.transpose(1, 2).unflatten(2, (side,) * len(grid)).float()
    way = {2: "bicubic", 3: "trilinear"}[len(grid)]
    return interpolate(image, size=tuple(grid), mode=way, align_corners=False).flatten(2).transpose(1, 2)
