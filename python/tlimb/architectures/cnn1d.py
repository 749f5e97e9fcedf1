"""Convolutions over time, for series of regions."""

from typing import Literal

from torch import Tensor, nn

from tlimb.architectures.arguments import PLACE, require_numbers
from tlimb.errors import InputError, Problem


class CNN1D(nn.Module):
    """Plain convolutional network over time: (B, regions, timepoints) -> (B, last of `widths`).

    El Gazzar, Cerliani, van Wingen, Thomas (2019), "Simple 1-D convolutional networks for resting-state fMRI based
    classification in autism", IJCNN, take the regions of an atlas as channels and convolve over time alone. A block is
    that of the group's public code for a later comparison (convolution, batch norm, ReLU, maximum of 2), there without
    zeros beyond the ends; widths are the usual doubling, and the mean over time takes series of any length.

    =======  ===============================================================  ================
    block    layers                                                           timepoints
    =======  ===============================================================  ================
    1 to n   convolution, normalisation, ReLU, dropout, maximum of 2          halved, down
    (pool)   mean or maximum over time                                        1
    =======  ===============================================================  ================

    widths: channels of each block. kernel_size: timepoints that a convolution sees, odd; zeros stand beyond the ends.
    norm: "batch", "instance", "layer" (over channels and time of one series) or "none". dropout: of single values.
    pooling: how time is summed up. in_channels: decided by the data. Raises InputError for what cannot be.
    """

    reference = "El Gazzar et al. 2019, IJCNN"
    kinds = (1,)
    dims = 1

    def __init__(
        self,
        widths: list[int] = (64, 128, 256),
        kernel_size: int = 3,
        norm: Literal["batch", "instance", "layer", "none"] = "batch",
        dropout: float = 0.0,
        pooling: Literal["mean", "max"] = "mean",
        in_channels: int = 1,
    ):
        super().__init__()
        require_numbers(counts={"widths": widths}, rates={"dropout": dropout})
        _require_sensible(widths, kernel_size)
        inputs = (in_channels, *widths)
        self.blocks = tuple(f"block{number}" for number in range(1, len(widths) + 1))
        for number, (name, width) in enumerate(zip(self.blocks, widths)):
            convolution = nn.Conv1d(inputs[number], width, kernel_size, padding=kernel_size // 2, bias=norm == "none")
            after = [*_norm(norm, width), nn.ReLU(), nn.Dropout(dropout), nn.MaxPool1d(2)]
            self.add_module(name, nn.Sequential(convolution, *after))
        self.features = self.channels = widths[-1]
        self.pooling, self.smallest = pooling, 2 ** len(widths)

    def forward(self, series: Tensor) -> Tensor:
        """Features (B, features) of series (B, regions, timepoints)."""
        return self.pool(self.maps(series))

    def maps(self, series: Tensor) -> Tensor:
        """(B, channels, timepoints / 2^blocks), what the last block makes of the series."""
        return self.levels(series)[-1]

    def levels(self, series: Tensor) -> list[Tensor]:
        """What each block makes of the series, the finest first."""
        levels = []
        for name in self.blocks:
            series = self.get_submodule(name)(series)
            levels.append(series)
        return levels

    def pool(self, maps: Tensor) -> Tensor:
        """(B, channels, timepoints) -> (B, channels)."""
        return maps.mean(dim=2) if self.pooling == "mean" else maps.amax(dim=2)


def _require_sensible(widths: list[int], kernel_size: int) -> None:
    problems = []
    if not widths:
        problems.append(Problem(f"{PLACE}.widths", "expected a number of channels for each block, found none"))
    if kernel_size < 1 or kernel_size % 2 == 0:
        message = f"expected an odd number, so that timepoints stay where they are, found {kernel_size}"
        problems.append(Problem(f"{PLACE}.kernel_size", message))
    if problems:
        raise InputError(problems)


def _norm(norm: str, width: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm1d(width)]
    groups = {"instance": width, "layer": 1}
    return [nn.GroupNorm(groups[norm], width)] if norm in groups else []
