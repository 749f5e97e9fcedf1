"""The one number of a network's outputs that is explained."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tlimb.architectures.network import Network
from tlimb.data.targets import Target

Output = Callable[[Tensor], Tensor]
"""Images (B, C, ...) on the network's device -> (B,)."""

UNITS = {"classification": "log-odds", "multilabel": "log-odds", "ordinal": "classes", "survival": "log-hazard"}
"""What an explained number of each kind is counted in; a quantity's is its own unit."""


class DoesNotApply(Exception):
    """A method says nothing about this network; the message says why."""


def explained_output(network: Network, target: Target, outcome: int | None = None) -> Output:
    """What is explained of a head: images (B, C, ...) -> (B,). outcome: the number of a class, for kinds that need one.

    With outputs o: of classes the log-odds of one, log(p_c / (1 - p_c)) = o_c - log sum_{j != c} exp(o_j); of several
    classes at once o_c, which are log-odds too; of ordered classes the number of the class that is expected,
    sum_j P(y > j) = sum_j prod_{i <= j} 1 / (1 + exp(-o_i)); of quantities the prediction in the label's unit; of times
    until an event the logarithm of the hazard.
    """

    def output(images: Tensor) -> Tensor:
        return value_of(target, network(images, [target.name])[target.name].float(), outcome)

    return output


def value_of(target: Target, outputs: Tensor, outcome: int | None) -> Tensor:
    """(B, outputs) -> (B,): see `explained_output`."""
    if target.kind == "classification":
        others = [number for number in range(outputs.shape[1]) if number != outcome]
        return outputs[:, outcome] - outputs[:, others].logsumexp(1)
    if target.kind == "multilabel":
        return outputs[:, outcome]
    if target.kind == "ordinal":
        return outputs.sigmoid().cumprod(1).sum(1)
    if target.kind == "survival":
        return outputs[:, 0]
    if target.bins is not None:
        return outputs.softmax(1) @ torch.as_tensor(np.asarray(target.bins.centres, "float32"), device=outputs.device)
    return outputs[:, 0] * target.sd


def gradient(output: Output, images: Tensor) -> Tensor:
    """d output / d images, of the shape of images. Raises DoesNotApply where there is none."""
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        images = images.detach().requires_grad_()
        made = output(images).sum()
        require_gradient(made)
        return torch.autograd.grad(made, images)[0]


def require_gradient(made: Tensor) -> None:
    """Raises DoesNotApply for a number that torch can't differentiate."""
    if not made.requires_grad:
        raise DoesNotApply("its output has no gradient in the image")
