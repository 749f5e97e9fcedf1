"""Volumes cut into slices, and the 2D encoders that look at them."""

import inspect
from dataclasses import replace

from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.arguments import PLACE, require_given
from tlimb.architectures.slice_cnn import SliceCNN, he_initialise
from tlimb.errors import InputError, Problem

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of space, of a volume in RAS order, that is cut."""


def cut(volumes: Tensor, axis: str, neighbours: int = 1, repeat: int = 1) -> Tensor:
    """Slices (B, K, channels, H, W) of volumes (B, C, X, Y, Z), all of them, in the order of the axis.

    neighbours: slices that lie side by side as the channels of one, so that K is `neighbours - 1` less than the axis is
    long. repeat: how often the channels are repeated.
    """
    place = 2 + AXES[axis]
    if neighbours > 1:
        return volumes[:, 0].unfold(place - 1, neighbours, 1).movedim((place - 1, -1), (1, 2))
    slices = volumes.movedim(place, 1)
    return slices.repeat(1, 1, repeat, 1, 1) if repeat > 1 else slices


def standing(embeddings: Tensor, axis: str) -> Tensor:
    """Embeddings of slices (B, K, F) as maps of a volume, (B, F, K, 1, 1) with K at the place of the axis."""
    maps = embeddings.transpose(1, 2)[..., None, None]
    return maps.movedim(2, 2 + AXES[axis])


def lying(maps: Tensor) -> Tensor:
    """Maps (B, F, ...) of which one axis is longer than 1, as embeddings of slices (B, K, F)."""
    return maps.flatten(2).transpose(1, 2)


def slice_shape(input_shape: tuple[int, ...], axis: str) -> tuple[int, int]:
    """Height and width of the slices of volumes (C, X, Y, Z)."""
    lengths = list(input_shape[1:])
    del lengths[AXES[axis]]
    return tuple(lengths)


def build_slice_encoder(spec: str | dict, input_shape: tuple[int, int, int], owner: str) -> nn.Module:
    """A 2D architecture for slices (channels, H, W), by its short name or {"class_path", "init_args"}.

    owner: the architecture that it belongs to, for messages. Raises InputError for what is no 2D architecture.
    """
    where = f"architecture {owner}, slice_encoder"
    spec = {"class_path": spec} if isinstance(spec, str) else spec
    name, arguments = spec.get("class_path", ""), dict(spec.get("init_args", {}))
    problems = registry.check("architecture", name, arguments, where)
    unknown = sorted(set(spec) - {"class_path", "init_args"})
    problems += [Problem(f"{where}.{key}", "unknown key", "expected class_path and init_args") for key in unknown]
    if problems:
        raise InputError(problems)
    encoder_class = registry.load("architecture", name)
    wanted = inspect.signature(encoder_class).parameters
    given = {"dims": 2, "in_channels": input_shape[0], "input_shape": input_shape}
    if 2 not in getattr(encoder_class, "kinds", ()) or arguments.get("dims", 2) != 2:
        raise InputError([Problem(where, f"expected an encoder of 2D images, found {name}", "SliceCNN, ResNet, Timm")])
    arguments |= {key: value for key, value in given.items() if key in wanted}
    require_given(encoder_class, arguments, f"{where}.init_args")
    try:
        return encoder_class(**arguments)
    except InputError as error:
        own = [replace(problem, where=problem.where.replace(PLACE, f"{where}.init_args")) for problem in error.problems]
        raise InputError(own) from None


def projection_of(slice_encoder: nn.Module, width: int) -> nn.Module:
    """One linear layer from a slice's features to `width`.

    The published code has a 1x1 convolution after its own slice encoder and a matrix after a ResNet: the same sum, with
    weights of another shape.
    """
    if not isinstance(slice_encoder, SliceCNN):
        return nn.Linear(slice_encoder.features, width)
    return Pointwise(slice_encoder.features, width)


class Pointwise(nn.Conv2d):
    """Features (n, F) -> (n, width) by a 1x1 convolution over one position."""

    def __init__(self, features: int, width: int):
        super().__init__(features, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, F) -> (n, width)."""
        return super().forward(features[..., None, None]).flatten(1)


def initialise_as(slice_encoder: nn.Module, layers: list[nn.Module]) -> None:
    """Layers beside a slice encoder that was initialised by He's rule: convolutions by that rule too, matrices normal
    with standard deviation 0.01, biases zero. Beside other slice encoders they stay as they are."""
    if getattr(slice_encoder, "initialisation", "torch") != "he":
        return
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            he_initialise(layer)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
