"""An encoder with named heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Encoder(Protocol):
    """What an encoder offers.

    dims: axes of space that it takes: 1 for time series, 2 for slices, 3 for volumes. features: width of what `forward`
    gives. blocks: its submodules in the order in which an image passes them.

    It may also have `maps` and `pool`, with forward(images) == pool(maps(images)): maps(images) are (B, channels, ...),
    positions last, pool(maps) are (B, features); heads that look at positions need them, and the number `channels`.
    `levels(images)` is what its decoder takes, a list that ends with its maps. `head_dropout` is applied to features on
    their way to the heads, `smallest` the least length of each axis of space that it can take.

    Constructor arguments named `in_channels`, `input_shape` (C, ...) or `recipe` are filled in from the data.
    """

    dims: int
    features: int
    blocks: tuple[str, ...]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, ...) -> (B, features)."""


@dataclass(frozen=True)
class Passed:
    """What a network makes of images: the encoder's features (B, F) and the heads' outputs by their names."""

    features: Tensor
    outputs: dict[str, Tensor]


class Network(nn.Module):
    """Images (B, C, ...) -> {name of a head: what it makes of them}.

    channels_last: whether 2D images, and the weights that see them, are in channels-last order.

    A head says by its attribute `takes` what it is given: "features" (where it says nothing), "maps" or "levels" of the
    encoder. Heads are kept in a list because a target may bear a name that a module dictionary refuses.
    """

    def __init__(self, encoder: nn.Module, heads: dict[str, nn.Module]):
        super().__init__()
        self.encoder = encoder
        self.names = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.dropout = nn.Dropout(getattr(encoder, "head_dropout", 0.0))
        self.channels_last = not any(_is_thin(module) for module in encoder.modules())

    def forward(self, images: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The raw outputs of the heads `names`, of all where None."""
        return self.passed(images, names).outputs

    def passed(self, images: Tensor, names: Sequence[str] | None = None) -> Passed:
        """The encoder's features, before any dropout, and the raw outputs of the heads `names`, of all where None."""
        heads = self._chosen(names)
        kinds = {takes(head) for head in heads.values()}
        if kinds <= {"features"}:
            return self.passed_features(self.encode(images), names)
        images = self._laid_out(images)
        levels = self.encoder.levels(images) if "levels" in kinds else [self.encoder.maps(images)]
        features = self.encoder.pool(levels[-1])
        given = {"levels": levels, "maps": levels[-1], "features": self.dropout(features)}
        return Passed(features, {name: head(given[takes(head)]) for name, head in heads.items()})

    def passed_features(self, features: Tensor, names: Sequence[str] | None = None) -> Passed:
        """The same from features (B, features), for heads that take these alone."""
        return Passed(features, self.predict(features, names))

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, features); 2D images in channels-last order, which is a fifth faster on a CPU."""
        return self.encoder(self._laid_out(images))

    def visible(self, images: Tensor, keep: Tensor) -> Tensor:
        """The encoder's tokens of some patches, which it sees alone: see `ViT.visible`."""
        return self.encoder.visible(self._laid_out(images), keep)

    def predict(self, features: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Heads that take features alone, on features (B, features)."""
        features = self.dropout(features)
        return {name: head(features) for name, head in self._chosen(names).items()}

    def head(self, name: str) -> nn.Module:
        """One head by its name."""
        return self.heads[self.names.index(name)]

    def weights(self) -> dict[str, Tensor]:
        """All tensors by the names they have in files: ``encoder.<name>`` and ``heads.<head>.<name>``."""
        tensors = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        for name, head in zip(self.names, self.heads):
            tensors |= {f"heads.{name}.{key}": tensor for key, tensor in head.state_dict().items()}
        return tensors

    def _laid_out(self, images: Tensor) -> Tensor:
        turned = images.ndim == 4 and self.channels_last
        return images.contiguous(memory_format=torch.channels_last) if turned else images

    def _chosen(self, names: Sequence[str] | None) -> dict[str, nn.Module]:
        return {name: head for name, head in zip(self.names, self.heads) if names is None or name in names}


def takes(head: nn.Module) -> str:
    """What a head is given: "features", "maps" or "levels"."""
    return getattr(head, "takes", "features")


def _is_thin(module: nn.Module) -> bool:
    """Whether a layer must not see 2D images in channels-last order: torch 2.15 writes outside of its memory in the
    backward pass of a strided convolution with kernel 1 and fewer than 8 channels on a CPU."""
    strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1
    return strided and module.in_channels < 8
