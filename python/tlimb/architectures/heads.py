"""Heads: from what an encoder makes of an image to the outputs for one target, or to what self-supervision compares."""

from typing import Literal

from torch import Tensor, nn


class LinearHead(nn.Linear):
    """Features (B, F) -> (B, outputs), one linear layer."""

    def __init__(self, encoder: nn.Module, outputs: int):
        super().__init__(encoder.features, outputs)


class MLPHead(nn.Sequential):
    """Features (B, F) -> (B, outputs): layers of `hidden` widths with ReLU and dropout, then a linear one.

    hidden: at least 1 each; dropout: the share of a hidden layer that is set to 0 in training. What the encoder's
    `head_dropout` does to the features comes before.
    """

    def __init__(self, encoder: nn.Module, outputs: int, hidden: int | list[int] = 128, dropout: float = 0.0):
        widths = [encoder.features, *([hidden] if isinstance(hidden, int) else hidden)]
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(widths[-1], outputs))


class AttentionPoolHead(nn.Module):
    r"""Maps (B, C, ...) -> (B, outputs): gated attention over positions, then a linear layer.

        z = sum_n a_n h_n,    a_n = softmax_n w^T (tanh(V h_n) * s(U h_n)),

    h_n the C channels at position n, s the sigmoid, V and U (hidden, C) with biases as in the authors' code. It takes
    the place of the encoder's own pooling. Ilse, Tomczak, Welling (2018), "Attention-based deep multiple instance
    learning", ICML, equations 7 and 9.

    dropout: the share of z that is set to 0 in training.
    """

    takes = "maps"

    def __init__(self, encoder: nn.Module, outputs: int, hidden: int = 128, dropout: float = 0.0):
        super().__init__()
        self.attend = nn.Linear(encoder.channels, hidden)
        self.gate = nn.Linear(encoder.channels, hidden)
        self.weigh = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(encoder.channels, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, ...), positions last -> (B, outputs)."""
        positions = maps.flatten(2).transpose(1, 2)
        return self.classify(self.dropout((self.attention(maps)[:, :, None] * positions).sum(1)))

    def attention(self, maps: Tensor) -> Tensor:
        """What each position weighs (B, N); the weights of an image sum to 1."""
        positions = maps.flatten(2).transpose(1, 2)
        return self.weigh(self.attend(positions).tanh() * self.gate(positions).sigmoid())[:, :, 0].softmax(1)


class ProjectionHead(nn.Sequential):
    """Features (B, F) -> (B, width), where contrastive terms compare images: a head without a target.

    `layers` linear layers; all but the last are `hidden` wide (F where null) and followed by ReLU. With batch_norm each
    of them is batch-normalised and has no bias of its own, the last one without a shift, as the authors' code has it;
    "hidden" leaves the last one linear, without a bias, as in the projectors of VICReg and Barlow Twins; without, they
    are plain linear layers, as the text. Weights start as torch's linear layers do. Chen, Kornblith,
    Norouzi, Hinton (2020), "A simple framework for contrastive learning of visual representations" (SimCLR), ICML.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: int = 2,
        hidden: int | None = None,
        width: int = 128,
        batch_norm: bool | Literal["hidden"] = True,
    ):
        inner = hidden or encoder.features
        widths = [encoder.features, *[inner] * (layers - 1), width]
        parts = []
        for place, (before, after) in enumerate(zip(widths, widths[1:]), start=1):
            parts.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm is True or (batch_norm == "hidden" and place < layers):
                parts.append(_Scaled(after) if place == layers else nn.BatchNorm1d(after))
            if place < layers:
                parts.append(nn.ReLU())
        super().__init__(*parts)


class PredictionHead(nn.Module):
    """Features (B, F) -> (B, width): a projection, and a prediction made of it, for terms in which one network predicts
    what another projects: a head without a target.

    Both are linear (with bias), batch norm, ReLU, linear (without bias), `hidden` and `width` wide, as in the authors'
    code. Weights start as torch's linear layers do. Grill et al. (2020), "Bootstrap your own latent: a new approach to
    self-supervised learning" (BYOL), NeurIPS.
    """

    def __init__(self, encoder: nn.Module, hidden: int = 4096, width: int = 256):
        super().__init__()
        self.projection = _perceptron(encoder.features, hidden, width)
        self.prediction = _perceptron(width, hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        """The prediction (B, width)."""
        return self.prediction(self.projection(features))

    def project(self, features: Tensor) -> Tensor:
        """The projection (B, width) alone, what is predicted."""
        return self.projection(features)


def _perceptron(features: int, hidden: int, width: int) -> nn.Sequential:
    norm, last = nn.BatchNorm1d(hidden), nn.Linear(hidden, width, bias=False)
    return nn.Sequential(nn.Linear(features, hidden), norm, nn.ReLU(), last)


class _Scaled(nn.BatchNorm1d):
    """Batch norm with a scale and a shift that stays 0."""

    def __init__(self, features: int):
        super().__init__(features)
        self.bias = None
