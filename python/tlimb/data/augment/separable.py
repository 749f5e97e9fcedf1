"""Products along each axis of an image in turn: what filters and smooth fields are made of."""

from collections.abc import Sequence

from torch import Tensor


def along_axes(images: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The images (n, C, ...) with spatial axis k multiplied by matrices[k]: (m, size), or (n, m, size) for each."""
    for axis, matrix in enumerate(matrices, start=2):
        images = _along(images, matrix, axis)
    return images


def _along(images: Tensor, matrix: Tensor, axis: int) -> Tensor:
    before, after = images.shape[1:axis], images.shape[axis + 1 :]
    if not after:
        product = images.flatten(1, -2) @ matrix.mT
    else:
        lines = images.reshape(len(images), before.numel(), images.shape[axis], after.numel())
        product = (matrix if matrix.ndim == 2 else matrix[:, None]) @ lines
    return product.reshape(len(images), *before, matrix.shape[-2], *after)
