"""Densely connected network for series, slices and volumes: MONAI's, with a deterministic mean in its transitions."""

from typing import Literal

from monai.networks.layers.utils import get_act_layer
from monai.networks.nets import densenet as monai_densenet
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.norms import activation_layer, norm_layer
from tlimb.architectures.resnet import MaxPool3d

LAYERS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""Dense layers in each of the four blocks, by depth."""

SMALLEST = 29
"""An axis that the stem makes 8 long and the three transitions 4, 2 and 1."""


class DenseNet(nn.Module):
    """Encoder (B, in_channels, ...) -> (B, 1024) for depth 121, 1664 for 169, 1920 for 201, each times width.

    Huang, Liu, van der Maaten, Weinberger (2017), "Densely connected convolutional networks", CVPR.

    ================  ======================================================  ==========
    block             layers                                                  size, axis
    ================  ======================================================  ==========
    conv0, norm0      convolution 7 wide with stride 2, norm, ReLU,           quartered
                      maximum 3 wide with stride 2; 64 channels
    denseblock1 to 4  6, 12, 24, 16 layers (depth 121): norm, ReLU,           kept
                      convolution 1 wide to 128 channels, norm, ReLU,
                      convolution 3 wide to 32, put beside what came in
    transition1 to 3  norm, ReLU, convolution 1 wide to half the channels,    halved
                      mean of 2
    norm5             norm, ReLU, mean over space                             one
    ================  ======================================================  ==========

    In 2D the parameters are those of torchvision, tensor by tensor; its names start with `features.` and lack
    `.layers`.

    dims: 1 for time series (regions as channels), 2 for slices (as channels), 3 for volumes. width: multiplies the
    stem's 64 channels and the growth of 32 a layer. norm: see `norms.norm_layer`. dropout: rate of whole channels set
    to zero after each dense layer (the paper takes 0.2 without augmentation); head_dropout: rate of features on their
    way to the heads. in_channels: decided by the data. Raises InputError for numbers out of range.
    """

    reference = "Huang et al. 2017, CVPR"
    kinds = (1, 2, 3)
    smallest = SMALLEST

    def __init__(
        self,
        depth: Literal[121, 169, 201] = 121,
        dims: Literal[1, 2, 3] = 3,
        width: float = 1.0,
        norm: Literal["batch", "instance", "group", "layer"] = "batch",
        activation: Literal["relu", "leakyrelu", "elu", "gelu", "swish"] = "relu",
        dropout: float = 0.0,
        head_dropout: float = 0.0,
        in_channels: int = 1,
    ):
        super().__init__()
        require_numbers(factors={"width": width}, rates={"dropout": dropout, "head_dropout": head_dropout})
        growth = max(1, int(32 * width))
        made = monai_densenet.DenseNet(
            spatial_dims=dims,
            in_channels=in_channels,
            out_channels=1,
            init_features=2 * growth,
            growth_rate=growth,
            block_config=LAYERS[depth],
            act=activation_layer(activation),
            norm=norm_layer(norm, [growth]),
            dropout_prob=dropout,
        )
        for name, module in made.features.named_children():
            self.add_module(name, module)
        self.relu5 = get_act_layer(activation_layer(activation))
        if dims == 3:
            self.pool0 = MaxPool3d()
            for transition in (self.transition1, self.transition2, self.transition3):
                transition.pool = AveragePool3d()
        self.dims, self.head_dropout = dims, head_dropout
        self.channels = self.features = made.class_layers.out.in_features
        self.blocks = tuple(name for name, module in self.named_children() if any(True for _ in module.parameters()))
        if norm == "instance":
            self.smallest = 2 * SMALLEST + 3

    def maps(self, images: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...), after the last norm and ReLU."""
        return self.levels(images)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over space; torch's adaptive pooling has no deterministic gradient on a GPU."""
        return maps.flatten(2).mean(dim=2)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The stem before its maximum, the first three dense blocks and the maps, finest first."""
        stem = self.relu0(self.norm0(self.conv0(images)))
        first = self.denseblock1(self.pool0(stem))
        second = self.denseblock2(self.transition1(first))
        third = self.denseblock3(self.transition2(second))
        last = self.denseblock4(self.transition3(third))
        return [stem, first, second, third, self.relu5(self.norm5(last))]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, in_channels, ...)."""
        return self.pool(self.maps(images))


class AveragePool3d(nn.Module):
    """The mean over 2x2x2 voxels with stride 2, equal to torch's but with a deterministic gradient on a GPU."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, C, X / 2, Y / 2, Z / 2), rounded down: means over (Y, Z) and then over X."""
        batch, channels, depth = images.shape[:3]
        planes = avg_pool2d(images.flatten(1, 2), 2)
        lines = planes.reshape(batch, channels, depth, -1)
        return avg_pool2d(lines, (2, 1)).unflatten(3, planes.shape[2:])
