"""Learning rates over the epochs."""

import math
from inspect import signature

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tlimb import registry
from tlimb.errors import InputError, Problem
from tlimb.files import canonical_json

LENGTHS = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps"}
"""The argument of one of torch's schedulers that is the number of epochs where the user leaves it open."""


class WarmupCosine(LRScheduler):
    r"""Linear warm-up, then half a cosine down to a floor.

    With w warm-up epochs of E in all and the floor f, epoch i (from 1) learns at its rate times

        i / (w + 1)                                              for i <= w,
        f + (1 - f) (1 + cos(pi (i - 1 - w) / (E - w))) / 2      after them.

    Goyal et al. (2017), "Accurate, large minibatch SGD"; Loshchilov, Hutter (2017), "SGDR", ICLR. Without warm-up it is
    CosineAnnealingLR with T_max = E and eta_min = f times the rate.

    warmup: epochs, fewer than there are. floor: share of the full rate, 0 to 1. epochs: those of the stage.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, warmup: int = 5, floor: float = 0.0):
        if not 0 <= warmup < epochs or not 0 <= floor <= 1:
            message = f"expected 0 <= warmup < {epochs} epochs and 0 <= floor <= 1, found {warmup} and {floor}"
            raise InputError([Problem("scheduler: WarmupCosine", message)])
        self.epochs, self.warmup, self.floor = epochs, warmup, floor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        """The rate of each group in the epoch that begins."""
        return [rate * self._factor(self.last_epoch) for rate in self.base_lrs]

    def _factor(self, passed: int) -> float:
        if passed < self.warmup:
            return (passed + 1) / (self.warmup + 1)
        share = (passed - self.warmup) / (self.epochs - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2


def build_optimizer(spec: dict, groups: list[dict], trusted=()) -> Optimizer:
    """The optimiser of a stage over groups of parameters, in each step of which a group learns at its `scale` times the
    rate that is set, whatever a scheduler sets: schedulers know nothing of scales and keep their ratios."""
    optimizer = _made("optimizer", registry.load("optimizer", spec["class_path"], trusted), groups, spec["init_args"])
    if any(group["scale"] != 1 for group in groups):
        rates: list = []

        def scaled(optimizer, args, kwargs) -> None:
            rates[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * group["scale"]

        def restored(optimizer, args, kwargs) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        optimizer.register_step_pre_hook(scaled)
        optimizer.register_step_post_hook(restored)
    return optimizer


def build_scheduler(spec: dict, optimizer: Optimizer, epochs: int, trusted=()):
    """The scheduler, laid out for all epochs: a length that one of torch's needs and the user left open is their
    number, and so is an argument `epochs` of any other."""
    arguments = dict(spec["init_args"])
    made = registry.load("scheduler", spec["class_path"], trusted)
    length = LENGTHS.get(made.__name__) or ("epochs" if "epochs" in signature(made).parameters else None)
    if length is not None:
        arguments.setdefault(length, epochs)
    return _made("scheduler", made, optimizer, arguments)


def _made(kind: str, made: type, of, arguments: dict):
    """An optimizer or scheduler of something; what its class refuses is told with the class and its arguments."""
    try:
        return made(of, **arguments)
    except (TypeError, ValueError) as error:
        message = f"{made.__name__} refuses {canonical_json(arguments)}: {error}"
        raise InputError([Problem(f"{kind}.init_args", message)]) from error
