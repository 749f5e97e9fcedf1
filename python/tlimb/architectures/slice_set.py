"""Networks that see a volume as the set of its slices."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tlimb.architectures.arguments import require_numbers
from tlimb.architectures.position import PositionEncoding
from tlimb.architectures.slice_cnn import SliceCNN
from tlimb.architectures.slices import (
    AXES,
    build_slice_encoder,
    cut,
    initialise_as,
    lying,
    projection_of,
    slice_shape,
    standing,
)
from tlimb.errors import InputError, Problem

FEATURES = 64


class SliceSet(nn.Module):
    """Encoder (B, 1, X, Y, Z) -> (B, 64): all slices through one 2D encoder, joined whatever their order.

    Gupta, Lam, Ver Steeg, Thompson (2021), "Improved brain age estimation with slice-based set networks", ISBI; Gupta,
    Chattopadhyay, Dhinagar, Thompson, Ver Steeg (2023), "Transferring models trained on natural images to 3D MRI via
    position encoded slice models", ISBI. For K slices x_k along `axis`, r the slice encoder, p_k a position encoding:

    ==============  ==================================================================  ==================
    part            what it does                                                        shape
    ==============  ==================================================================  ==================
    slice_encoder   r(x_k); SliceCNN 64, ResNet-18 512, ResNet-50 2048 features         (B, K, features)
    position        r(x_k) + p_k, layer norm; before or after the projection            as its input
    projection      dropout (the slice encoder's `head_dropout`), linear                (B, K, width)
    aggregation     mean, maximum or attention over the slices                          (B, width)
    hidden          linear, ReLU                                                        (B, 64)
    (head)          linear: the last layer of the published network
    ==============  ==================================================================  ==================

    With a linear head this is the published network tensor by tensor: its state dict loads by order and shape. Its
    own head starts with a bias of the mean age of its cohort, which standardised labels make 0.

    slice_encoder: a 2D architecture by short name or {"class_path", "init_args"}; its parameters have the names that
    they have in that architecture alone, under "slice_encoder". axis: of volumes in RAS order. position: trainable,
    sinusoidal (see PositionEncoding) or none. position_at: before or after the projection; as the code where null:
    before it with SliceCNN, after it with others. position_norm: layer norm after adding, as the code; the text has
    none. aggregation: see AttentionPool, with `attention_heads`. feed_forward: what follows attention; the code of
    2023 has a layer norm and then a linear layer, its text names them in the other order, the code of 2021 has neither.
    width: features of a slice that are aggregated, 32 in the code; null leaves the projection out, as the text reads
    for ResNets. neighbours: slices side by side that enter the slice encoder as channels, the code's `in_channel_2d`.
    repeat: how often a slice is repeated as channels; where null 3 for encoders other than SliceCNN, as the code does,
    so that ImageNet weights fit as they are, and 1 for SliceCNN and where there are several channels.
    in_channels, input_shape: decided by the data. Raises InputError for what does not fit them.

    Memory: all slices pass the slice encoder as one batch of B * K images, about K times what it needs for an image.
    """

    dims, kinds, features = 3, (3,), FEATURES
    reference = "Gupta et al. 2023, ISBI"

    def __init__(
        self,
        slice_encoder: str | dict = "SliceCNN",
        axis: Literal["sagittal", "coronal", "axial"] = "sagittal",
        position: Literal["trainable", "sinusoidal", "none"] = "none",
        position_at: Literal["before", "after"] | None = None,
        position_norm: bool = True,
        aggregation: Literal["mean", "max", "attention"] = "attention",
        attention_heads: int = 1,
        feed_forward: Literal["norm_linear", "linear_norm", "none"] = "norm_linear",
        width: int | None = 32,
        neighbours: int = 1,
        repeat: int | None = None,
        in_channels: int = 1,
        input_shape: tuple = (1, 91, 109, 91),
    ):
        super().__init__()
        counts = {"attention_heads": attention_heads, "width": width, "neighbours": neighbours, "repeat": repeat}
        require_numbers(counts=counts)
        self.axis, self.neighbours = axis, neighbours
        own = _is_slice_cnn(slice_encoder)
        self.repeat = repeat or (1 if own or neighbours > 1 or in_channels > 1 else 3)
        slices = input_shape[1 + AXES[axis]] - neighbours + 1
        _check(in_channels, slices, neighbours, self.repeat)
        image = (in_channels * self.repeat * neighbours, *slice_shape(input_shape, axis))
        self.slice_encoder = build_slice_encoder(slice_encoder, image, "SliceSet")
        self.smallest = _smallest(self.slice_encoder, axis, neighbours)
        self.channels = width or self.slice_encoder.features
        before = (position_at or ("before" if own else "after")) == "before"
        if before:
            self.position = _position(position, self.slice_encoder.features, axis, slices, position_norm)
        self.dropout = nn.Dropout(getattr(self.slice_encoder, "head_dropout", 0.0))
        self.projection = projection_of(self.slice_encoder, width) if width else nn.Identity()
        if not before:
            self.position = _position(position, self.channels, axis, slices, position_norm)
        self.position_before = before
        self.aggregation = _aggregation(aggregation, self.channels, attention_heads, feed_forward)
        self.hidden = nn.Linear(self.channels, FEATURES)
        initialise_as(self.slice_encoder, [self.projection, *self.aggregation.children(), self.hidden])
        parts = [name for name, part in self.named_children() if name != "slice_encoder" and list(part.parameters())]
        self.blocks = (*[f"slice_encoder.{name}" for name in self.slice_encoder.blocks], *parts)

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (B, 64) of volumes (B, in_channels, X, Y, Z)."""
        return self.pool(self.maps(volumes))

    def maps(self, volumes: Tensor) -> Tensor:
        """The embeddings that are aggregated, (B, width, K, 1, 1) with the K slices at the place of the axis."""
        slices = cut(volumes, self.axis, self.neighbours, self.repeat)
        embeddings = self.slice_encoder(slices.flatten(0, 1))
        if self.position_before:
            placed = self.position(standing(embeddings.unflatten(0, slices.shape[:2]), self.axis))
            embeddings = lying(placed).flatten(0, 1)
        maps = standing(self.projection(self.dropout(embeddings)).unflatten(0, slices.shape[:2]), self.axis)
        return maps if self.position_before else self.position(maps)

    def pool(self, maps: Tensor) -> Tensor:
        """Slices joined, (B, 64)."""
        return relu(self.hidden(self.aggregation(lying(maps))))

    def levels(self, volumes: Tensor) -> list[Tensor]:
        """The maps alone: slices have no finer ones in common."""
        return [self.maps(volumes)]

    def slice_weights(self, volumes: Tensor) -> Tensor:
        """What share of the attention each slice gets, (B, heads, K), in the order of the axis; each row sums to 1.

        Raises InputError where slices are not joined by attention.
        """
        if not isinstance(self.aggregation, AttentionPool):
            raise InputError([Problem("architecture SliceSet", "slices have weights with aggregation attention alone")])
        return self.aggregation.weights(lying(self.maps(volumes)))


class MeanPool(nn.Module):
    """(B, K, F) -> (B, F), the mean over K."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """The mean."""
        return embeddings.mean(dim=1)


class MaxPool(nn.Module):
    """(B, K, F) -> (B, F), the maximum over K."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """The maximum."""
        return embeddings.max(dim=1).values


class AttentionPool(nn.Module):
    """(B, K, F) -> (B, F) by attention with one trained query.

    In each of `heads` parts of d = F / heads features, with query q, keys W_k x + b_k and values W_v x + b_v:
    softmax_k(q . key_k / sqrt(d)) weighs the values. Parts are joined in their order; `feed_forward` follows.
    Lee et al. (2019), "Set Transformer", ICML, without its transformation of the query. Raises InputError where F is no
    multiple of `heads`.
    """

    def __init__(self, features: int, heads: int, feed_forward: str):
        super().__init__()
        if features % heads:
            message = f"expected a width that {heads} heads divide, found {features}"
            raise InputError([Problem("architecture SliceSet", message)])
        self.heads, self.feed_forward = heads, feed_forward
        self.query = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, features)))
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        if feed_forward != "none":
            self.norm = nn.LayerNorm(features)
            self.linear = nn.Linear(features, features)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Values weighed by attention, then the feed-forward part."""
        values = self._parted(self.value(embeddings))
        joined = (self.weights(embeddings)[:, :, None] @ values).flatten(1)
        if self.feed_forward == "none":
            return joined
        return self.linear(self.norm(joined)) if self.feed_forward == "norm_linear" else self.norm(self.linear(joined))

    def weights(self, embeddings: Tensor) -> Tensor:
        """The softmax over slices, (B, heads, K)."""
        keys = self._parted(self.key(embeddings))
        query = self._parted(self.query[None])
        return ((query @ keys.transpose(2, 3)).squeeze(2) / keys.shape[3] ** 0.5).softmax(dim=2)

    def _parted(self, rows: Tensor) -> Tensor:
        """(B, K, F) -> (B, heads, K, d)."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _is_slice_cnn(spec: str | dict) -> bool:
    name = spec if isinstance(spec, str) else spec.get("class_path")
    return name in ("SliceCNN", f"{SliceCNN.__module__}.SliceCNN")


def _check(in_channels: int, slices: int, neighbours: int, repeat: int) -> None:
    problems = []
    if slices < 1:
        problems.append(f"{neighbours} neighbours are more slices than the axis has, {slices + neighbours - 1}")
    if neighbours > 1 and (in_channels > 1 or repeat > 1):
        problems.append("neighbours are the channels of a slice: expected one channel in the data and no `repeat`")
    if problems:
        raise InputError([Problem("architecture SliceSet", problem) for problem in problems])


def _smallest(slice_encoder: nn.Module, axis: str, neighbours: int) -> tuple[int, int, int]:
    least = slice_encoder.smallest
    lengths = [least, least] if isinstance(least, int) else list(least)
    lengths.insert(AXES[axis], neighbours)
    return tuple(lengths)


def _position(kind: str, features: int, axis: str, slices: int, norm: bool) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    sizes = [features, 1, 1, 1]
    sizes[1 + AXES[axis]] = slices
    return PositionEncoding(kind, tuple(sizes), norm)


def _aggregation(kind: str, features: int, heads: int, feed_forward: str) -> nn.Module:
    if kind == "attention":
        return AttentionPool(features, heads, feed_forward)
    return MeanPool() if kind == "mean" else MaxPool()
