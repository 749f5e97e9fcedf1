"""Simple fully convolutional network for whole volumes.

Peng, Gong, Beckmann, Vedaldi, Smith (2021), "Accurate brain age prediction with lightweight deep neural networks",
Medical Image Analysis 68, 101871.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.pooling import max_pool3d
from tlimb.errors import InputError, Problem

CHANNELS = (32, 64, 128, 256, 256, 64)
SMALLEST = 2 ** (len(CHANNELS) - 1)


class SFCN(nn.Module):
    """Encoder (B, in_channels, X, Y, Z) -> (B, 64 * width), fully convolutional.

    Peng et al. (2021), "Accurate brain age prediction with lightweight deep neural networks", Medical Image Analysis.

    ======  ============================================  ========  ===========
    block   layers                                        channels  size, axis
    ======  ============================================  ========  ===========
    1 to 5  convolution 3x3x3, batch norm, maximum of     32, 64,   halved
            2x2x2, ReLU                                   128, 256,
                                                          256
    6       convolution 1x1x1, batch norm, ReLU           64        kept
    (head)  mean over space, dropout 0.5, linear
    ======  ============================================  ========  ===========

    The paper averages over the 5x6x5 voxels that remain of its 160x192x160 input and classifies age into 40 bins (sex
    into 2) by a 1x1x1 convolution. The mean over all that remains takes any input of at least 32 voxels an axis, and a
    linear head is that same convolution on one voxel. The published code takes the maximum before ReLU, has a bias in
    each convolution and ends in log softmax; heads here give what comes before it.

    width: multiplies all channels. kernel: width of the first five convolutions. head_dropout: rate of features on
    their way to the heads. in_channels, input_shape: decided by the data. Raises InputError where the volume is too
    small to halve five times, and for numbers out of range.
    """

    reference = "Peng et al. 2021, Medical Image Analysis"
    kinds = (3,)
    dims = 3
    smallest = SMALLEST
    blocks = tuple(f"block{number}" for number in range(1, len(CHANNELS) + 1))

    def __init__(
        self,
        width: float = 1.0,
        kernel: Literal[3, 5, 7] = 3,
        head_dropout: float = 0.5,
        in_channels: int = 1,
        input_shape: tuple = (),
    ):
        super().__init__()
        require_numbers(factors={"width": width}, rates={"head_dropout": head_dropout})
        if len(input_shape) == 4 and min(input_shape[1:]) < SMALLEST:
            size = "x".join(map(str, input_shape[1:]))
            message = f"halves each axis five times and needs at least {SMALLEST} voxels an axis, the data have {size}"
            raise InputError([Problem("architecture SFCN", message)])
        inputs = in_channels
        for number, full in enumerate(CHANNELS):
            channels, size = max(1, int(full * width)), kernel if number < len(CHANNELS) - 1 else 1
            convolution = nn.Conv3d(inputs, channels, size, padding=size // 2)
            self.add_module(f"block{number + 1}", nn.Sequential(convolution, nn.BatchNorm3d(channels)))
            inputs = channels
        self.channels = self.features = channels
        self.head_dropout = head_dropout

    def maps(self, volumes: Tensor) -> Tensor:
        """(B, in_channels, X, Y, Z) -> (B, channels, X / 32, Y / 32, Z / 32), rounded down."""
        return self.levels(volumes)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over space."""
        return maps.flatten(2).mean(dim=2)

    def levels(self, volumes: Tensor) -> list[Tensor]:
        """Blocks 1 to 4 and the maps, finest first."""
        made = [volumes]
        for name in self.blocks[:-1]:
            made.append(relu(max_pool3d(self.get_submodule(name)(made[-1]), 2, 2)))
        return [*made[1:-1], relu(self.block6(made[-1]))]

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (B, features) of volumes (B, in_channels, X, Y, Z)."""
        return self.pool(self.maps(volumes))
