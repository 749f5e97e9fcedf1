"""Networks that compute in 16 bits where that is safe, beside losses in 32."""

from contextlib import contextmanager
from types import MethodType

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor, nn

from tlimb.architectures.network import Network, Passed
from tlimb.errors import InputError, Problem

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
METHODS = ("passed", "passed_features", "encode", "predict", "visible")
LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""A stage's `precision` -> what Lightning calls it."""


def check_precision(stage: dict, device: torch.device) -> None:
    """Raises InputError for float16 on a CPU, which has no way to compute in it."""
    if stage["trainer"]["precision"] == "16" and device.type == "cpu":
        where = f"stages.{stage['name']}.trainer.precision"
        raise InputError([Problem(where, "'16' needs a GPU, and training runs on the CPU", "expected 'bf16' or '32'")])


@contextmanager
def lowered(root: nn.Module, precision: str, device: torch.device):
    """Within it every network in `root` passes images under autocast and gives float32; nothing else does.

    Teachers and other copies that terms hold are networks too.
    """
    networks = [of for of in root.modules() if isinstance(of, Network)] if precision != "32" else []
    for network in networks:
        for name in METHODS:
            setattr(network, name, MethodType(_in_low(name, DTYPES[precision], device.type), network))
    try:
        yield
    finally:
        for network in networks:
            for name in METHODS:
                delattr(network, name)


def _in_low(name: str, dtype: torch.dtype, device: str):
    """A method of Network under autocast."""
    plain = getattr(Network, name)

    def low(network: Network, *args, **kwargs):
        with torch.autocast(device, dtype):
            made = plain(network, *args, **kwargs)
        if isinstance(made, Passed):
            return Passed(made.features.float(), apply_to_collection(made.outputs, Tensor, Tensor.float))
        return apply_to_collection(made, Tensor, Tensor.float)

    return low
