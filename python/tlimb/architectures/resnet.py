"""Residual network for series, slices and volumes: MONAI's, with poolings whose gradients are the same in every run."""

from typing import Literal

from monai.networks.layers.utils import get_act_layer
from monai.networks.nets import resnet as monai_resnet
from torch import Tensor, nn

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.norms import activation_layer, norm_layer
from tlimb.architectures.pooling import max_pool3d

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks in each of the four layers, by depth; bottlenecks from depth 50 on."""

PLANES = (64, 128, 256, 512)
DROPOUTS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


class ResNet(monai_resnet.ResNet):
    """Encoder (B, in_channels, ...) -> (B, 512 * width), or 2048 * width from depth 50: the mean over space.

    He, Zhang, Ren, Sun (2016), "Deep residual learning for image recognition", CVPR.

    ==============  =======================================================  ======================  ============
    block           layers                                                   channels                size, axis
    ==============  =======================================================  ======================  ============
    conv1           convolution 7 wide with stride 2, norm, ReLU,            64                      quartered
                    maximum 3 wide with stride 2
    layer1 to 4     blocks of two convolutions 3 wide (below depth 50),      64, 128, 256, 512       halved but
                    or of convolutions 1, 3 and 1 wide, each with norm and   (256, 512, 1024, 2048   in layer1
                    ReLU, around which a shortcut leads                      from depth 50)
    ==============  =======================================================  ======================  ============

    Bottlenecks have their stride in the convolution 3 wide, as torchvision has it (the paper: in the first one), so
    that 2D state dicts of torchvision, names and numbers, and 3D ones of MedicalNet and MONAI are those of this class.

    dims: 1 for time series (regions as channels), 2 for slices (as channels), 3 for volumes. width: multiplies all
    channels. stem_kernel, stem_stride, stem_pool: width and stride of the first convolution, and whether the maximum
    follows it. norm: see `norms.norm_layer`. dropout: rate of whole channels set to zero after each of the four
    layers; head_dropout: rate of features on their way to the heads. shortcut: where a layer changes the image, "B"
    leads over a convolution 1 wide with norm, "A" over every second voxel with zeros for new channels (MedicalNet's 18
    and 34; as in its code and MONAI's no gradient flows through it). shortcut_bias: that convolution has a bias, as
    MONAI's default and BrainIAC's ResNet-50 have it. dilated: layer3 and layer4 keep the size and are dilated by 2 and
    4, as MedicalNet's code has them (MONAI leaves that out). in_channels: decided by the data. Raises InputError for
    numbers out of range.
    """

    reference = "He et al. 2016, CVPR"
    kinds = (1, 2, 3)
    blocks = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        depth: Literal[10, 18, 34, 50, 101, 152] = 18,
        dims: Literal[1, 2, 3] = 3,
        width: float = 1.0,
        stem_kernel: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        norm: Literal["batch", "instance", "group", "layer"] = "batch",
        activation: Literal["relu", "leakyrelu", "elu", "gelu", "swish"] = "relu",
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        shortcut: Literal["A", "B"] = "B",
        shortcut_bias: bool = False,
        dilated: bool = False,
        in_channels: int = 1,
    ):
        require_numbers(
            counts={"stem_kernel": stem_kernel, "stem_stride": stem_stride},
            factors={"width": width},
            rates={"dropout": dropout, "head_dropout": head_dropout},
        )
        planes = [max(1, int(channels * width)) for channels in PLANES]
        self._norm = norm_layer(norm, planes)
        super().__init__(
            block="bottleneck" if depth >= 50 else "basic",
            layers=list(BLOCKS[depth]),
            block_inplanes=planes,
            spatial_dims=dims,
            n_input_channels=in_channels,
            conv1_t_size=stem_kernel,
            conv1_t_stride=stem_stride,
            no_max_pool=not stem_pool,
            shortcut_type=shortcut,
            feed_forward=False,
            bias_downsample=shortcut_bias,
            act=activation_layer(activation),
            norm=self._norm,
        )
        del self.avgpool
        self.dims, self.head_dropout = dims, head_dropout
        self.channels = self.features = self.in_planes
        self._finish(activation, dropout, dilated)
        shrinkage = stem_stride * (2 if stem_pool else 1) * (2 if dilated else 8)
        self.smallest = shrinkage + 1 if norm == "instance" else 1

    def maps(self, images: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...), the last layer."""
        return self.levels(images)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over space; torch's adaptive pooling has no deterministic gradient on a GPU."""
        return maps.flatten(2).mean(dim=2)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The stem before its maximum (where it has one) and the four layers, finest first."""
        stem = self.act(self.bn1(self.conv1(images)))
        made = [stem if self.no_max_pool else self.maxpool(stem)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            made.append(layer(made[-1]))
        return made[1:] if self.no_max_pool else [stem, *made[1:]]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, in_channels, ...)."""
        return self.pool(self.maps(images))

    def _make_layer(self, *args, **kwargs) -> nn.Sequential:
        """MONAI's layer with the normalisation asked for: MONAI's own call leaves it at batch norm."""
        return super()._make_layer(*args, **kwargs, norm=self._norm)

    def _finish(self, activation: str, dropout: float, dilated: bool) -> None:
        """What MONAI's constructor has no argument for, or does not hand on to its blocks."""
        if self.dims == 3:
            self.maxpool = MaxPool3d()
        for layer, dilation in ((self.layer1, 1), (self.layer2, 1), (self.layer3, 2), (self.layer4, 4)):
            for block in layer:
                block.act = get_act_layer(activation_layer(activation))
            if dilated and dilation > 1:
                _dilate(layer, dilation)
            if dropout > 0:
                layer.append(DROPOUTS[self.dims](dropout))


def _dilate(layer: nn.Sequential, dilation: int) -> None:
    """Take the stride from a layer, shortcut and all, and dilate its convolutions 3 wide instead."""
    for module in layer.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            dims = len(module.kernel_size)
            module.stride = (1,) * dims
            if module.kernel_size[0] == 3:
                module.dilation = module.padding = (dilation,) * dims
    shortcut = layer[0].downsample
    if not isinstance(shortcut, nn.Module):
        shortcut.keywords["stride"] = 1


class MaxPool3d(nn.Module):
    """The stem's maximum over 3x3x3 voxels with stride 2 and padding 1."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C, X / 2, Y / 2, Z / 2), rounded up."""
        return max_pool3d(images, 3, 2, 1)
