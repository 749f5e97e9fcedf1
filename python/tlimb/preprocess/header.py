"""What can be told of a NIfTI file without reading its voxels."""

import gzip
import math
import os
import zlib

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

GZIP_MAGIC = b"\x1f\x8b"


def header_problem(path: str) -> str | None:
    """What is wrong with the image file at `path`, judged by its name, size and header; None where nothing is.

    Found are a missing or unreadable file, a wrong extension, a truncated file, an image that is not 3D (trailing axes
    of length 1 aside), an axis of length 0, and voxels that are not numbers. Only a compressed file whose recorded
    size does not fit is read further.
    """
    if not path.endswith((".nii", ".nii.gz")):
        return "expected a NIfTI file, .nii or .nii.gz"
    if not os.path.exists(path):
        return "file not found"
    if not os.path.isfile(path):
        return "expected a file, found a folder"
    try:
        return _content_problem(path, path.endswith(".gz"))
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        return f"not a readable NIfTI file: {str(error).replace(path, os.path.basename(path))}"


def _content_problem(path: str, compressed: bool) -> str | None:
    size = os.path.getsize(path)
    if size == 0:
        return "the file is empty (0 bytes)"
    with open(path, "rb") as handle:
        is_gzip = handle.read(2) == GZIP_MAGIC
    if is_gzip != compressed:
        return "named .nii.gz but not gzip-compressed" if compressed else "gzip-compressed but named .nii"
    image = nib.load(path)
    return _shape_problem(image) or _size_problem(path, size, compressed, image)


def _shape_problem(image) -> str | None:
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    text = " x ".join(map(str, shape))
    if len(shape) != 3:
        return f"expected a 3D image, found {len(shape)}D ({text})"
    if 0 in shape:
        return f"an axis has length 0 ({text})"
    if image.get_data_dtype().kind not in "iuf":
        return f"expected numbers as voxels, found {image.get_data_dtype()}"
    return None


def _size_problem(path: str, size: int, compressed: bool, image) -> str | None:
    promised = image.dataobj.offset + image.get_data_dtype().itemsize * math.prod(image.shape)
    if compressed:
        size = promised if _recorded_size(path) == promised % 2**32 else _uncompressed_size(path)
    return f"truncated: the header promises {promised} bytes, the file holds {size}" if size < promised else None


def _recorded_size(path: str) -> int:
    """The uncompressed size modulo 2^32 that gzip writes at the end of a file (of its last member)."""
    with open(path, "rb") as handle:
        handle.seek(-4, os.SEEK_END)
        return int.from_bytes(handle.read(4), "little")


def _uncompressed_size(path: str) -> int:
    size = 0
    with gzip.open(path) as handle:
        try:
            while block := handle.read1(2**16):
                size += len(block)
        except EOFError:
            pass
    return size
