"""A cross-entropy that counts scans less the better they are told apart already.

Lin, Goyal, Girshick, He, Dollar (2017), "Focal loss for dense object detection", ICCV.
"""

from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.class_weights import weights_of_classes


class Focal(nn.Module):
    r"""-w_y (1 - p_y)^gamma log p_y of each scan of class y; p = softmax(output).

    The paper's equation 5, with its alpha as the weight w_k of each class: 1, `class_weights` as a list or by the names
    of classes, or "balanced", n / (K n_k) with n_k of n training scans. The mean over scans is
    sum_i loss_i / sum_i w_{y_i}, so that gamma 0 is `CrossEntropy` with these weights.

    Raises InputError for a gamma that is negative or not finite, and for weights that do not fit the classes.
    """

    kinds = ("classification",)

    def __init__(
        self,
        gamma: float = 2.0,
        class_weights: Literal["balanced"] | list[float] | dict | None = None,
        *,
        target: Target,
    ):
        super().__init__()
        if not 0 <= gamma < inf:
            raise InputError([Problem("gamma", f"expected a number of at least 0, found {gamma}")])
        self.gamma = float(gamma)
        self.register_buffer("weights", weights_of_classes(class_weights, target), persistent=False)

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Outputs (B, K) and classes (B,) -> (B,)."""
        surprise = cross_entropy(output, label, reduction="none")
        # a power below 1 has no slope at 0, where a class is certain
        missed = (-torch.expm1(-surprise)).clamp(min=torch.finfo(output.dtype).tiny)
        return self.counted(label).to(output.dtype) * missed**self.gamma * surprise

    def counted(self, label: Tensor) -> Tensor:
        """What each scan counts in the mean, (B,): the weight of its class."""
        return self.weights[label]
