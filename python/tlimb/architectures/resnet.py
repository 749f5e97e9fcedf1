"""Residual network for series, slices and volumes: MONAI's, with poolings whose gradients are the same in every run."""

from typing import Literal

from monai.networks.nets import resnet as monai_resnet
from torch import Tensor, nn

from tlimb.architectures.pooling import max_pool3d

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Residual blocks in each of the four layers, by depth."""

PLANES = (64, 128, 256, 512)


class ResNet(monai_resnet.ResNet):
    """Encoder (B, in_channels, ...) -> (B, 512 * width), the mean over space of the last layer.

    He, Zhang, Ren, Sun (2016), "Deep residual learning for image recognition", CVPR. Stem: 7-wide convolution with
    stride 2, batch norm, ReLU, 3-wide maximum with stride 2. Then four layers of basic blocks with 64, 128, 256, 512
    channels (times `width`), each layer but the first halving the image.

    depth: 10, 18 or 34. dims: 1 for time series (regions as channels), 2 for slices (as channels), 3 for volumes.
    in_channels: decided by the data.
    """

    blocks = ("conv1", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self, depth: Literal[10, 18, 34] = 18, dims: Literal[1, 2, 3] = 3, width: float = 1.0, in_channels: int = 1
    ):
        planes = [max(1, int(channels * width)) for channels in PLANES]
        super().__init__(
            block="basic",
            layers=list(BLOCKS[depth]),
            block_inplanes=planes,
            spatial_dims=dims,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.dims, self.features = dims, planes[-1]
        self.avgpool = SpatialMean()
        if dims == 3:
            self.maxpool = MaxPool3d()


class SpatialMean(nn.Module):
    """(B, C, ...) -> (B, C), the mean over space."""

    def forward(self, images: Tensor) -> Tensor:
        """The mean; torch's adaptive pooling has no deterministic gradient on a GPU."""
        return images.flatten(2).mean(dim=2)


class MaxPool3d(nn.Module):
    """The stem's maximum over 3x3x3 voxels with stride 2 and padding 1."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C, X / 2, Y / 2, Z / 2), rounded up."""
        return max_pool3d(images, 3, 2, 1)
