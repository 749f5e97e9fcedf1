"""Residual network for 2D slices and 3D volumes.

He, Zhang, Ren, Sun (2016), "Deep residual learning for image recognition", CVPR. Parameters bear the names that MONAI's
ResNet gives them, so weights pass between the two; MONAI itself takes 6 s to import, too much for short tasks.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from tlimb.architectures.pooling import max_pool3d

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Residual blocks in each of the four layers, by depth."""


class ResNet(nn.Module):
    """Encoder (B, in_channels, ...) -> (B, 512 * width), the mean over space of the last layer.

    Stem: 7-wide convolution with stride 2, batch norm, ReLU, 3-wide maximum with stride 2. Then four layers of basic
    blocks with 64, 128, 256, 512 channels (times `width`), each layer but the first halving the image.

    depth: 10, 18 or 34. dims: 2 for slices (as channels), 3 for volumes. in_channels: decided by the data.
    """

    blocks = ("conv1", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self, depth: Literal[10, 18, 34] = 18, dims: Literal[2, 3] = 3, width: float = 1.0, in_channels: int = 1
    ):
        super().__init__()
        self.dims = dims
        convolution, norm = _kinds(dims)
        planes = [max(1, int(channels * width)) for channels in (64, 128, 256, 512)]
        self.features = planes[-1]
        self.conv1 = convolution(in_channels, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(planes[0])
        inputs = [planes[0], *planes[:-1]]
        for number, count in enumerate(BLOCKS[depth]):
            first = BasicBlock(inputs[number], planes[number], dims, stride=1 if number == 0 else 2)
            rest = [BasicBlock(planes[number], planes[number], dims) for _ in range(count - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(first, *rest))
        for module in self.modules():
            if isinstance(module, convolution):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, in_channels, ...) with `dims` axes of space."""
        pool = max_pool2d if self.dims == 2 else max_pool3d
        images = pool(relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            images = layer(images)
        return images.flatten(2).mean(dim=2)


class BasicBlock(nn.Module):
    """relu(x + F(x)), F two 3-wide convolutions with batch norm; x passes a 1-wide one where the shape changes."""

    def __init__(self, inputs: int, planes: int, dims: int, stride: int = 1):
        super().__init__()
        convolution, norm = _kinds(dims)
        self.conv1 = convolution(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = convolution(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(convolution(inputs, planes, 1, stride=stride, bias=False), norm(planes))

    def forward(self, images: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, planes, ...), each axis divided by the stride."""
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(images)))))
        shortcut = images if self.downsample is None else self.downsample(images)
        return relu(residual + shortcut)


def _kinds(dims: int):
    return (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
