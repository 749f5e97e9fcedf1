"""Swin transformer for slices and volumes: MONAI's, the encoder of SwinUNETR."""

from typing import Literal

import torch
from monai.networks.nets import swin_unetr
from torch import Tensor
from torch.nn.functional import pad

from tlimb.architectures.arguments import PLACE, axis_problems, per_axis, require_numbers
from tlimb.errors import InputError, Problem

SIZES = {
    "unetr": (48, (2, 2, 2, 2), (3, 6, 12, 24)),
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
"""Channels of a patch, layers of each stage, heads of attention; unetr by SwinUNETR, the others by Liu et al."""

REPEATED = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Neighbours that are merged, as MONAI had them when the published 3D weights were trained."""


class Swin(swin_unetr.SwinTransformer):
    """Encoder (B, in_channels, ...) -> (B, 16 * feature_size), by attention within windows that shift.

    Liu et al. (2021), "Swin transformer: hierarchical vision transformer using shifted windows", ICCV; in 3D Tang et
    al. (2022), "Self-supervised pre-training of Swin transformers for 3D medical image analysis", CVPR.

    ============  ===========================================================  ===================  ==========
    block         layers                                                       channels             size, axis
    ============  ===========================================================  ===================  ==========
    patch_embed   convolution as wide as its stride                            C = feature_size     / patch
    layers1 to 4  pairs of attention within windows and within shifted ones,   2C, 4C, 8C, 16C      halved
                  each with an MLP; then neighbours are merged
    pool          layer norm without weights, mean over space                  16C                  one
    ============  ===========================================================  ===================  ==========

    The layers are MONAI's, so that state dicts of SwinUNETR's encoder (`swinViT`) fit by their names. They differ from
    the paper's network by a merging after the last stage and by norms without weights.

    size: unetr (SwinUNETR of Tang et al.), tiny, small or base; feature_size, depths, heads: other than that size has
    them. patch_size, window_size: one number or one an axis; zeros are put after the end of axes that they do not
    divide. merging: "monai" joins the eight neighbours of a voxel in MONAI's order, "paper" in that of their offsets;
    "repeated" is what MONAI did when published 3D weights (SwinUNETR) were trained: two neighbours are left out and
    two stand there twice. In 2D they are the same. dropout: rate after attention and MLP; drop_path: rate of layers
    skipped, rising to it with depth; head_dropout: rate of features on their way to the heads. in_channels: decided by
    the data. Raises InputError for arguments that do not go together.
    """

    reference = "Liu et al. 2021, ICCV; Tang et al. 2022, CVPR"
    kinds = (2, 3)
    blocks = ("patch_embed", "layers1", "layers2", "layers3", "layers4")

    def __init__(
        self,
        dims: Literal[2, 3] = 3,
        size: Literal["unetr", "tiny", "small", "base"] = "unetr",
        patch_size: int | list[int] = 2,
        window_size: int | list[int] = 7,
        feature_size: int | None = None,
        depths: list[int] | None = None,
        heads: list[int] | None = None,
        merging: Literal["monai", "paper", "repeated"] = "monai",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        in_channels: int = 1,
    ):
        rates = {"dropout": dropout, "drop_path": drop_path, "head_dropout": head_dropout}
        require_numbers(counts={"feature_size": feature_size, "depths": depths, "heads": heads}, rates=rates)
        width, layers, attentions = SIZES[size]
        width, layers, attentions = feature_size or width, tuple(depths or layers), tuple(heads or attentions)
        patch, window = per_axis(patch_size, dims), per_axis(window_size, dims)
        _require_whole(dims, patch, window, width, layers, attentions)
        device = torch.get_default_device()
        with torch.device("cpu"):  # MONAI's constructor reads numbers from tensors, which the meta device has not
            super().__init__(
                in_chans=in_channels,
                embed_dim=width,
                window_size=window,
                patch_size=patch,
                depths=layers,
                num_heads=attentions,
                drop_rate=dropout,
                attn_drop_rate=dropout,
                drop_path_rate=drop_path,
                spatial_dims=dims,
                downsample={"monai": "merging", "paper": "mergingv2", "repeated": RepeatedMerging}[merging],
            )
        self.to(device)
        self.dims, self.head_dropout = dims, head_dropout
        self.channels = self.features = 16 * width
        self.smallest = tuple(16 * side for side in patch)

    def maps(self, images: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...), each axis divided by 16 times the patch, rounded up."""
        return self.levels(images)[-1]

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over space."""
        return maps.flatten(2).mean(dim=2)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The embedded patches and what the four stages give, each after a layer norm without weights, finest first."""
        return super().forward(images)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, in_channels, ...)."""
        return self.pool(self.maps(images))


class RepeatedMerging(swin_unetr.PatchMergingV2):
    """Merging of the neighbours `REPEATED`; in 2D the paper's."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, X, Y, Z, C) -> (B, X / 2, Y / 2, Z / 2, 2C), rounded up."""
        if images.ndim == 4:
            return super().forward(images)
        depth, height, width = (length % 2 for length in images.shape[1:4])
        even = pad(images, (0, 0, 0, width, 0, height, 0, depth))
        return self.reduction(self.norm(torch.cat([even[:, i::2, j::2, k::2] for i, j, k in REPEATED], dim=-1)))


def _require_whole(dims: int, patch, window, width: int, depths, heads) -> None:
    """That arguments go together; raises InputError with all that do not."""
    problems = axis_problems(dims, patch_size=patch, window_size=window)
    for name, given in (("depths", depths), ("heads", heads)):
        if len(given) != 4:
            message = f"expected four whole numbers, one a stage; found {list(given)}"
            problems.append(Problem(f"{PLACE}.{name}", message))
    widths = [width * 2**stage for stage in range(len(heads))]
    shared = [f"{channels} by {count}" for channels, count in zip(widths, heads) if channels % count]
    if shared:
        message = f"channels cannot be shared evenly by the heads of attention: {', '.join(shared)}"
        problems.append(Problem(f"{PLACE}.heads", message))
    if problems:
        raise InputError(problems)
