"""L2-SP: stay near the pretrained weights.

Li, Grandvalet, Davoine (2018), "Explicit inductive bias for transfer learning with convolutional networks", ICML.
"""

import torch
from torch import Tensor, nn

from tlimb.errors import InputError, Problem
from tlimb.objectives.term import Beginning, Step, Term


class L2SP(Term):
    r"""Omega(w) = alpha / 2 ||w_S - w_S^0||_2^2 + beta / 2 ||w_notS||_2^2.

    w_S are the weights of the pretrained encoder, w_S^0 the values they start from, w_notS the weights of the new
    heads; the norms are sums, not means. As in the authors' code, weights are the kernels of convolutions and the
    matrices of linear layers: biases and the scale and shift of batch norm are free. It takes the place of weight
    decay: set that of the optimiser to 0 to have L2-SP alone.

    It knows no third kind of weights: blocks that start anew, adapters and parts without weights are refused beside it.

    alpha, beta: at least 0. Raises InputError where the encoder is not pretrained: there is nothing to stay near.
    """

    needs = ("pretrained", "whole")
    on_features = True

    def __init__(self, alpha: float = 0.01, beta: float = 0.01):
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def start(self, beginning: Beginning) -> None:
        """Copy the weights that the encoder starts from."""
        if not beginning.pretrained:
            message = "there is no pretrained encoder to stay near"
            raise InputError(
                [Problem("objective.auxiliary: L2SP", message, "leave it out where training is from scratch")]
            )
        for number, weight in enumerate(_weights(beginning.network.encoder)):
            self.register_buffer(f"start{number}", weight.detach().clone())

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        starts, network = list(self.buffers()), step.network
        shared = sum(
            (weight - start).square().sum() for weight, start in zip(_weights(network.encoder), starts, strict=True)
        )
        new = sum(weight.square().sum() for weight in _weights(network.heads))
        return self.alpha / 2 * shared + self.beta / 2 * new


def _weights(module: nn.Module) -> list[torch.nn.Parameter]:
    """Kernels and matrices: what has more than one axis."""
    return [parameter for parameter in module.parameters() if parameter.ndim > 1]
