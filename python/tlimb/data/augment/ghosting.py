"""Random ghosts: copies of the head along the phase-encoding direction, as pulsation and breathing leave them."""

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, any_axis, as_acquired, uniform
from tlimb.data.augment.kspace import by_axis, image_of, lines, weighted


class RandomGhosting(Augmentation):
    r"""Every g-th line of k-space, counted from its centre, is weakened by the factor 1 - s.

    Along an axis of N voxels that is x(p) - s/g sum_j x(p - j N/g) + s mean(x): g evenly spaced copies, each of s/g.
    The central share `restore` of k-space, and its centre at least, is left as it was. g is drawn from `ghosts` (both
    ends in), s from `intensity`, the axis from `axes` (null: any spatial axis). The lines are those of the signal,
    which is counted from the darkest voxel; voxels that are exactly 0, outside of the brain mask, stay 0.

    As RandomGhosting of TorchIO (Pérez-García et al. 2021, Computer Methods and Programs in Biomedicine 208), where
    lines are counted from the border of k-space.
    """

    def __init__(
        self,
        probability: float = 0.5,
        ghosts: list[int] = [4, 10],
        intensity: float | list[float] = [0.5, 1.0],
        restore: float = 0.02,
        axes: list[int] | None = None,
    ):
        arguments = Arguments("RandomGhosting")
        super().__init__(arguments.share("probability", probability), arguments.axes(axes))
        good = len(ghosts) == 2 and 2 <= ghosts[0] <= ghosts[1]
        arguments.require("ghosts", good, f"expected two whole numbers of at least 2 in rising order, found {ghosts}")
        self.ghosts = ghosts
        self.intensity = arguments.amounts("intensity", intensity, most=1)
        self.restore = arguments.share("restore", restore)
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """axis, ghosts, intensity: (B,)."""
        return {
            "axis": any_axis(self.axes, shape),
            "ghosts": torch.randint(self.ghosts[0], self.ghosts[1] + 1, (shape[0],)),
            "intensity": uniform(self.intensity, shape[0]),
        }

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Images with the same axis are changed together."""
        return as_acquired(images, lambda signal: self._ghosted(signal, drawn))

    def _ghosted(self, signal: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        for axis, rows in by_axis(drawn["axis"]):
            size, places = signal.shape[2 + axis], rows.to(signal.device)
            weights = self._weights(size, drawn["ghosts"][rows], drawn["intensity"][rows])
            spectrum = weighted(lines(signal[places], axis), axis, weights)
            signal.index_copy_(0, places, image_of(spectrum, axis, size))
        return signal

    def _weights(self, size: int, ghosts: Tensor, intensity: Tensor) -> Tensor:
        """(n, size // 2 + 1): what each frequency is multiplied by."""
        frequency = torch.arange(size // 2 + 1)
        weak = (frequency % ghosts[:, None] == 0) & (frequency > self.restore * size / 2)
        return 1 - intensity[:, None] * weak
