"""What the layers of an encoder make of images on their way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tlimb.architectures.freezing import unknown
from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem


def first(output):
    """A layer's output, or the first of several: of a recurrent layer its states."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def watched(encoder: nn.Module, layers: Sequence[str], kept: Callable = first) -> Iterator[list[tuple[str, Tensor]]]:
    """Within it, (layer, what is kept of what it made) of each pass of a layer, in their order.

    What is kept is no copy: where the next layer overwrites its input, as some activations do, it is what that made.
    """
    made: list[tuple[str, Tensor]] = []

    def keep(name: str):
        return lambda module, inputs, output: made.append((name, kept(output)))

    hooks = [encoder.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


def with_first(output, value):
    """A layer's output with another value in the place of the first, or only one."""
    return (value, *output[1:]) if isinstance(output, tuple) else value


def channel_axis(maps: Tensor, encoder: nn.Module) -> int:
    """The axis of a layer's channels: the second one, but the last one of tokens (B, N, channels), which is what three
    axes mean where images have two or three, and in an encoder of series where the last axis alone is as wide as its
    features."""
    width = getattr(encoder, "channels", encoder.features)
    tokens = maps.ndim == 3 and (encoder.dims > 1 or (maps.shape[2] == width != maps.shape[1]))
    return 2 if tokens else 1


def chosen_layers(network: Network, layers: Sequence[str] | None, input_shape: tuple[int, ...], where: str) -> dict:
    """Layer -> its number of channels, of those named, or of all blocks where None; seen on a pass of two empty images.

    Raises InputError for names that the encoder has not, and layers that no image passes or that give no tensor.
    """
    encoder = network.encoder
    known = {name for name, _ in encoder.named_modules() if name}
    asked = enumerate(layers or ())
    problems = [unknown(name, encoder, f"{where}.layers[{place}]") for place, name in asked if name not in known]
    if problems:
        raise InputError(problems)
    names = [_last(encoder, name) for name in encoder.blocks] if layers is None else list(layers)
    with torch.no_grad(), watched(encoder, names) as made:
        network.encode(torch.zeros(2, *input_shape))
    found = {name: maps for name, maps in made if isinstance(maps, Tensor) and maps.ndim > 1}
    lacking = [name for name in names if name not in found]
    if lacking and layers is not None:
        message = "gives no tensor of what an image becomes"
        raise InputError([Problem(f"{where}.layers", f"{name} {message}") for name in lacking])
    if not found:
        raise InputError([Problem(where, "no block of the encoder gives a tensor of what an image becomes")])
    return {name: maps.shape[channel_axis(maps, encoder)] for name, maps in found.items()}


def _last(encoder: nn.Module, block: str) -> str:
    """A block, or the last of its parts where it is a mere list of them."""
    part = encoder.get_submodule(block)
    return _last(encoder, f"{block}.{len(part) - 1}") if isinstance(part, nn.ModuleList) and len(part) else block
