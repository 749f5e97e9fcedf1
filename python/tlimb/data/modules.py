"""Which part of a preprocessed scan a network sees, and what is done to a batch on its way to the device."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tlimb.errors import InputError, Problem

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a RAS volume along which slices are counted."""

PASSED = ("on_before_batch_transfer", "on_after_batch_transfer", "present")
"""The methods of a data module that see each batch."""


class BaseDataModule:
    """Whole volumes, one channel: (X, Y, Z) in the store, (1, X, Y, Z) for the network.

    zoom: volumes are resized by this factor as they are read (0.5 halves every axis: each voxel is the mean of eight).
    Making volumes smaller averages, making them larger interpolates: see `resized`.

    A subclass says which box of the volume it needs, so that no more is read, and turns it into an image. The two hooks
    are Lightning's: they see each batch before and after it is moved to the device; `training` tells which part it is
    of. Voxels outside of the brain are the recipe's matter (`mask`): they are 0 in the store.
    """

    training = False
    zoom: float | None = None

    def __init__(self, zoom: float | None = None):
        if zoom is not None and not 0 < zoom <= 4:
            raise InputError([Problem("module.init_args.zoom", f"expected a factor above 0, at most 4, found {zoom}")])
        self.zoom = zoom

    def box(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of a scan of this shape that is read. Raises InputError where it does not fit."""
        return tuple(slice(0, size) for size in shape)

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, x, y, z) as images (n, C, ...)."""
        return (boxes if self.zoom is None else resized(boxes, self.zoom))[:, None]

    def present(self, images, training: bool):
        """Images (B, C, ...) on the device as the network sees them: the place for windows and crops that move in
        training and stand still otherwise."""
        return images

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, ...) of one image, as the network sees it, from scans of this shape."""
        import torch

        return tuple(self.present(torch.zeros(1, *arranged_shape(self, shape)), False).shape[1:])

    def on_before_batch_transfer(self, batch, dataloader_idx: int):
        """The batch (images, labels) as it leaves for the device."""
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """The batch as it arrives on the device, after `present` and augmentation."""
        return batch

    def augments(self) -> bool:
        """Whether images may differ from epoch to epoch, so that features cannot be computed once for all epochs."""
        return overrides(self, BaseDataModule)


def arranged_shape(module: BaseDataModule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, ...) of one image as a module arranges it, from scans of this shape."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(module.box(shape), shape)]
    return module.arrange(np.zeros((1, *sizes), dtype="float16")).shape[1:]


def overrides(module: BaseDataModule, base: type[BaseDataModule]) -> bool:
    """Whether a module does something else to batches than `base`."""
    return any(getattr(type(module), name) is not getattr(base, name) for name in PASSED)


def resized(volumes: np.ndarray, factor: float) -> np.ndarray:
    """Volumes (n, x, y, z) resized by a factor, float32; the volumes' edges stay where they are.

    Larger: trilinear. Smaller: each voxel is the mean of all voxels that it covers wholly or in part, so none is lost.
    """
    import torch

    sizes = [max(round(size * factor), 1) for size in volumes.shape[1:]]
    tensor = torch.from_numpy(volumes[:, None].astype("float32"))
    if factor < 1:
        return torch.nn.functional.adaptive_avg_pool3d(tensor, sizes)[:, 0].numpy()
    return torch.nn.functional.interpolate(tensor, size=sizes, mode="trilinear", align_corners=False)[:, 0].numpy()


def padded(boxes: np.ndarray, sizes: Sequence[int | None]) -> np.ndarray:
    """Boxes (n, x, y, z) with zeros around them up to `sizes`, one more at the end where it cannot be even."""
    lacking = [max((want or have) - have, 0) for have, want in zip(boxes.shape[1:], sizes)]
    if not any(lacking):
        return boxes
    return np.pad(boxes, [(0, 0), *((lack // 2, lack - lack // 2) for lack in lacking)])


class CropCenterDataModule(BaseDataModule):
    """The centre of a volume, whole or as slices.

    size: voxels kept around the centre, three numbers (x, y, z), or the two within the slice where `slices` is set;
    null keeps all. slices: null for a volume (1, x, y, z), or the plane of slices, which become channels (slices, ...):
    `count` central ones, or those from `start` up to but without `stop`; either every `step`-th. pad: put zeros around
    a volume that is smaller than `size`, which is refused otherwise.
    """

    def __init__(
        self,
        size: list[int] | None = None,
        slices: Literal["axial", "coronal", "sagittal"] | None = None,
        count: int = 1,
        start: int | None = None,
        stop: int | None = None,
        step: int = 1,
        pad: bool = False,
    ):
        self.size, self.slices, self.count = size, slices, count
        self.start, self.stop, self.step, self.pad = start, stop, step, pad
        problems = self._problems()
        if problems:
            raise InputError([Problem(f"module.init_args.{name}", message) for name, message in problems])

    def _problems(self) -> list[tuple[str, str]]:
        numbers, problems = 3 if self.slices is None else 2, []
        if self.size is not None and (len(self.size) != numbers or min(self.size) < 1):
            problems.append(("size", f"expected {numbers} positive whole numbers, found {self.size}"))
        for name in ("count", "step"):
            if getattr(self, name) < 1:
                problems.append((name, f"expected at least 1, found {getattr(self, name)}"))
        ranged = self.start is not None or self.stop is not None
        if self.slices is None and (self.count != 1 or self.step != 1 or ranged):
            problems.append(("slices", "is not set, and `count`, `start`, `stop`, `step` speak of slices"))
        if ranged and self.count != 1:
            problems.append(("count", "stands for central slices; leave it out beside `start` and `stop`"))
        if ranged and not 0 <= (self.start or 0) < (self.stop or 2**31):
            problems.append(("start", f"expected 0 <= start < stop, found {self.start} and {self.stop}"))
        return problems

    def box(self, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The centre of a volume; an axis that cannot be halved evenly keeps one voxel more at its end."""
        wanted = self._wanted(shape)
        across = self._axis()
        if not self.pad and any(want > have for axis, (want, have) in enumerate(zip(wanted, shape)) if axis != across):
            message = f"{_times(wanted)} voxels do not fit volumes of {_times(shape)}"
            raise InputError([Problem("module CropCenterDataModule", message, "`pad` puts zeros around them")])
        kept = [min(want, have) for want, have in zip(wanted, shape)]
        starts = [(have - want) // 2 for want, have in zip(kept, shape)]
        box = [slice(start, start + want) for start, want in zip(starts, kept)]
        if across is not None:
            box[across] = self._slices(shape[across])
        return tuple(box)

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, x, y, z) as volumes (n, 1, x, y, z) or, slices as channels, as images (n, slices, ...)."""
        boxes = padded(boxes, self._wanted(boxes.shape[1:]))
        return boxes[:, None] if self.slices is None else np.moveaxis(boxes, self._axis() + 1, 1)

    def _wanted(self, shape: Sequence[int]) -> list[int]:
        """The size of a volume's part that is kept; along the axis of slices all of it."""
        wanted = list(self.size or [size for axis, size in enumerate(shape) if axis != self._axis()])
        if self.slices is not None:
            wanted.insert(self._axis(), shape[self._axis()])
        return wanted

    def _slices(self, have: int) -> slice:
        span = (self.count - 1) * self.step + 1
        start, stop = (have - span) // 2, (have - span) // 2 + span
        if self.start is not None or self.stop is not None:
            start, stop = self.start or 0, have if self.stop is None else self.stop
        if not 0 <= start < stop <= have:
            message = f"slices {start} to {stop - 1} are wanted, and volumes have {have} {self.slices} slices"
            raise InputError([Problem("module CropCenterDataModule", message)])
        return slice(start, stop, self.step)

    def _axis(self) -> int | None:
        return AXES.get(self.slices)


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
