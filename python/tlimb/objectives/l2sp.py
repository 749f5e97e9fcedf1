"""L2-SP: stay near the pretrained weights.

Li, Grandvalet, Davoine (2018), "Explicit inductive bias for transfer learning with convolutional networks", ICML.
"""

from torch import Tensor, nn

from tlimb.objectives.frozen import require_pretrained
from tlimb.objectives.numbers import at_least
from tlimb.objectives.term import Beginning, Step, Term


class L2SP(Term):
    r"""Omega(w) = alpha / 2 ||w_S - w_S^0||_2^2 + beta / 2 ||w_notS||_2^2.

    w_S are the weights of the pretrained encoder, w_S^0 the values they start from, w_notS the weights of the new
    heads; the norms are sums, not means. Weights are all parameters of more than one axis: the kernels of convolutions
    and the matrices of linear layers, as in the authors' code, and what else has several axes, such as the class token
    and the positions of a ViT. Biases and the scale and shift of norms are free. It takes the place of weight decay:
    set that of the optimiser to 0 to have L2-SP alone. Where the encoder is frozen, beta alone acts.

    It knows no third kind of weights: blocks that start anew, adapters and parts without weights are refused beside it.

    alpha, beta: at least 0. Raises InputError for others, and where the encoder is not pretrained: there is nothing to
    stay near.
    """

    needs = ("pretrained", "whole")
    on_features = True

    def __init__(self, alpha: float = 0.01, beta: float = 0.01):
        super().__init__()
        at_least(alpha=(alpha, 0), beta=(beta, 0))
        self.alpha, self.beta = alpha, beta

    def start(self, beginning: Beginning) -> None:
        """Copy the weights that the encoder starts from."""
        require_pretrained(beginning, "L2SP")
        for number, weight in enumerate(kernels(beginning.network.encoder)):
            self.register_buffer(f"start{number}", weight.detach().clone())

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        starts, network = list(self.buffers()), step.network
        shared = sum(
            (weight - start).square().sum() for weight, start in zip(kernels(network.encoder), starts, strict=True)
        )
        return self.alpha / 2 * shared + self.beta / 2 * squared_norm(network.heads)


def kernels(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of more than one axis: kernels of convolutions, matrices of linear layers, tokens and positions."""
    return [parameter for parameter in module.parameters() if parameter.ndim > 1]


def squared_norm(module: nn.Module) -> Tensor:
    """The sum of the squares of all kernels of a module, a scalar."""
    return sum(weight.square().sum() for weight in kernels(module))
