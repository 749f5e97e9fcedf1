"""Whether a network can take the data's images, found by one pass in shapes alone, before anything trains."""

import copy
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem

BATCH = 2
"""Images of a trial pass."""


def trial_pass(module: nn.Module, input_shape: tuple[int, ...]):
    """What a module in evaluation mode makes of two images (C, ...): tensors without memory, or of zeros really.

    A module that asks its tensors for numbers cannot pass without them, so what fails in shapes alone is tried with
    zeros, whose error is raised if that fails too. The module and torch's generator stay as they were.
    """
    with torch.no_grad(), kept_generator():
        try:
            return weightless(module).eval()(torch.empty(BATCH, *input_shape, device="meta"))
        except Exception:
            lacking = {tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]}
            if lacking == {True}:
                raise
            images = torch.zeros(BATCH, *input_shape, device="cpu")
            return _evaluated(_with_memory(module) if True in lacking else module, images)


def weightless(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters and buffers have their shapes but no memory; recurrences take one step."""
    light = _copy(module, lambda tensor: torch.empty_like(tensor, device="meta"))
    for part in light.modules():
        if isinstance(part, nn.RNNBase):
            part.forward = _one_step(part, part.forward)
    return light


def _evaluated(module: nn.Module, images: Tensor):
    mode = module.training
    try:
        return module.eval()(images)
    finally:
        module.train(mode)


def _with_memory(module: nn.Module) -> nn.Module:
    """A copy of a module with zeros for what has no memory."""
    return _copy(module, lambda tensor: torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.clone())


def _copy(module: nn.Module, replaced: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module with other tensors as its parameters and buffers."""
    new = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        other = replaced(tensor.detach())
        is_parameter = isinstance(tensor, nn.Parameter)
        new[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if is_parameter else other
    return copy.deepcopy(module, new)


def _one_step(recurrence: nn.RNNBase, forward):
    """A recurrence's forward that makes all its outputs of the first: without memory torch spends 1 ms on each step."""

    def stepped(series, state=None):
        if not isinstance(series, Tensor):
            return forward(series, state)
        time = 1 if recurrence.batch_first and series.ndim == 3 else 0
        steps = series.shape[time]
        outputs, state = forward(series.narrow(time, 0, 1), state)
        return outputs.repeat_interleave(steps, dim=time), state

    return stepped


@contextmanager
def kept_generator():
    """Torch's generator on the CPU is afterwards what it was before."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def require_smallest(name: str, encoder: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Raises InputError where an axis of the images is shorter than the encoder's `smallest` allows."""
    least, size = getattr(encoder, "smallest", None), input_shape[1:]
    if least is None:
        return
    least = (least,) * len(size) if isinstance(least, int) else tuple(least)
    if any(have < need for have, need in zip(size, least)):
        units = "time points" if len(size) == 1 else "voxels"
        message = f"needs at least {by(least)} {units}, the data have {by(size)}"
        raise InputError([Problem(f"architecture {name}", message)])


def check_network(name: str, network: Network, input_shape: tuple[int, ...], outputs: dict[str, int | None]) -> None:
    """Raises InputError, with both shapes, where images, encoder and heads do not fit each other.

    name: of the architecture; input_shape: (C, ...); outputs: head -> its width, for those that have one.
    """
    try:
        made = trial_pass(network, input_shape)
    except Exception as error:
        _blame(name, network, input_shape, error)
    wrong = []
    for head, width in outputs.items():
        found = shape_of(made[head])
        if width is not None and found != (BATCH, width):
            message = f"gives {_one(found)} for an image, its target needs {(width,)}"
            wrong.append(Problem(f"heads.{head}", message, "its constructor is told by the argument `outputs`"))
    if wrong:
        raise InputError(wrong)


def shape_of(made) -> tuple[int, ...] | str:
    """The shape of what a module gives, or the name of its type where that is no tensor."""
    return tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__


def told(error: Exception, module: nn.Module | type) -> str:
    """An error in one line, with the place in the file of the class where it comes from there."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    source = getattr(sys.modules.get(_class(module).__module__), "__file__", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    place = f", in {frames[-1].name}, line {frames[-1].lineno} of {source}" if frames else ""
    return f"{type(error).__name__}: {text}{place}"


def by(size) -> str:
    """(40, 30, 40) as 40x30x40."""
    return "x".join(map(str, size))


def _blame(name: str, network: Network, input_shape: tuple[int, ...], error: Exception) -> None:
    """Raise the InputError of whichever fails alone: the encoder, or the heads one by one."""
    encoder, where = network.encoder, f"architecture {name}"
    shown = f"images of shape {input_shape} (channels first)"
    try:
        features = shape_of(trial_pass(encoder, input_shape))
    except Exception as own:
        raise InputError([Problem(where, f"cannot take {shown}: {told(own, encoder)}")]) from own
    if features != (BATCH, encoder.features):
        message = f"makes {_one(features)} of {shown}, and says that it has {encoder.features} features"
        raise InputError([Problem(where, message)]) from error
    problems = []
    for head, module in zip(network.names, network.heads):
        try:
            trial_pass(Network(encoder, {head: module}), input_shape)
        except Exception as own:
            problems.append(Problem(f"heads.{head}", f"does not fit {name} on {shown}: {told(own, module)}"))
    raise InputError(problems or [Problem(where, f"does not pass {shown}: {told(error, encoder)}")]) from error


def _one(shape):
    """The shape for one image."""
    return shape[1:] if isinstance(shape, tuple) else shape


def _class(module: nn.Module | type) -> type:
    return module if isinstance(module, type) else type(module)
