"""Simple fully convolutional network for whole volumes.

Peng, Gong, Beckmann, Vedaldi, Smith (2021), "Accurate brain age prediction with lightweight deep neural networks",
Medical Image Analysis 68, 101871.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from tlimb.architectures.pooling import max_pool3d
from tlimb.errors import InputError, Problem

CHANNELS = (32, 64, 128, 256, 256, 64)
SMALLEST = 2 ** (len(CHANNELS) - 1)


class SFCN(nn.Module):
    """Encoder (B, in_channels, X, Y, Z) -> (B, 64).

    ======  ============================================  ========  ===========
    block   layers                                        channels  size, axis
    ======  ============================================  ========  ===========
    1 to 5  convolution 3x3x3, batch norm, maximum of     32, 64,   halved
            2x2x2, ReLU                                   128, 256,
                                                          256
    6       convolution 1x1x1, batch norm, ReLU           64        kept
    (head)  mean over space, dropout 0.5, linear
    ======  ============================================  ========  ===========

    The paper averages over the 5x6x5 voxels that remain of its 160x192x160 input and classifies age into 40 bins by a
    1x1x1 convolution. The mean over all that remains takes any input of at least 32 voxels an axis, and a linear head
    is that same convolution on one voxel.

    in_channels, input_shape: decided by the data. Raises InputError where the volume is too small to halve five times.
    """

    dims = 3
    features = CHANNELS[-1]
    blocks = tuple(f"block{number}" for number in range(1, len(CHANNELS) + 1))
    head_dropout = 0.5

    def __init__(self, in_channels: int = 1, input_shape: tuple = ()):
        super().__init__()
        if len(input_shape) == 4 and min(input_shape[1:]) < SMALLEST:
            size = "x".join(map(str, input_shape[1:]))
            message = f"halves each axis five times and needs at least {SMALLEST} voxels an axis, the data have {size}"
            raise InputError([Problem("architecture SFCN", message)])
        inputs = (in_channels, *CHANNELS)
        for number, channels in enumerate(CHANNELS):
            width = 3 if number < len(CHANNELS) - 1 else 1
            convolution = nn.Conv3d(inputs[number], channels, width, padding=width // 2)
            self.add_module(f"block{number + 1}", nn.Sequential(convolution, nn.BatchNorm3d(channels)))

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (B, 64) of volumes (B, in_channels, X, Y, Z)."""
        for name in self.blocks[:-1]:
            volumes = relu(max_pool3d(self.get_submodule(name)(volumes), 2, 2))
        return relu(self.block6(volumes)).flatten(2).mean(dim=2)
