"""Gated recurrent units over time, for series of regions."""

from typing import Literal

import torch
from torch import Tensor, nn

from tlimb.architectures.arguments import require_numbers


class GRU(nn.Module):
    r"""Gated recurrent network over time: (B, regions, timepoints) -> (B, width), twice that in both directions.

    Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    EMNLP; torch's form of it. With x_t the regions at time t and h_t the state,

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1},    h_0 = 0.

    Dvornek, Ventola, Pelphrey, Duncan (2017), "Identifying autism from resting-state fMRI using long short-term memory
    networks", MLMI, take the mean over time of the states; the last state is the other usual choice.

    A layer is a block: layer1, layer2, ..., each reading the states of the one before, with dropout between them.

    width: of the state. layers: their number. bidirectional: a second state runs from the end to the start, and the two
    stand side by side. pooling: "mean" over time, or the "last" state of each direction. dropout: between layers.
    in_channels: decided by the data. Raises InputError for numbers out of range.

    On a GPU cuDNN gives the same gradients in every run only with the workspace that tlimb's training asks for
    (CUBLAS_WORKSPACE_CONFIG), and none at all in evaluation mode: there torch's own slower form computes them.
    """

    reference = "Cho et al. 2014, EMNLP"
    kinds = (1,)
    dims = 1
    smallest = 1

    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        bidirectional: bool = False,
        pooling: Literal["mean", "last"] = "mean",
        dropout: float = 0.0,
        in_channels: int = 1,
    ):
        super().__init__()
        require_numbers(counts={"width": width, "layers": layers}, rates={"dropout": dropout})
        self.features = self.channels = width * (2 if bidirectional else 1)
        self.blocks = tuple(f"layer{number}" for number in range(1, layers + 1))
        self.bidirectional, self.pooling = bidirectional, pooling
        for number, name in enumerate(self.blocks):
            inputs = self.features if number else in_channels
            self.add_module(name, nn.GRU(inputs, width, batch_first=True, bidirectional=bidirectional))
        self.between = nn.Dropout(dropout)

    def forward(self, series: Tensor) -> Tensor:
        """Features (B, features) of series (B, regions, timepoints)."""
        return self.pool(self.maps(series))

    def maps(self, series: Tensor) -> Tensor:
        """(B, channels, timepoints), the states of the last layer; of both directions those forth come first."""
        return self.levels(series)[-1]

    def levels(self, series: Tensor) -> list[Tensor]:
        """The states of each layer, (B, channels, timepoints)."""
        states, levels = series.transpose(1, 2), []
        for number, name in enumerate(self.blocks):
            states = self._states(self.get_submodule(name), self.between(states) if number else states)
            levels.append(states.transpose(1, 2))
        return levels

    def pool(self, maps: Tensor) -> Tensor:
        """(B, channels, timepoints) -> (B, channels)."""
        if self.pooling == "mean":
            return maps.mean(dim=2)
        if not self.bidirectional:
            return maps[:, :, -1]
        there, back = maps.chunk(2, dim=1)
        return torch.cat([there[:, :, -1], back[:, :, 0]], dim=1)

    def _states(self, layer: nn.GRU, series: Tensor) -> Tensor:
        """(B, timepoints, channels). cuDNN has no backward pass in evaluation mode."""
        if layer.training or not (series.is_cuda and torch.is_grad_enabled()):
            return layer(series)[0]
        with torch.backends.cudnn.flags(enabled=False):
            return layer(series)[0]
