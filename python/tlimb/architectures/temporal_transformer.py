"""Self-attention over time, for series of regions."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from tlimb.architectures.arguments import PLACE, require_numbers
from tlimb.errors import InputError, Problem


class TemporalTransformer(nn.Module):
    """Transformer whose tokens are time points: (B, regions, timepoints) -> (B, width).

    Vaswani et al. (2017), "Attention is all you need", NeurIPS. The regions' values at one time point are projected to
    a token of `width`, positions in time are added, layers of self-attention follow; Malkiel et al. (2022),
    "Self-supervised transformers for fMRI representation", MIDL, and Bedel et al. (2023), "BolT: Fused window
    transformers for fMRI time series analysis", Medical Image Analysis 88, read fMRI in this way.

    ===========  ===================================================================================================
    block        layers
    ===========  ===================================================================================================
    embed        linear from regions to `width`, class token in front (if any), positions added, dropout
    layer1 to n  x + attention(norm(x)), then x + linear(GELU(linear(norm(x)))), `hidden` times as wide within
    norm         layer norm of each token
    (pool)       mean over time, or the class token
    ===========  ===================================================================================================

    Each layer equals torch.nn.TransformerEncoderLayer with norm_first and GELU, parameter by parameter. It is written
    out so that each weight belongs to a linear layer with a name, and that evaluation goes the way of training, where
    torch's takes another one.

    width: of a token. layers, heads: their numbers; heads must divide width. positions: "sinusoidal" (fixed), "learned"
    (for series of just this length) or "none". pooling: "mean" over time, or "token", as in Devlin et al. (2019),
    "BERT: Pre-training of deep bidirectional transformers for language understanding", NAACL. dropout: of tokens,
    attention and what each half of a layer adds. in_channels, input_shape: decided by the data.
    """

    reference = "Vaswani et al. 2017, NeurIPS"
    kinds = (1,)
    dims = 1
    smallest = 1

    def __init__(
        self,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        hidden: float = 4.0,
        positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal",
        pooling: Literal["mean", "token"] = "mean",
        dropout: float = 0.1,
        in_channels: int = 1,
        input_shape: tuple = (),
    ):
        super().__init__()
        counts = {"width": width, "layers": layers, "heads": heads}
        require_numbers(counts, factors={"hidden": hidden}, rates={"dropout": dropout})
        if width % heads:
            message = f"{width} cannot be shared by {heads} heads; it must be a multiple of their number"
            raise InputError([Problem(f"{PLACE}.width", message)])
        self.features = self.channels = width
        self.pooling = pooling
        self.embed = Tokens(in_channels, input_shape[-1], width, positions, pooling == "token", dropout)
        self.layers = [f"layer{number}" for number in range(1, layers + 1)]
        for name in self.layers:
            self.add_module(name, Layer(width, heads, int(width * hidden), dropout))
        self.norm = nn.LayerNorm(width)
        self.blocks = ("embed", *self.layers, "norm")

    def forward(self, series: Tensor) -> Tensor:
        """Features (B, width) of series (B, regions, timepoints)."""
        return self.pool(self.maps(series))

    def maps(self, series: Tensor) -> Tensor:
        """(B, width, timepoints), a token for each; the class token, if any, stands before them."""
        return self.levels(series)[-1]

    def levels(self, series: Tensor) -> list[Tensor]:
        """The tokens after each layer, (B, width, timepoints), the last ones normalised."""
        tokens, levels = self.embed(series), []
        for name in self.layers:
            tokens = self.get_submodule(name)(tokens)
            levels.append(tokens)
        levels[-1] = self.norm(tokens)
        return [level.transpose(1, 2) for level in levels]

    def pool(self, maps: Tensor) -> Tensor:
        """(B, width, timepoints) -> (B, width)."""
        return maps.mean(dim=2) if self.pooling == "mean" else maps[:, :, 0]


class Tokens(nn.Module):
    """(B, regions, timepoints) -> (B, timepoints, width), with a class token in front where `token` says so."""

    def __init__(self, regions: int, timepoints: int, width: int, positions: str, token: bool, dropout: float):
        super().__init__()
        self.project = nn.Linear(regions, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if token else None
        length = timepoints + token
        if positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(1, length, width))
        else:
            table = sinusoids(length, width) if positions == "sinusoidal" else None
            self.register_buffer("positions", table, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, series: Tensor) -> Tensor:
        """The tokens of series as long as those it was built for."""
        tokens = self.project(series.transpose(1, 2))
        if self.token is not None:
            tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.dropout(tokens if self.positions is None else tokens + self.positions)


class Layer(nn.Module):
    """Self-attention and a small network on each token, (B, N, width) in and out, both on normalised tokens."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """The tokens with what attention and the small network add."""
        tokens = tokens + self.dropout(self._attention(self.norm1(tokens)))
        within = self.dropout(gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout(self.linear2(within))

    def _attention(self, tokens: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(width / heads)) V of each head, projected."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        found = scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.project(found.transpose(1, 2).flatten(2))


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (1, length, width): at 2i sin(t / 10000^(2i / width)), at 2i + 1 its cosine (Vaswani et al. 2017)."""
    places = torch.arange(length)[:, None]
    angles = places / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None, :, :width]
