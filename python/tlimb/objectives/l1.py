"""Penalties that make weights or codes sparse."""

from torch import Tensor

from tlimb.objectives.term import Step, Term


class L1Weights(Term):
    r"""sum_i |w_i| over all parameters of the network, encoder and heads, but for biases.

    Atanaszov, Ritter (2019), "Transfer Learning for MRI", report; as in their code, trans-MRI, a bias is what has
    "bias" in its name, so that scales of batch norm count as weights, and the sum is not divided by anything.
    """

    default_weight = 1e-6
    on_features = True

    def __init__(self):
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        counted = [parameter for name, parameter in step.network.named_parameters() if "bias" not in name]
        return sum(parameter.abs().sum() for parameter in counted)


class L1Code(Term):
    r"""mean over scans of sum_i |h_i|, h the encoder's maps: the code of an autoencoder.

    Goodfellow, Bengio, Courville (2016), "Deep learning", MIT Press, section 14.2.1 (sparse autoencoders).
    """

    needs = ("moving",)
    default_weight = 1e-6
    heads = {"code": {"class_path": "CodeHead", "init_args": {}}}

    def __init__(self):
        super().__init__()

    def forward(self, step: Step) -> Tensor:
        """The penalty, a scalar."""
        return step.outputs["code"].abs().sum(dim=1).mean()
