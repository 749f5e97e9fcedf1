"""Heads that training without labels asks for: the decoder that fits an encoder, and its code as it is."""

from typing import Literal

from torch import Tensor, nn

from tlimb import registry
from tlimb.architectures.unet_decoder import UNetDecoder


class Decoder(nn.Module):
    """What an encoder makes of images -> images (B, C, ...): the encoder's own decoder, else a UNetDecoder.

    output: what the image ends in; where null what that decoder prefers.
    """

    def __init__(
        self,
        encoder: nn.Module,
        input_shape: tuple,
        output: Literal["sigmoid", "elu", "relu", "linear"] | None = None,
    ):
        super().__init__()
        own = getattr(encoder, "decoder_head", None)
        decoder = registry.load("head", own) if own else UNetDecoder
        self.body = decoder(encoder=encoder, input_shape=input_shape, output=output)
        self.takes = self.body.takes

    def forward(self, given: Tensor | list[Tensor]) -> Tensor:
        """The reconstruction of levels or maps."""
        return self.body(given)


class CodeHead(nn.Module):
    """Maps (B, channels, ...) -> (B, numbers): the code as it is, flattened. L1Code asks for it."""

    takes = "maps"

    def __init__(self, encoder: nn.Module):
        super().__init__()

    def forward(self, maps: Tensor) -> Tensor:
        """The code of each image, flattened."""
        return maps.flatten(1)
