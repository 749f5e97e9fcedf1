"""Penalties that make weights or codes sparse."""

from torch import Tensor, nn

from tlimb.architectures.network import Network


class L1Weights(nn.Module):
    r"""weight * sum_i |w_i| over all parameters of the network, encoder and heads, but for biases.

    Atanaszov, Ritter (2019), "Transfer Learning for MRI", report; as in their code, trans-MRI, a bias is what has
    "bias" in its name, so that scales of batch norm count as weights, and the sum is not divided by anything.
    """

    def __init__(self, weight: float = 1e-6):
        super().__init__()
        self.weight = weight

    def start(self, network: Network, pretrained: bool) -> None:
        """Nothing to remember."""

    def forward(self, network: Network, batch, outputs) -> Tensor:
        """The penalty, a scalar."""
        counted = [parameter for name, parameter in network.named_parameters() if "bias" not in name]
        return self.weight * sum(parameter.abs().sum() for parameter in counted)


class L1Code(nn.Module):
    r"""weight * mean over scans of sum_i |h_i|, h the encoder's maps: the code of an autoencoder.

    Goodfellow, Bengio, Courville (2016), "Deep learning", MIT Press, section 14.2.1 (sparse autoencoders).
    """

    heads = {"code": {"class_path": "CodeHead", "init_args": {}}}

    def __init__(self, weight: float = 1e-6):
        super().__init__()
        self.weight = weight

    def start(self, network: Network, pretrained: bool) -> None:
        """Nothing to remember."""

    def forward(self, network: Network, batch, outputs: dict[str, Tensor]) -> Tensor:
        """The penalty, a scalar."""
        return self.weight * outputs["code"].abs().sum(dim=1).mean()
