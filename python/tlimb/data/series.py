"""Time series as a network sees them: windows of regions' signals."""

import numpy as np
import torch
from torch import Tensor

from tlimb.data.modules import BaseDataModule, overrides
from tlimb.errors import InputError, Problem


class SeriesDataModule(BaseDataModule):
    """Windows of time series: (timepoints, regions) in the store, (regions, window) for the network.

    window: time points that the network sees at once, null for all that the store holds. In training each scan's
    window begins at random, with every start that fits equally likely; otherwise it is the central one.
    regions: places of the regions to keep in the store's list of them, counted from 0, in the order wanted; null keeps
    all.
    """

    def __init__(self, window: int | None = None, regions: list[int] | None = None):
        problems = []
        if window is not None and window < 1:
            problems.append(Problem("module.init_args.window", f"expected at least 1 time point, found {window}"))
        if regions is not None and (not regions or min(regions) < 0 or len(set(regions)) < len(regions)):
            message = f"expected different places counted from 0, at least one, found {regions}"
            problems.append(Problem("module.init_args.regions", message))
        if problems:
            raise InputError(problems)
        self.window, self.regions = window, regions

    def box(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """All of a series (timepoints, regions). Raises InputError where window or regions do not fit it."""
        if len(shape) != 2:
            hint = "time series need a recipe of kind series"
            message = f"expected time series, the store holds {len(shape)}D images"
            raise InputError([Problem("module SeriesDataModule", message, hint)])
        problems = []
        if self.window is not None and self.window > shape[0]:
            problems.append(f"a window of {self.window} time points does not fit series of {shape[0]}")
        absent = [place for place in self.regions or [] if place >= shape[1]]
        if absent:
            problems.append(f"no region at {', '.join(map(str, absent))}; the store has {shape[1]}, counted from 0")
        if problems:
            raise InputError([Problem("module SeriesDataModule", message) for message in problems])
        return tuple(slice(0, size) for size in shape)

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Series (n, timepoints, regions) as images (n, regions, timepoints)."""
        return np.moveaxis(boxes if self.regions is None else boxes[:, :, self.regions], 1, 2)

    def present(self, images: Tensor, training: bool) -> Tensor:
        """Windows (B, regions, window): drawn at random for each scan in training, else the central one."""
        room = 0 if self.window is None else images.shape[2] - self.window
        if not room:
            return images
        if not training:
            return images[:, :, room // 2 : room // 2 + self.window]
        starts = torch.randint(room + 1, (len(images), 1))
        places = (starts + torch.arange(self.window)).to(images.device)
        return images.gather(2, places[:, None].expand(-1, images.shape[1], -1))

    def augments(self) -> bool:
        """Whether windows move in training."""
        return self.window is not None or overrides(self, SeriesDataModule)
