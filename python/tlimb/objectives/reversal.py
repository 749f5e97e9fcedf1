"""Gradient reversal, and the small networks that stand behind it."""

import math

import torch
from torch import Tensor, nn

from tlimb.errors import InputError, Problem
from tlimb.objectives.ramp import dann
from tlimb.objectives.term import Step


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return -ctx.strength * gradient, None


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    r"""R(x) = x, with dR/dx = -lambda I: what comes after learns as ever, what comes before learns the opposite.

    strength: lambda, at least 0. Ganin et al. (2016), "Domain-adversarial training of neural networks", JMLR 17.
    """
    return _Reversal.apply(x, strength)


def strength_at(step: Step, schedule: bool) -> float:
    """lambda_p = 2 / (1 + exp(-10 p)) - 1, p the progress of training from 0 to 1 (Ganin et al. 2016), or 1 at any
    time where there is no schedule."""
    return dann(step.progress) if schedule else 1.0


class Adversary(nn.Sequential):
    """Features (B, F) -> (B, outputs) in float32: `depth` layers of `width` with ReLU, then a linear one.

    It has neither dropout nor batch norm, so that its mode makes no difference and a batch may have one scan.
    """

    def __init__(self, features: int, outputs: int, width: int, depth: int):
        widths = [features, *[width] * depth]
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Raw outputs."""
        return super().forward(features.float()).float()


def require_at_least(**arguments: tuple[float, float]) -> None:
    """That numbers are finite and not below their least values. arguments: name -> (value, least one).

    Raises InputError that names all others.
    """
    problems = [
        Problem(name, f"expected at least {least}, found {value}")
        for name, (value, least) in arguments.items()
        if not (math.isfinite(value) and value >= least)
    ]
    if problems:
        raise InputError(problems)
