"""Random motion during the scan."""

import torch
from torch import Tensor

from tlimb.data.augment.arguments import Arguments
from tlimb.data.augment.augmentation import Augmentation, any_axis, as_acquired, uniform
from tlimb.data.augment.kspace import by_axis, image_of, lines, weighted
from tlimb.data.augment.resample import affine_places, rotation, sampled


class RandomMotion(Augmentation):
    r"""The head jumps `movements` times while k-space is filled line by line: F(x')(k) = F(x_j(k))(k).

    x_j is the image in pose j, turned by angles out of `degrees` about each axis and moved by voxels out of
    `translation`; one number stands for minus to plus itself. Lines are filled from the lowest frequency to the highest
    along one axis, drawn from `axes` (null: any spatial axis), in the pose of their time; the times of the jumps are
    uniform. The centre of k-space is filled in the head's own pose, so that the image stays in its place. x' is the
    real part. Poses are those of the signal, which is counted from the darkest voxel; voxels that are exactly 0,
    outside of the brain mask, stay 0.

    Shaw et al. (2019), "MRI k-space motion artefact augmentation", MIDL, as in RandomMotion of TorchIO.
    """

    def __init__(
        self,
        probability: float = 0.5,
        degrees: float | list[float] = 5.0,
        translation: float | list[float] = 2.0,
        movements: int = 4,
        axes: list[int] | None = None,
    ):
        arguments = Arguments("RandomMotion")
        super().__init__(arguments.share("probability", probability), arguments.axes(axes))
        self.degrees = arguments.deviations("degrees", degrees)
        self.translation = arguments.deviations("translation", translation)
        arguments.require("movements", movements >= 1, f"expected at least 1, found {movements}")
        self.movements = movements
        arguments.done()

    def parameters(self, shape) -> dict[str, Tensor]:
        """axis (B,), times (B, movements) rising from 0 to 1, degrees (B, movements, 1 or 3), translation likewise."""
        count, spatial = shape[0], len(shape) - 2
        return {
            "axis": any_axis(self.axes, shape),
            "times": torch.rand(count, self.movements).sort(dim=1).values,
            "degrees": uniform(self.degrees, count, self.movements, spatial * (spatial - 1) // 2),
            "translation": uniform(self.translation, count, self.movements, spatial),
        }

    def change(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Images with the same axis are changed together."""
        return as_acquired(images, lambda signal: self._moved(signal, drawn))

    def _moved(self, signal: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        for axis, rows in by_axis(drawn["axis"]):
            places = rows.to(signal.device)
            still, added = signal[places], 0
            shares = line_shares(drawn["times"][rows], signal.shape[2 + axis])
            for pose in range(self.movements):
                back = rotation(drawn["degrees"][rows, pose]).mT
                shift = -(back @ drawn["translation"][rows, pose, :, None])[..., 0]
                moved = sampled(still, affine_places(back, shift, still), "border")
                added = added + weighted(lines(moved - still, axis), axis, shares[:, pose])
            signal.index_copy_(0, places, still + image_of(added, axis, signal.shape[2 + axis]))
        return signal


def line_shares(times: Tensor, size: int) -> Tensor:
    """(n, movements, size // 2 + 1): the share of the lines k and -k that was filled in each pose; the rest in none."""
    line = torch.arange(size)
    period = ((line + 0.5) / size >= times[..., None]).sum(dim=1)
    own = period[:, size // 2, None]
    pose = torch.where(period > own, period - 1, torch.where(period == own, -1, period))
    filled = (pose[:, None] == torch.arange(times.shape[1])[:, None]).float()
    frequency = torch.arange(size // 2 + 1)
    # The real part of an image has the mean of a line and its mirror's conjugate at both frequencies.
    return (filled[..., (size // 2 + frequency) % size] + filled[..., size // 2 - frequency]) / 2
