"""An encoder with one linear head a target."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Encoder(Protocol):
    """What an encoder class offers; it may also have `dims` (axes of space it takes) and `head_dropout`.

    Constructor arguments named `in_channels` or `input_shape` are filled in from the data.
    """

    features: int
    blocks: tuple[str, ...]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, ...) -> (B, features)."""


class Network(nn.Module):
    """Images (B, C, ...) -> {target: (B, outputs)}; the encoder may be frozen, heads are made for the targets.

    Heads are kept in a list because a target may bear a name that a module dictionary refuses.
    """

    def __init__(self, encoder: nn.Module, outputs: dict[str, int]):
        super().__init__()
        self.encoder = encoder
        self.targets = tuple(outputs)
        self.heads = nn.ModuleList(nn.Linear(encoder.features, count) for count in outputs.values())
        self.dropout = nn.Dropout(getattr(encoder, "head_dropout", 0.0))
        self.frozen = False

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Each head's raw output: the standardised value (B, 1) or logits (B, classes)."""
        return self.predict(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, features); 2D images in channels-last order, which is a fifth faster on a CPU."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.encoder(images)

    def predict(self, features: Tensor) -> dict[str, Tensor]:
        """The heads alone, on features (B, features)."""
        features = self.dropout(features)
        return {target: head(features) for target, head in zip(self.targets, self.heads)}

    def freeze_encoder(self) -> None:
        """Fix the encoder: no gradients, and evaluation mode for good: batch statistics stay, its dropout is off."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """Training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def weights(self) -> dict[str, Tensor]:
        """All tensors by the names they have in files: ``encoder.<name>`` and ``heads.<target>.<name>``."""
        tensors = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        for target, head in zip(self.targets, self.heads):
            tensors |= {f"heads.{target}.{name}": tensor for name, tensor in head.state_dict().items()}
        return tensors
