"""The order of an encoder's parameters on an image's way, and what stays fixed of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from tlimb.errors import Problem, nearest

INSIDE = "parametrizations"
"""The submodule in which torch keeps what was set beside a weight."""


@dataclass(frozen=True)
class Slot:
    """A module (parameter None), or one of the parameters that are its own.

    block: number of its block, from 0. beside: the parameter belongs to an adapter of the module.
    """

    name: str
    block: int
    module: nn.Module
    parameter: nn.Parameter | None = None
    beside: bool = False


def slots_of(encoder: nn.Module) -> list[Slot]:
    """Every module of an encoder, each followed by its own parameters, in the order in which an image passes them.

    Blocks stand in the order of `encoder.blocks`, what is within one in the order of its definition. What lies in no
    block goes with the block that is defined before it, or with the first.
    """
    parts: list[list[Slot]] = [[] for _ in encoder.blocks or [""]]
    block = 0
    for name, module in encoder.named_modules():
        if INSIDE in name.split("."):
            continue
        block = next((place for place, part in enumerate(encoder.blocks) if _within(name, part)), block)
        parts[block].append(Slot(name, block, module))
        for own, parameter, beside in _own(module):
            parts[block].append(Slot(f"{name}.{own}".lstrip("."), block, module, parameter, beside))
    return [slot for part in parts for slot in part]


def _own(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, whether an adapter's) of a module's own parameters, by the names they have without adapters."""
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter, False
    for weight, inside in getattr(module, INSIDE, {}).items():
        for name, parameter in inside.named_parameters():
            beside = not name.startswith("original")
            yield weight if name == "original" else f"{weight}.{name}", parameter, beside


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def place_of(name: str, slots: Sequence[Slot]) -> int:
    """The place in `slots` of a block, submodule or parameter; raises KeyError where the encoder has none."""
    for place, slot in enumerate(slots):
        if slot.name == name and name:
            return place
    raise KeyError(name)


def unknown(name: str, encoder: nn.Module, where: str) -> Problem:
    """The problem of a name that the encoder does not have, with the nearest that it has."""
    names = [slot.name for slot in slots_of(encoder) if slot.name and not slot.beside]
    hint = nearest(name, names) or f"its blocks: {', '.join(encoder.blocks)}"
    return Problem(where, f"the encoder has no block, submodule or parameter '{name}'", hint)


def is_bias(slot: Slot) -> bool:
    """Whether a slot holds a bias: of a layer, a normalisation (its shift), an attention or a recurrent network."""
    last = slot.name.rpartition(".")[2]
    return slot.parameter is not None and not slot.beside and (last.endswith("bias") or last.startswith("bias_"))


def is_norm(slot: Slot) -> bool:
    """Whether a slot holds a scale or shift of a normalisation, whoever wrote its class."""
    return slot.parameter is not None and not slot.beside and "norm" in type(slot.module).__name__.lower()


def fixed_modules(slots: Sequence[Slot], trained: Iterable[Slot], begin: int) -> list[nn.Module]:
    """The modules that stay in evaluation mode: statistics do not move there, and there is no dropout.

    These are the modules all of which stands before the place `begin`, those with parameters of their own not all of
    which are among `trained`, and, where not everything from `begin` on is, normalisations without parameters.
    Recurrent layers that gradients pass stay in training mode, without which a GPU has no gradients of theirs.
    """
    trained = {id(slot.parameter) for slot in trained}
    opened = {prefix for slot in slots[begin:] for prefix in _prefixes(slot.name)}
    resting = {id(of.module) for of in slots if _rests(of, trained) and not isinstance(of.module, nn.RNNBase)}
    selective = any(_rests(slot, trained) for slot in slots[begin:])
    bare = {id(slot.module) for slot in slots if isinstance(slot.module, _NormBase) and not slot.module.affine}
    return [
        slot.module
        for slot in slots
        if slot.parameter is None
        and (slot.name not in opened or id(slot.module) in resting or (selective and id(slot.module) in bare))
    ]


def _rests(slot: Slot, trained: set[int]) -> bool:
    return slot.parameter is not None and id(slot.parameter) not in trained


def _prefixes(name: str) -> list[str]:
    parts = name.split(".") if name else []
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]
