"""Running means of weights, as what is validated and kept."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from tlimb.scenarios.processes import average_tensors


class Average:
    """The mean of a network's weights over steps (ema) or over the ends of epochs (swa).

    ema: after each step m <- d m + (1 - d) w, beginning with m = w after the first one (Polyak, Juditsky 1992;
    Tarvainen, Valpola 2017, "Mean teachers"), for parameters and for running statistics alike. swa: the plain mean of
    the parameters at the ends of all epochs from `start` on (Izmailov et al. 2018, "Averaging weights leads to wider
    optima", UAI), with running statistics that the caller measures anew for it.

    Numbers of batches are copied. Where several processes train, running statistics of the mean are at the end of each
    epoch the mean over processes, so that all go on from the same ones. There is no mean before its first update.
    Adapters are averaged, not what they give.
    """

    def __init__(self, spec: dict, network: nn.Module):
        self.kind, self.start, self.network = spec["kind"], spec["start"], network
        self._update = get_swa_multi_avg_fn() if self.kind == "swa" else get_ema_multi_avg_fn(spec["decay"])
        self._mean: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}
        self._count = 0

    def after_step(self) -> None:
        """Called after each step of the optimiser."""
        if self.kind == "ema":
            self._add()

    def after_epoch(self, epoch: int) -> None:
        """Called at the end of each epoch, counted from 1, before it is validated."""
        if self.kind == "swa" and epoch >= self.start:
            self._add()
        statistics = dict(self.network.named_buffers()).keys() & self._mean.keys()
        average_tensors(tensor for name, tensor in self._mean.items() if name in statistics)

    @torch.no_grad()
    def _add(self) -> None:
        now = self.network.state_dict()
        if self._count == 0:
            self._mean = {name: tensor.detach().clone() for name, tensor in now.items()}
        else:
            names = [name for name, tensor in now.items() if tensor.is_floating_point()]
            self._update([self._mean[name] for name in names], [now[name] for name in names], self._count)
            for name in now.keys() - set(names):
                self._mean[name].copy_(now[name])
        self._count += 1

    @torch.no_grad()
    def swap_in(self) -> bool:
        """Put the mean into the network, its own weights aside; False, and nothing done, where there is no mean yet."""
        if self._count == 0:
            return False
        own = self.network.state_dict()
        self._own = {name: tensor.detach().clone() for name, tensor in own.items()}
        for name, tensor in own.items():
            tensor.copy_(self._mean[name])
        return True

    @torch.no_grad()
    def swap_out(self) -> None:
        """Give the network its own weights back, if they were put aside."""
        for name, tensor in self.network.state_dict().items() if self._own else ():
            tensor.copy_(self._own[name])
        self._own = {}

    def state(self) -> dict:
        """What is kept of it between tasks."""
        return {"count": self._count, "mean": self._mean}

    def load(self, state: dict) -> None:
        """Go on from a kept state, laid out in memory as the network's tensors are."""
        own = self.network.state_dict()
        self._count = state["count"]
        self._mean = {name: torch.empty_like(own[name]).copy_(tensor) for name, tensor in state["mean"].items()}


def moving_statistics(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of a network in training mode whose running statistics move."""
    return [
        of for of in network.modules() if isinstance(of, _BatchNorm) and of.training and of.running_mean is not None
    ]


@torch.no_grad()
def measure_statistics(network: nn.Module, batches, forward) -> None:
    """Running statistics as the plain mean over `batches`, each passed through `forward`, in the network's own mode.

    As torch.optim.swa_utils.update_bn does; those of normalisations in evaluation mode do not move.
    """
    moving = {of: of.momentum for of in moving_statistics(network)}
    for norm in moving:
        norm.reset_running_stats()
        norm.momentum = None
    for batch in batches if moving else ():
        forward(batch)
    for norm, momentum in moving.items():
        norm.momentum = momentum
