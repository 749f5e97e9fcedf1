"""Where a slice lies: vectors added to the embeddings of slices."""

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn


class PositionEncoding(nn.Module):
    """Embeddings (B, features, ...) -> the same shape: r_k + p_k, then layer norm unless switched off.

    kind: "trainable" p, normal at first with variance 1 / slices; or "sinusoidal", Vaswani et al. (2017), "Attention is
    all you need", NeurIPS: p[2i] = sin(k / 10000^(2i / features)), p[2i + 1] = cos(k / 10000^(2i / features)).
    sizes: of one set of embeddings, (features, K, 1, 1) with the K slices at the place of the axis that is cut.
    norm: over features and slices together, with a scale and shift for each, as the code of Gupta et al. (2023) has it;
    their text adds p alone.
    """

    def __init__(self, kind: Literal["trainable", "sinusoidal"], sizes: tuple[int, ...], norm: bool = True):
        super().__init__()
        slices = prod(sizes[1:])
        if kind == "trainable":
            self.encoding = nn.Parameter(torch.randn(1, *sizes) * slices**-0.5)
        else:
            waves = sinusoids(slices, sizes[0]).T.reshape(1, *sizes)
            self.register_buffer("encoding", waves, persistent=False)
        self.norm = nn.LayerNorm(sizes) if norm else nn.Identity()

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, *sizes) in and out."""
        return self.norm(embeddings + self.encoding)


def sinusoids(slices: int, features: int) -> Tensor:
    """Fixed encodings (slices, features) of positions counted from 0; see PositionEncoding."""
    position = torch.arange(slices, dtype=torch.float32)[:, None]
    even = torch.arange(0, features, 2, dtype=torch.float32)
    angles = position / 10000 ** (even / features)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :features]
