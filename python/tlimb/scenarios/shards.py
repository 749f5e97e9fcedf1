"""An encoder of which every process holds a part: its weights, their gradients and what the optimiser keeps of them.

Zhao et al. (2023), "PyTorch FSDP: experiences on scaling fully sharded data parallel", VLDB. Heads and what terms learn
are small and stay whole, so that a process may have no label for one of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from tlimb.scenarios.processes import Copies

METHODS = ("maps", "levels", "pool", "visible")
"""What of an encoder is called beside its forward."""


class Shards(Copies):
    """Processes that each hold a part of every block of the encoder."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        super()._setup_model(model)
        shard(model.network.encoder, self.root_device.type, self.world_size)
        return model


def shard(encoder: nn.Module, device: str, size: int) -> None:
    """Divide an encoder over all processes: each block that has no parameters beside its submodules' is put together
    while it is used, the rest while the encoder is; encoders may look at what stands in a block itself."""
    mesh = init_device_mesh(device, (size,))
    for parameter in encoder.parameters():
        parameter.data = parameter.data.contiguous()
    named = dict(encoder.named_modules())
    for block in (named[name] for name in encoder.blocks if name in named):
        held = isinstance(block, (nn.ModuleList, nn.ModuleDict)) or any(True for _ in block.parameters(recurse=False))
        if not held and any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
    for name in METHODS:
        if hasattr(encoder, name):
            register_fsdp_forward_method(encoder, name)


def divided(tensor: Tensor) -> bool:
    """Whether every process holds a part of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A whole tensor laid out as a parameter of its shape is: divided as it, or in the same order in memory."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor).detach()


def groups_apart(groups: Sequence[dict]) -> list[dict]:
    """Groups of parameters for an optimiser, those with both kinds divided in two: it cannot step them at once."""
    found = []
    for group in groups:
        kinds = [[of for of in group["params"] if divided(of) is kind] for kind in (False, True)]
        found += [group | {"params": params} for params in kinds if params]
    return found


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale gradients, in place, so that the norm of all of them together is at most `most`."""
    gradients = [of.grad for of in parameters if of.grad is not None]
    kinds = [[of for of in gradients if divided(of) is kind] for kind in (False, True)]
    norms = [float(whole(torch.nn.utils.get_total_norm(of))) for of in kinds if of]
    share = most / (sum(norm**2 for norm in norms) ** 0.5 + 1e-6)
    for of in kinds:
        if of and share < 1:
            torch._foreach_mul_(of, share)
