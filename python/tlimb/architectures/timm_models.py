"""Any 2D network of timm as an encoder."""

from math import ceil

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.nn.functional import pad

from tlimb.architectures.arguments import PLACE, require_numbers
from tlimb.errors import InputError, Problem, nearest

CONTAINERS = ("blocks", "features", "layers", "stages")
"""Names that timm gives to a sequence of blocks."""


class Timm(nn.Module):
    """Encoder (B, C, H, W) -> (B, features): a network of timm by its name, without its classifier.

    Wightman (2019), "PyTorch image models", github.com/huggingface/pytorch-image-models.

    Weights are random, by timm's rules; published ones come from a file by the stage's `weights`, whose names are those
    of `model`. Networks for one size of image (ViT, Swin) are built for that of the data, with zeros after the end of
    an axis that is no multiple of their patch. Features are what timm's classifier would take. Blocks are the parts of
    timm's network with weights, sequences of blocks taken apart; a class token and positions go with the first.

    name: as in timm.list_models(). head_dropout: before the heads. in_channels, input_shape: decided by the data.
    Raises InputError for a name that timm does not have.
    """

    dims, kinds = 2, (2,)
    reference = "Wightman 2019, timm"
    example = {"name": "resnet18"}
    smallest = 32

    def __init__(
        self, name: str, head_dropout: float = 0.0, in_channels: int = 1, input_shape: tuple = (1, 224, 224)
    ):
        super().__init__()
        require_numbers(rates={"head_dropout": head_dropout})
        if not timm.is_model(name):
            message = f"timm has no model '{name}'"
            raise InputError([Problem(f"{PLACE}.name", message, nearest(name, timm.list_models()))])
        self.head_dropout = head_dropout
        self.patch = _patch(name)
        self.size = tuple(ceil(length / side) * side for length, side in zip(input_shape[1:], self.patch or (1, 1)))
        sized = {"img_size": self.size} if self.patch else {}
        self.model = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, **sized)
        self.channels, self.features = self.model.num_features, self.model.head_hidden_size
        self.channels_last = getattr(self.model, "output_fmt", "") == "NHWC"
        self.blocks = _blocks(self.model)
        grid = getattr(_embedding(self.model), "grid_size", None)
        if grid is not None and len({level["reduction"] for level in self.model.feature_info}) == 1:
            self.grid = tuple(grid)  # tokens, as many after each block

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, features) of images (B, C, H, W)."""
        return self.pool(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """timm's `forward_features`: (B, channels, h, w), or tokens as (B, channels, N), class token first."""
        return self._first(self.model.forward_features(self._padded(images)))

    def pool(self, maps: Tensor) -> Tensor:
        """timm's pooling and whatever layers stand between it and the classifier."""
        if maps.ndim == 3:
            maps = maps.transpose(1, 2)
        return self.model.forward_head(maps.permute(0, 2, 3, 1) if self.channels_last else maps, pre_logits=True)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps of each size, finest first; of networks of tokens the last alone."""
        if hasattr(self, "grid") or not hasattr(self.model, "forward_intermediates"):
            return [self.maps(images)]
        last, made = self.model.forward_intermediates(self._padded(images))
        maps = self._first(last)
        return [*(level for level in made if level.shape[2:] != maps.shape[2:]), maps]

    def fit_positions(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors, with the positions of patches resampled to the grid of this encoder.

        Touvron et al. (2019), "Fixing the train-test resolution discrepancy", NeurIPS, as timm does: bicubic; tokens
        before the patches keep theirs. Only `pos_embed`, one position for each patch, under whatever prefix.
        """
        own = getattr(self.model, "pos_embed", None)
        names = [name for name, tensor in tensors.items() if name.split(".")[-1] == "pos_embed" and tensor.ndim == 3]
        if own is None or not hasattr(self, "grid"):
            return tensors
        fixed = own.shape[1] - self.grid[0] * self.grid[1]
        grid = list(self.grid)
        return tensors | {name: resample_abs_pos_embed(tensors[name], grid, num_prefix_tokens=fixed) for name in names}

    def _padded(self, images: Tensor) -> Tensor:
        if self.patch is None:
            return images
        height, width = images.shape[2:]
        return pad(images, (0, self.size[1] - width, 0, self.size[0] - height))

    def _first(self, made: Tensor) -> Tensor:
        """Channels put first."""
        if made.ndim == 3:
            return made.transpose(1, 2)
        return made.permute(0, 3, 1, 2) if self.channels_last else made


def _patch(name: str) -> tuple[int, int] | None:
    """The least step by which images of a network can grow that is made for one size; None where any size will do."""
    configuration = get_pretrained_cfg(name)
    if configuration is None or not configuration.fixed_input_size:
        return None
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return tuple(getattr(_embedding(model), "patch_size", None) or (32, 32))


def _embedding(model: nn.Module) -> nn.Module | None:
    return getattr(model, "patch_embed", getattr(model, "stem", None))


def _blocks(model: nn.Module) -> tuple[str, ...]:
    names = []
    for name, part in model.named_children():
        parts = [f"{name}.{inner}" for inner, _ in part.named_children()] if name in CONTAINERS else [name]
        names += [f"model.{inner}" for inner in parts if any(True for _ in model.get_submodule(inner).parameters())]
    return tuple(names)
