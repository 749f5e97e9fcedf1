"""Networks made from their specification and the shape of the data, reproducibly."""

import inspect
from contextlib import contextmanager

import torch

from tlimb import registry
from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem
from tlimb.seeds import seed_for

HINTS = {
    1: "time series come from a recipe of kind series and SeriesDataModule",
    2: "set `slices` of the data module",
    3: "leave out `slices` of the data module, or set dims to 2",
}
"""What brings images with so many axes of space."""


def build_network(
    architecture: dict, input_shape: tuple[int, ...], outputs: dict[str, int], seed: int, trusted=()
) -> Network:
    """A fresh network: weights depend on the seed alone, those of each head on the seed and its target's name.

    architecture: {"class_path", "init_args"}; input_shape: (C, ...) of one image; outputs: target -> width of its head.
    Raises InputError where the encoder does not fit the data.
    """
    with _seeded(seed_for(seed, "init", "encoder")):
        network = Network(_build_encoder(architecture, tuple(input_shape), trusted), outputs)
    for target, head in zip(network.targets, network.heads):
        with _seeded(seed_for(seed, "init", "head", target)):
            head.reset_parameters()
    return network.to(memory_format=torch.channels_last) if len(input_shape) == 3 else network


def _build_encoder(architecture: dict, input_shape: tuple[int, ...], trusted) -> torch.nn.Module:
    name, arguments = architecture["class_path"], architecture["init_args"]
    encoder_class = registry.load("architecture", name, trusted)
    links = {"in_channels": input_shape[0], "input_shape": input_shape}
    typed = sorted(set(links) & set(arguments))
    if typed:
        raise InputError(
            [Problem(f"architecture.init_args.{key}", "is decided by the data; leave it out") for key in typed]
        )
    wanted = inspect.signature(encoder_class).parameters
    encoder = encoder_class(**arguments, **{key: value for key, value in links.items() if key in wanted})
    lacking = [attribute for attribute in ("features", "blocks") if not hasattr(encoder, attribute)]
    if lacking:
        raise InputError([Problem(f"architecture {name}", f"is no encoder: it has no `{item}`") for item in lacking])
    dims = getattr(encoder, "dims", None)
    if dims is not None and dims != len(input_shape) - 1:
        message = f"takes images with {dims} axes, the data have {len(input_shape) - 1}"
        raise InputError([Problem(f"architecture {name}", message, HINTS.get(dims, ""))])
    return encoder


@contextmanager
def _seeded(seed: int):
    """Torch's generator on the CPU set to `seed` within, and as it was afterwards."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
