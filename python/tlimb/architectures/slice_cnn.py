"""The plain convolutional network of slice set networks: on slices here, on volumes in cnn3d.py."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.pooling import max_pool3d
from tlimb.errors import InputError, Problem

CHANNELS = (32, 64, 128, 256, 256)
FEATURES = 64


class PlainCNN(nn.Module):
    """What SliceCNN and CNN3D share: `len(channels)` blocks that halve the image, one that narrows to 64 channels."""

    features = channels = FEATURES

    def __init__(self, channels, head_dropout: float, initialisation: str, in_channels: int, input_shape: tuple):
        super().__init__()
        require_numbers(counts={"channels": channels}, rates={"head_dropout": head_dropout})
        self.smallest = self.least_size(len(channels), tuple(input_shape))
        convolution, norm = (nn.Conv2d, nn.InstanceNorm2d) if self.dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.head_dropout, self.initialisation = head_dropout, initialisation
        inputs = (in_channels, *channels)
        for number, outputs in enumerate((*channels, FEATURES)):
            width = 3 if number < len(channels) else 1
            layer = convolution(inputs[number], outputs, width, padding=width // 2)
            if initialisation == "he":
                he_initialise(layer)
            self.add_module(f"block{number + 1}", nn.Sequential(layer, norm(outputs)))
        self.blocks = tuple(f"block{number + 1}" for number in range(len(channels) + 1))

    def least_size(self, halvings: int, input_shape: tuple) -> tuple[int, ...]:
        """The least lengths that leave two positions, both on the longest axis: the last normalisation is over them.

        Raises InputError where the images have less.
        """
        least, size = [2**halvings] * self.dims, input_shape[1:]
        least[size.index(max(size)) if size else 0] *= 2
        if any(have < need for have, need in zip(size, least)):
            found, needed = ("x".join(map(str, lengths)) for lengths in (size, least))
            message = f"halves each axis {halvings} times and needs at least {needed} voxels, the data have {found}"
            raise InputError([Problem(f"architecture {type(self).__name__}", message, "or fewer `channels`")])
        return tuple(least)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 64) of images (B, in_channels, ...)."""
        return self.pool(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """(B, 64, ...), each axis halved as often as there are `channels`."""
        return self.levels(images)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over space, (B, 64)."""
        return maps.flatten(2).mean(dim=2)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What each block makes, the finest first."""
        pool = max_pool2d if self.dims == 2 else max_pool3d
        levels = []
        for name in self.blocks[:-1]:
            images = relu(pool(self.get_submodule(name)(images), 2, 2))
            levels.append(images)
        return [*levels, relu(self.get_submodule(self.blocks[-1])(images))]


class SliceCNN(PlainCNN):
    """Encoder (B, in_channels, H, W) -> (B, 64): the slice encoder of slice set networks, the "5-layer 2D-CNN".

    ======  ====================================================  =====================
    block   layers                                                channels
    ======  ====================================================  =====================
    1 to 5  convolution 3x3, instance norm, maximum of 2x2, ReLU  32, 64, 128, 256, 256
    6       convolution 1x1, instance norm, ReLU                  64
    (pool)  mean over space
    ======  ====================================================  =====================

    Gupta, Lam, Ver Steeg, Thompson (2021), "Improved brain age estimation with slice-based set networks", ISBI; Gupta
    et al. (2023), "Transferring models trained on natural images to 3D MRI via position encoded slice models", ISBI.
    After Peng et al. (2021), Medical Image Analysis 68, 101871, in two dimensions and with instance norm, which has no
    weights. Their code's average has a fixed window, the 3x2 positions that remain of their slices; the mean over all
    positions is the same there and takes other sizes. The projection to the 32 features that the text names belongs to
    the set network (SliceSet, SliceLSTM), because a position encoding comes before it.

    channels: of the blocks that halve. head_dropout: before the projection or a head; their commands set 0.5.
    initialisation: "he" is normal with the fan out of a ReLU and zero biases, as their commands set, "torch" PyTorch's
    own. in_channels, input_shape: decided by the data. Raises InputError where a slice is too small.
    """

    dims, kinds = 2, (2,)
    reference = "Gupta et al. 2021, ISBI"

    def __init__(
        self,
        channels: list[int] = CHANNELS,
        head_dropout: float = 0.5,
        initialisation: Literal["he", "torch"] = "he",
        in_channels: int = 1,
        input_shape: tuple = (),
    ):
        super().__init__(channels, head_dropout, initialisation, in_channels, input_shape)


def he_initialise(layer: nn.Module) -> None:
    """Normal weights of variance 2 / fan out, zero biases. He, Zhang, Ren, Sun (2015), "Delving deep", ICCV."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
