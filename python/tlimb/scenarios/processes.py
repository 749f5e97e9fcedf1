"""Several processes that train one network together, each on its part of every batch."""

import os
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import BatchSampler, DataLoader

LEAST = 2
"""Scans of every batch that a process is given at least, for batch norm needs company."""


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many train together."""
    return int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Copies(DDPStrategy):
    """Whole copies of the network, without DistributedDataParallel around them: the scenario adds gradients itself.

    That one decides when it is made which parameters have gradients; here these change with the epoch and the terms.
    """

    def _setup_model(self, model: nn.Module) -> nn.Module:
        share_start(model)
        return model

    def _register_ddp_hooks(self) -> None:
        """None: they belong to the wrapper."""


class Turns(BatchSampler):
    """Whole batches in turn: number `rank`, `rank` + `size`, ... of 0 .. n-1 in batches of `most` scans or fewer.

    Every process has as many batches: where blocks of an encoder are divided, each pass needs all processes. Where n
    has no room for that, batches are larger. n: at least `size`.
    """

    def __init__(self, n: int, most: int, rank: int, size: int):
        each = -(-n // (most * size))
        count = min(each, n // size) * size
        self.batches = [part.tolist() for part in torch.arange(n).tensor_split(count)][rank::size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches


def with_sampler(loader: DataLoader, batches: BatchSampler) -> DataLoader:
    """A loader that gives other batches of the same scans."""
    return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn, num_workers=0)


def gathered(value) -> list:
    """`value` of every process, in their order; its tensors on the CPU where there is more than one."""
    if not dist.is_initialized():
        return [value]
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, move_data_to_device(value, torch.device("cpu")))
    return parts


@torch.no_grad()
def add_gradients(parameters: Sequence[nn.Parameter], count: float) -> float:
    """Sum gradients of whole parameters over processes, in place, and return the sum of `count`.

    A parameter that has a gradient in some process has one in all afterwards, the others counting as 0.
    """
    if not dist.is_initialized():
        return count
    device = parameters[0].device
    learned = [of for of in parameters if of.requires_grad and not isinstance(of, DTensor)]
    flat = [(torch.zeros_like(of) if of.grad is None else of.grad).flatten().float() for of in learned]
    known = torch.tensor([*(float(of.grad is not None) for of in learned), count], device=device)
    together = torch.cat([*flat, known])
    dist.all_reduce(together)
    *known, count = together[-len(known) :].tolist()
    for of, gradient, anywhere in zip(learned, together[: -len(learned) - 1].split([f.numel() for f in flat]), known):
        of.grad = gradient.view_as(of).to(of.dtype).clone() if anywhere else None
    return count


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Give every process the mean over processes of the module's buffers, such as running statistics."""
    average_tensors(module.buffers())


@torch.no_grad()
def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the mean over processes of tensors, in place; those of whole numbers stay as they are."""
    if dist.is_initialized():
        for tensor in (of for of in tensors if of.is_floating_point()):
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


@torch.no_grad()
def share_start(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)
