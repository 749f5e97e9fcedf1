"""The device that trains, and torch set up so that it gives the same numbers every time."""

import os
import sys
from contextlib import contextmanager

import torch


def set_up_torch(threads: int, training: bool) -> None:
    """Use `threads` threads and deterministic algorithms.

    Where nothing trains only cuDNN is told: forward passes need no more, and torch's own switch imports for seconds.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if training:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False


@contextmanager
def deterministic(wanted: bool):
    """Within it torch gives the same numbers on every run, or, where that is not wanted, whatever is fastest."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = wanted, not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1], False


def find_device() -> torch.device:
    """The GPU where one answers, else the CPU; says so where TLIMB_ACCELERATOR=gpu asked for a GPU in vain."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("TLIMB_ACCELERATOR") == "gpu":
        print("no GPU answers: training on the CPU", file=sys.stderr)
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """ "cpu", or what the GPU calls itself."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
