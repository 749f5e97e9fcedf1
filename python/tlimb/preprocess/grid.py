"""Cropping and padding about the centre."""

import numpy as np

from tlimb.preprocess.volume import Volume


def centred(volume: Volume, shape) -> tuple[Volume, np.ndarray]:
    """The volume cropped or padded with zeros about its centre to `shape`, and which voxels lay in it (bool).

    An odd number of voxels to take away or add leaves one more at the far end of the axis than at the near one.
    """
    inside = np.zeros([int(size) for size in shape], bool)
    data = np.zeros(inside.shape, volume.data.dtype)
    ends = [_overlap(have, want) for have, want in zip(volume.data.shape, inside.shape)]
    source, target = (tuple(end[part] for end in ends) for part in (0, 1))
    data[target], inside[target] = volume.data[source], True
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [end[0].start - end[1].start for end in ends]
    return Volume(data, affine), inside


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    start = abs(have - want) // 2
    near, length = slice(start, start + min(have, want)), slice(0, min(have, want))
    return (near, length) if have > want else (length, near)
