"""Convolutional autoencoder of trans-MRI: encoder, max-unpooling decoder, and the classifier on the encoder."""

from math import prod
from typing import Literal

from torch import Tensor, nn

from tlimb.architectures.arguments import PLACE, require_numbers
from tlimb.architectures.unpooling import max_pool, max_positions, max_unpool
from tlimb.errors import InputError, Problem

ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "linear": nn.Identity}

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class CodeEncoder(nn.Module):
    """An encoder whose last level is a code; its features are the code's numbers.

    pooling: "none", features are the code, flattened; "mean", its mean over space.
    """

    pooling: str

    def maps(self, images: Tensor) -> Tensor:
        """The code (B, channels, ...)."""
        return self.levels(images)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The code flattened, or its mean over space."""
        return maps.flatten(1) if self.pooling == "none" else maps.flatten(2).mean(dim=2)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, in_channels, ...)."""
        return self.pool(self.maps(images))


class CAE(CodeEncoder):
    """Encoder of a convolutional autoencoder, (B, in_channels, ...) -> the flattened code.

    Atanaszov, Ritter (2019), "Transfer Learning for MRI", report; code: trans-MRI, `ConvAutoEncoder`.

    ======  =============================================  ========  =================
    block   layers                                         channels  size, axis
    ======  =============================================  ========  =================
    1 to 3  convolution 3 wide, ELU, then maximum of 2     8, 16,    halved
                                                           32
    4       convolution 3 wide without padding, ELU        16        two voxels less
    ======  =============================================  ========  =================

    The code is the image after block 4: 16 x 11 x 14 x 11 for their 108 x 128 x 108 voxels. Weights start from
    He's normal distribution, biases from 0. The text has ReLU where the code has ELU: `activation`. The code's noise on
    the input, off in it, is left to augmentation. Targets get CodeClassifier, as in `EncoderClassifier`; the
    autoencoder with a classifier is LinearHead with `head_dropout` 0.35.

    dims: 2 for slices, 3 for volumes. channels: of the four blocks. pooling: "none", features are the code, flattened;
    "mean", its mean over space. head_dropout: of features on their way to the heads. in_channels, input_shape, recipe:
    decided by the data. Raises InputError for images of less than 24 voxels along an axis.
    """

    reference = "Atanaszov & Ritter 2019, trans-MRI"
    kinds = (2, 3)
    smallest = 24
    blocks = ("block1", "block2", "block3", "block4")
    decoder_head = "tlimb.architectures.cae.CAEDecoder"
    default_head = "tlimb.architectures.cae.CodeClassifier"

    def __init__(
        self,
        dims: Literal[2, 3] = 3,
        channels: list[int] = (8, 16, 32, 16),
        activation: Literal["elu", "relu"] = "elu",
        pooling: Literal["none", "mean"] = "none",
        head_dropout: float = 0.0,
        in_channels: int = 1,
        input_shape: tuple = (),
        recipe: dict | None = None,
    ):
        super().__init__()
        require_numbers(counts={"channels": channels}, rates={"head_dropout": head_dropout})
        self.dims, self.activation, self.pooling, self.head_dropout = dims, activation, pooling, head_dropout
        self.widths, self.channels = (in_channels, *_four(channels)), channels[-1]
        self.within_unit = within_unit(recipe)
        for number, name in enumerate(CAE.blocks):
            convolution = CONVOLUTIONS[dims](*self.widths[number : number + 2], 3, padding=0 if number == 3 else 1)
            self.add_module(name, nn.Sequential(convolution, ACTIVATIONS[activation]()))
        self.apply(start_as_trans_mri)
        self.code_size = code_size(self, input_shape, lambda size: size // 8 - 2)
        self.features = self.channels * (prod(self.code_size) if pooling == "none" else 1)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What blocks 1 to 3 give before their maxima are taken, and the code: what CAEDecoder takes."""
        levels = []
        for name in CAE.blocks[:-1]:
            levels.append(self.get_submodule(name)(images))
            images = max_pool(levels[-1])
        return [*levels, self.block4(images)]


class CAEDecoder(nn.Module):
    """Levels of a CAE -> images (B, in_channels, ...): its mirror image, as trans-MRI's decoder.

    Block 1 is a transposed convolution of the code without padding; blocks 2 to 4 each put their input where the
    encoder found its maxima (max-unpooling) and convolve that, 3 wide. All but the last end in the encoder's
    activation.

    output: what the last block ends in; where null "sigmoid", as in the code, for images between 0 and 1 (a recipe
    whose intensity is minmax or percentile), and "linear" for others, which a sigmoid could not reach.
    """

    takes = "levels"

    def __init__(
        self, encoder: CAE, input_shape: tuple, output: Literal["sigmoid", "elu", "relu", "linear"] | None = None
    ):
        super().__init__()
        widths, inner = encoder.widths[::-1], [encoder.activation] * 3
        last = output or ("sigmoid" if encoder.within_unit else "linear")
        for number, activation in enumerate([*inner, last]):
            convolution = TRANSPOSED[encoder.dims](*widths[number : number + 2], 3, padding=1 if number else 0)
            self.add_module(f"block{number + 1}", nn.Sequential(convolution, ACTIVATIONS[activation]()))
        self.apply(start_as_trans_mri)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The reconstruction, (B, in_channels, ...)."""
        *found, code = levels
        images = self.block1(code)
        for number, level in enumerate(reversed(found)):
            images = max_unpool(images, max_positions(level), level.shape[2:])
            images = self.get_submodule(f"block{number + 2}")(images)
        return images


class CodeClassifier(nn.Sequential):
    """Features (B, F) -> (B, outputs): linear 32, ReLU, dropout, linear, as trans-MRI's `EncoderClassifier`.

    dropout: 0.25 as there; its Learner, which makes one from a pretrained encoder, sets 0.5.
    """

    def __init__(self, encoder: nn.Module, outputs: int, dropout: float = 0.25):
        super().__init__(nn.Linear(encoder.features, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, outputs))


def start_as_trans_mri(module: nn.Module) -> None:
    """Weights of convolutions from He's normal distribution, with the gain of ReLU over torch's fan-in; biases 0."""
    if isinstance(module, (*CONVOLUTIONS.values(), *TRANSPOSED.values())):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


def within_unit(recipe: dict | None) -> bool:
    """Whether scans prepared so lie between 0 and 1, as trans-MRI's do; taken to be so where nothing is known."""
    return recipe is None or recipe.get("intensity") in ("minmax", "percentile")


def code_size(encoder: nn.Module, input_shape: tuple, shrunk) -> list[int]:
    """Size of the code along each axis; `shrunk` gives it from the image's. Raises InputError where none is left."""
    if len(input_shape) != encoder.dims + 1:
        return [1] * encoder.dims  # the wrong number of axes, which is told by whoever builds the network
    if min(input_shape[1:]) < encoder.smallest:
        found = "x".join(map(str, input_shape[1:]))
        message = f"needs at least {encoder.smallest} voxels along each axis, the data have {found}"
        raise InputError([Problem(f"architecture {type(encoder).__name__}", message)])
    return [shrunk(size) for size in input_shape[1:]]


def _four(channels: list[int]) -> list[int]:
    if len(channels) != 4:
        message = f"expected four positive whole numbers, found {list(channels)}"
        raise InputError([Problem(f"{PLACE}.channels", message)])
    return list(channels)
