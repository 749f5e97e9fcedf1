"""A recurrent network over the slices of a volume."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from tlimb.architectures.arguments import require_numbers
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

FEATURES = 64


class SliceLSTM(nn.Module):
    """Encoder (B, in_channels, X, Y, Z) -> (B, 64): slices through a 2D encoder, then in their order through an LSTM.

    Lam et al. (2020), "Accurate brain age prediction using recurrent slice-based networks", SIPAIM, in the code that
    Gupta et al. (2021, ISBI) compare with:

    ==============  ====================================================  ==============
    part            what it does                                          shape
    ==============  ====================================================  ==============
    slice_encoder   SliceCNN                                              (B, K, 64)
    projection      dropout 0.5, linear                                   (B, K, width)
    lstm            one layer; its state after the last slice             (B, state)
    hidden          linear, ReLU                                          (B, 64)
    (head)          linear: the last layer of the published network
    ==============  ====================================================  ==============

    axis: that is cut, of volumes in RAS order. width: features of a slice, 2 in the code. state: of the LSTM.
    slice_encoder: a 2D architecture as in SliceSet; the code has SliceCNN alone, initialised by He's rule.
    in_channels, input_shape: decided by the data. Raises InputError where a slice is too small and for
    numbers out of range.
    """

    dims, kinds, features = 3, (3,), FEATURES
    reference = "Lam et al. 2020, SIPAIM"

    def __init__(
        self,
        axis: Literal["sagittal", "coronal", "axial"] = "sagittal",
        width: int = 2,
        state: int = 128,
        slice_encoder: str | dict = "SliceCNN",
        in_channels: int = 1,
        input_shape: tuple = (1, 91, 109, 91),
    ):
        super().__init__()
        require_numbers(counts={"width": width, "state": state})
        self.axis, self.channels = axis, width
        image = (in_channels, *slice_shape(input_shape, axis))
        self.slice_encoder = build_slice_encoder(slice_encoder, image, "SliceLSTM")
        self.dropout = nn.Dropout(getattr(self.slice_encoder, "head_dropout", 0.0))
        self.projection = projection_of(self.slice_encoder, width)
        self.lstm = nn.LSTM(width, state, batch_first=True)
        self.hidden = nn.Linear(state, FEATURES)
        initialise_as(self.slice_encoder, [self.projection, self.hidden])
        inner = [f"slice_encoder.{name}" for name in self.slice_encoder.blocks]
        self.blocks = (*inner, "projection", "lstm", "hidden")
        least = self.slice_encoder.smallest
        lengths = [least, least] if isinstance(least, int) else list(least)
        self.smallest = (*lengths[: AXES[axis]], 1, *lengths[AXES[axis] :])

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (B, 64) of volumes (B, in_channels, X, Y, Z)."""
        return self.pool(self.maps(volumes))

    def maps(self, volumes: Tensor) -> Tensor:
        """What the LSTM takes, (B, width, K, 1, 1) with the K slices at the place of the axis."""
        slices = cut(volumes, self.axis)
        embeddings = self.projection(self.dropout(self.slice_encoder(slices.flatten(0, 1))))
        return standing(embeddings.unflatten(0, slices.shape[:2]), self.axis)

    def pool(self, maps: Tensor) -> Tensor:
        """The LSTM's last state through the hidden layer, (B, 64)."""
        _, (last, _) = self.lstm(lying(maps))
        return relu(self.hidden(last[0]))

    def levels(self, volumes: Tensor) -> list[Tensor]:
        """The maps alone: slices have no finer ones in common."""
        return [self.maps(volumes)]
