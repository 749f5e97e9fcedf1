"""Networks made from their specification and the shape of the data, reproducibly, and held against that shape."""

import inspect
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from tlimb import registry
from tlimb.architectures.arguments import PLACE, require_given
from tlimb.architectures.network import Network, takes
from tlimb.architectures.size_check import check_network, kept_generator, require_smallest, told, trial_pass
from tlimb.architectures.wrapped import foreign_arguments, is_encoder, output_shape, wrap
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json
from tlimb.seeds import seed_for

HINTS = {
    1: "time series come from a recipe of kind series and SeriesDataModule",
    2: "set `slices` of the data module",
    3: "leave out `slices` of the data module, or set dims to 2",
}
"""What brings images with so many axes of space."""

NEEDED = {"features": (), "maps": ("maps", "pool", "channels"), "levels": ("levels", "maps", "pool")}
"""What an encoder must have for a head that takes these."""

_fitting: set[str] = set()
"""Networks and shapes that were found to fit in this process."""

_made: dict[str, tuple[int, ...]] = {}
"""The shapes of what modules of others made of images in this process."""


def build_network(
    architecture: dict,
    input_shape: tuple[int, ...],
    outputs: dict[str, int],
    seed: int,
    trusted=(),
    heads: dict[str, dict] | None = None,
    recipe: dict | None = None,
) -> Network:
    """A fresh network: weights depend on the seed alone, those of each head on the seed and its name.

    architecture: {"class_path", "init_args"}; input_shape: (C, ...) of one image; outputs: head -> its width, for those
    that have one. heads: head -> {"class_path", "init_args"}, where it is not what the encoder's class prefers, mostly
    a LinearHead. recipe: how scans were prepared, for encoders that ask for it. A class of anybody's that is no encoder
    is wrapped as one. Raises InputError where images, encoder and heads do not fit each other, which a pass in shapes
    alone tells.
    """
    heads, input_shape = heads or {}, tuple(input_shape)
    with _seeded(seed_for(seed, "init", "encoder")):
        encoder = _build_encoder(architecture, input_shape, trusted, recipe)
    built = {}
    for name in dict.fromkeys([*outputs, *heads]):
        with _seeded(seed_for(seed, "init", "head", name)):
            built[name] = _build_head(name, heads.get(name), encoder, outputs.get(name), input_shape, trusted)
    network = Network(encoder, built)
    key = canonical_json([architecture, input_shape, outputs, heads, recipe])
    if key not in _fitting:
        check_network(architecture["class_path"], network, input_shape, outputs)
        _fitting.add(key)
    turned = len(input_shape) == 3 and network.channels_last
    return network.to(memory_format=torch.channels_last) if turned else network


def _build_head(
    name: str, spec: dict | None, encoder: nn.Module, outputs: int | None, input_shape: tuple[int, ...], trusted
) -> nn.Module:
    class_path = (spec or {}).get("class_path") or getattr(encoder, "default_head", "LinearHead")
    head_class = registry.load("head", class_path, trusted)
    _require_methods(name, class_path, head_class, encoder)
    links = {"encoder": encoder, "outputs": outputs, "input_shape": input_shape}
    head = _construct(f"heads.{name}", head_class, spec["init_args"] if spec else {}, links)
    _require_methods(name, class_path, head, encoder)
    return head


def _require_methods(name: str, class_path: str, head: nn.Module | type, encoder: nn.Module) -> None:
    """That the encoder has what a head takes; its class may say so, or the head once its arguments are known."""
    lacking = [method for method in NEEDED[takes(head)] if not hasattr(encoder, method)]
    if lacking:
        message = f"{class_path} needs an encoder with {' and '.join(lacking)}; this one gives features alone"
        raise InputError([Problem(f"heads.{name}", message)])


def _build_encoder(architecture: dict, input_shape: tuple[int, ...], trusted, recipe) -> nn.Module:
    name, arguments = architecture["class_path"], architecture["init_args"]
    where, encoder_class = f"architecture {name}", registry.load("architecture", name, trusted)
    if encoder_class.__module__.startswith("torch."):
        hint = "name a class of your own that puts torch's layers together in its constructor"
        raise InputError([Problem(where, "is a part of networks, whose arguments JSON cannot give", hint)])
    links = {"in_channels": input_shape[0], "input_shape": input_shape, "recipe": recipe}
    typed = sorted(set(links) & set(arguments))
    if typed:
        raise InputError(
            [Problem(f"architecture.init_args.{key}", "is decided by the data; leave it out") for key in typed]
        )
    _require_axes(where, getattr(encoder_class, "dims", None), input_shape)
    if not _is_own(encoder_class):
        links |= {key: value for key, value in foreign_arguments(input_shape).items() if key not in arguments}
    require_given(encoder_class, {*arguments, *links}, PLACE)
    encoder = _construct(where, encoder_class, arguments, links)
    if not is_encoder(encoder):
        encoder = _wrapped(encoder, architecture, input_shape, recipe)
    _require_axes(where, getattr(encoder, "dims", None), input_shape)
    require_smallest(name, encoder, input_shape)
    return encoder


def _is_own(kind: type) -> bool:
    return kind.__module__.startswith("tlimb.")


def _construct(where: str, kind: type, arguments: dict, links: dict) -> nn.Module:
    """A module of a class, with those links that its constructor has arguments for; its errors told as the user's.

    Classes of others always get memory, since they may ask their tensors for numbers.
    """
    wanted = inspect.signature(kind).parameters
    try:
        with nullcontext() if _is_own(kind) else torch.device("cpu"):
            built = kind(**arguments, **{key: value for key, value in links.items() if key in wanted})
    except InputError:
        raise
    except Exception as error:
        raise InputError([Problem(where, f"cannot be built: {told(error, kind)}")]) from error
    if not isinstance(built, nn.Module):
        raise InputError([Problem(where, "is no torch.nn.Module")])
    return built


def _wrapped(module: nn.Module, architecture: dict, input_shape: tuple[int, ...], recipe) -> nn.Module:
    """A module of others as an encoder, by what it makes of images of this shape."""
    name, key = architecture["class_path"], canonical_json([architecture, input_shape, recipe])
    if key not in _made:
        try:
            made = trial_pass(module, input_shape)
        except Exception as error:
            message = f"cannot take images of shape {input_shape} (channels first): {told(error, module)}"
            raise InputError([Problem(f"architecture {name}", message)]) from error
        _made[key] = output_shape(made, input_shape, name)
    return wrap(module, _made[key], len(input_shape) - 1)


def _require_axes(where: str, dims, input_shape: tuple[int, ...]) -> None:
    if isinstance(dims, int) and dims != len(input_shape) - 1:
        message = f"takes images with {dims} axes, the data have {len(input_shape) - 1}"
        raise InputError([Problem(where, message, HINTS.get(dims, ""))])


@contextmanager
def _seeded(seed: int):
    """Torch's generator on the CPU set to `seed` within, and as it was afterwards."""
    with kept_generator():
        torch.manual_seed(seed)
        yield
