"""What can be told of a NIfTI file without decoding its voxels."""

import os

from tlimb.preprocess.nifti import ScanError, opened, read_header, require_bytes, require_volume


def header_problem(path: str) -> str | None:
    """What is wrong with the image file at `path`, judged by its name, size and header; None where nothing is.

    Found are what `tlimb.preprocess.nifti` refuses: a missing or unreadable file, a truncated one, an image that is
    not 3D (trailing axes of length 1 aside), an axis of length 0, voxels that are not numbers, an affine that makes no
    sense; and a wrong extension. Only a compressed file whose recorded size does not fit is read further.
    """
    if not path.endswith((".nii", ".nii.gz")):
        return "expected a NIfTI file, .nii or .nii.gz"
    try:
        return _content_problem(path, path.endswith(".gz"))
    except ScanError as error:
        return str(error)


def _content_problem(path: str, compressed: bool) -> str | None:
    with opened(path, block=4096) as source:
        if source.compressed != compressed:
            return "named .nii.gz but not gzip-compressed" if compressed else "gzip-compressed but named .nii"
        header = read_header(source)
        require_volume(header)
        require_bytes(header, source)
        if compressed and _recorded_size(path) != header.promised % 2**32:
            source.skip(header.promised - source.position)
            if source.position < header.promised:
                return f"truncated: the header promises {header.promised} bytes, the file holds {source.position}"
    return None


def _recorded_size(path: str) -> int:
    """The uncompressed size modulo 2^32 that gzip writes at the end of a file (of its last member)."""
    with open(path, "rb") as handle:
        handle.seek(-4, os.SEEK_END)
        return int.from_bytes(handle.read(4), "little")
