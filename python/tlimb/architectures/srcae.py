"""Strided residual-concatenation autoencoder of trans-MRI."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout2d, dropout3d, interpolate

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.cae import (
    ACTIVATIONS,
    CONVOLUTIONS,
    TRANSPOSED,
    CodeEncoder,
    code_size,
    start_as_trans_mri,
    within_unit,
)

HIDDEN = 7
CHANNELS = (8, 16, 16)
PADDING = (1, 0, 1)
"""What the code adds at the end of each axis in the decoder's first block."""


class SRCAE(CodeEncoder):
    """Encoder of a strided residual-concatenation autoencoder, (B, in_channels, ...) -> the flattened code.

    Atanaszov, Ritter (2019), "Transfer Learning for MRI", report; code: trans-MRI, `StridedAutoEncoder`. Three blocks:

        h = dropout(ELU(convolution 3 wide of x)),        7 channels
        out = ELU(convolution 4 wide, stride 2, no padding, of [h, x]),    8, 16, 16 channels

    with [ , ] the concatenation of channels; dropout leaves out whole channels. Weights start from He's normal
    distribution, biases from 0. The text has the order x, h: `first`; it names ReLU where the code has ELU:
    `activation`. Targets get CodeClassifier, as in `EncoderClassifier`; the autoencoder with a classifier is LinearHead
    with `head_dropout` 0.5.

    dims: 2 for slices, 3 for volumes. dropout: p within blocks. pooling: "none", features are the code, flattened;
    "mean", its mean over space. in_channels, input_shape, recipe: decided by the data. Raises InputError for images of
    less than 22 voxels along an axis.
    """

    reference = "Atanaszov & Ritter 2019, trans-MRI"
    kinds = (2, 3)
    smallest = 22
    channels = CHANNELS[-1]
    blocks = ("block1", "block2", "block3")
    decoder_head = "tlimb.architectures.srcae.SRCAEDecoder"
    default_head = "tlimb.architectures.cae.CodeClassifier"

    def __init__(
        self,
        dims: Literal[2, 3] = 3,
        dropout: float = 0.1,
        activation: Literal["elu", "relu"] = "elu",
        first: Literal["convolved", "input"] = "convolved",
        pooling: Literal["none", "mean"] = "none",
        head_dropout: float = 0.0,
        in_channels: int = 1,
        input_shape: tuple = (),
        recipe: dict | None = None,
    ):
        super().__init__()
        require_numbers(rates={"dropout": dropout, "head_dropout": head_dropout})
        self.dims, self.activation, self.first, self.pooling = dims, activation, first, pooling
        self.head_dropout, self.in_channels, self.within_unit = head_dropout, in_channels, within_unit(recipe)
        for name, inputs, outputs in zip(self.blocks, (in_channels, *CHANNELS), CHANNELS):
            strided = CONVOLUTIONS[dims](inputs + HIDDEN, outputs, 4, stride=2)
            self.add_module(name, Block(dims, inputs, strided, [activation] * 2, first, dropout))
        self.apply(start_as_trans_mri)
        self.code_size = code_size(self, input_shape, lambda size: _strided(_strided(_strided(size))))
        self.features = self.channels * (prod(self.code_size) if pooling == "none" else 1)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What each block gives; the last is the code."""
        levels = [images]
        for name in self.blocks:
            levels.append(self.get_submodule(name)(levels[-1]))
        return levels[1:]


class SRCAEDecoder(nn.Module):
    """The code of an SRCAE -> images (B, in_channels, ...), as trans-MRI's decoder.

    Three blocks as the encoder's, without dropout, whose second convolution is transposed. As in the code the first two
    end in a sigmoid, the first adds a voxel at the end of the first and third axis, and an image that does not come out
    in the size of the input is brought to it by the nearest voxel.

    output: what the last block ends in; where null the encoder's activation, as in the code, for images between 0 and 1
    (a recipe whose intensity is minmax or percentile), and "linear" for others, which ELU and ReLU cut off below.
    """

    takes = "maps"

    def __init__(
        self, encoder: SRCAE, input_shape: tuple, output: Literal["sigmoid", "elu", "relu", "linear"] | None = None
    ):
        super().__init__()
        dims, self.sizes = encoder.dims, tuple(input_shape[1:])
        widths = (*CHANNELS[::-1], encoder.in_channels)
        last = output or (encoder.activation if encoder.within_unit else "linear")
        for number, ending in enumerate(["sigmoid", "sigmoid", last]):
            inputs, outputs = widths[number : number + 2]
            padding = 0 if number else PADDING[:dims]
            strided = TRANSPOSED[dims](inputs + HIDDEN, outputs, 4, stride=2, output_padding=padding)
            endings = [encoder.activation, ending]
            self.add_module(f"block{number + 1}", Block(dims, inputs, strided, endings, encoder.first))
        self.apply(start_as_trans_mri)

    def forward(self, code: Tensor) -> Tensor:
        """The reconstruction, (B, in_channels, ...)."""
        images = self.block3(self.block2(self.block1(code)))
        return images if images.shape[2:] == self.sizes else interpolate(images, size=self.sizes, mode="nearest")


class Block(nn.Module):
    """x -> activation(strided convolution of [h, x]), h = dropout(activation(convolution of x)).

    activations: of the first and of the strided convolution. first: "convolved" for [h, x], "input" for [x, h].
    """

    def __init__(
        self, dims: int, inputs: int, strided: nn.Module, activations: Sequence[str], first: str, dropout: float = 0.0
    ):
        super().__init__()
        self.first, self.dropout = first, dropout
        self.conv = nn.Sequential(CONVOLUTIONS[dims](inputs, HIDDEN, 3, padding=1), ACTIVATIONS[activations[0]]())
        self.conv_stride = nn.Sequential(strided, ACTIVATIONS[activations[1]]())

    def forward(self, images: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...), half the size or twice."""
        leave_out = dropout2d if images.ndim == 4 else dropout3d
        hidden = leave_out(self.conv(images), self.dropout, self.training)
        pair = [hidden, images] if self.first == "convolved" else [images, hidden]
        return self.conv_stride(torch.cat(pair, 1))


def _strided(size: int) -> int:
    return (size - 4) // 2 + 1
