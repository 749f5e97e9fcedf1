"""Which part of a preprocessed volume a network sees, and what is done to a batch on its way to the device."""

from typing import Literal

import numpy as np

from tlimb.errors import InputError, Problem

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a RAS volume along which slices are counted."""


class BaseDataModule:
    """Whole volumes, one channel: (X, Y, Z) in the store, (1, X, Y, Z) for the network.

    A subclass says which box of the volume it needs, so that no more is read, and turns it into an image. The two hooks
    are Lightning's: they see each batch before and after it is moved to the device; `training` tells which part it is
    of.
    """

    training = False

    def box(self, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The part of a volume of this shape that is read. Raises InputError where it does not fit."""
        return tuple(slice(0, size) for size in shape)

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, x, y, z) as images (n, C, ...)."""
        return boxes[:, None]

    def input_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """(C, ...) of one image from volumes of this shape."""
        sizes = [part.stop - part.start for part in self.box(shape)]
        return self.arrange(np.empty((1, *sizes), dtype="bool")).shape[1:]

    def on_before_batch_transfer(self, batch, dataloader_idx: int):
        """The batch (images, labels) as it leaves for the device."""
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """The batch as it arrives on the device: the place for augmentation, when `training`."""
        return batch

    def augments(self) -> bool:
        """Whether a hook may change images, so that features cannot be computed once for all epochs."""
        hooks = ("on_before_batch_transfer", "on_after_batch_transfer")
        return any(getattr(type(self), hook) is not getattr(BaseDataModule, hook) for hook in hooks)


class CropCenterDataModule(BaseDataModule):
    """The centre of a volume, whole or as central slices.

    size: voxels kept around the centre, three numbers (x, y, z), or the two within the slice where `slices` is set;
    null keeps all. slices: null for a volume (1, x, y, z), or the plane of `count` neighbouring central slices, which
    become channels (count, ...).
    """

    def __init__(
        self,
        size: list[int] | None = None,
        slices: Literal["axial", "coronal", "sagittal"] | None = None,
        count: int = 1,
    ):
        problems = []
        numbers = 3 if slices is None else 2
        if size is not None and (len(size) != numbers or min(size) < 1):
            problems.append(
                Problem("module.init_args.size", f"expected {numbers} positive whole numbers, found {size}")
            )
        if count < 1:
            problems.append(Problem("module.init_args.count", f"expected at least 1, found {count}"))
        if slices is None and count != 1:
            problems.append(Problem("module.init_args.count", "counts slices, and `slices` is not set"))
        if problems:
            raise InputError(problems)
        self.size, self.slices, self.count = size, slices, count

    def box(self, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        """The centre of a volume; an axis that cannot be halved evenly keeps one voxel more at its end."""
        wanted = list(self.size or [n for axis, n in enumerate(shape) if axis != self._axis()])
        if self.slices is not None:
            wanted.insert(self._axis(), self.count)
        if any(want > have for want, have in zip(wanted, shape)):
            message = (
                f"a centre of {'x'.join(map(str, wanted))} voxels does not fit volumes of {'x'.join(map(str, shape))}"
            )
            raise InputError([Problem("module CropCenterDataModule", message)])
        starts = [(have - want) // 2 for want, have in zip(wanted, shape)]
        return tuple(slice(start, start + want) for start, want in zip(starts, wanted))

    def arrange(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, x, y, z) as volumes (n, 1, x, y, z) or, slices as channels, as images (n, count, ...)."""
        return boxes[:, None] if self.slices is None else np.moveaxis(boxes, self._axis() + 1, 1)

    def _axis(self) -> int | None:
        return AXES.get(self.slices)
