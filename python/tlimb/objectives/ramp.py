"""Weights that move while training goes on."""

import math


def weight_at(weight: float | dict, progress: float) -> float:
    """The weight at a moment of training. weight: a number, or the fields of `tlimb.config.Ramp`, which says what the
    curves are. progress: 0 at the first step, 1 at the last one."""
    if not isinstance(weight, dict):
        return float(weight)
    share = CURVES[weight["ramp"]](min(progress / weight["until"], 1.0))
    return (1 - share) * weight["start"] + share * weight["end"]


def dann(x: float) -> float:
    """2 / (1 + exp(-10 x)) - 1: Ganin et al. (2016), "Domain-adversarial training of neural networks", JMLR, sec. 5."""
    return 2 / (1 + math.exp(-10 * x)) - 1


CURVES = {
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
    "sigmoid": lambda x: math.exp(-5 * (1 - x) ** 2),
    "dann": dann,
    "step": lambda x: float(x >= 1),
}
"""Ramp -> where between start and end the weight is, for x from 0 to 1."""
