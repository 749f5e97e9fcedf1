"""NIfTI files as they come from anywhere: read block by block, checked on the way, refused with a reason.

Nothing is allocated on the word of a header alone, a compressed file is inflated no further than its header promises,
only regular files are opened, and the digest of a file's bytes is taken from the very bytes that are decoded.
"""

import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from tlimb.preprocess.placement import placed

MOST_VOXELS = 2**29  # 2 GiB as float32
MOST_BYTES = 2**34  # of a file
MOST_OFFSET = 2**28  # bytes before the voxels
GZIP_MAGIC = b"\x1f\x8b"
GZIP_RATIO = 1032  # deflate's largest
BLOCK = 2**22  # bytes of voxels decoded at a time
MAGICS = {348: (slice(344, 348), b"n+1\0"), 540: (slice(4, 12), b"n+2\0\r\n\x1a\n")}
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ScanError(ValueError):
    """A scan that cannot be preprocessed; its text is the reason that the store's index gives."""


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says of its voxels.

    shape: axes without trailing ones of length 1.  offset: bytes before the voxels.  slope, intercept: of the stored
    numbers.  affine: (4, 4), voxel index -> mm, RAS+.  warnings: what is odd about where the header places them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    warnings: tuple[str, ...]

    @property
    def promised(self) -> int:
        """Bytes that the file holds if the header is right."""
        return self.offset + self.dtype.itemsize * math.prod(self.shape)


@contextmanager
def opened(path, digest=None, block: int = 2**18) -> Iterator["Source"]:
    """The bytes of a NIfTI file, inflated where they are compressed; waits for nothing and reads `block` at a time.

    digest: a hashlib object that is given every byte of the file once the file was read to its end.
    Raises ScanError where the path is not a regular file, may not be read, changes meanwhile, or its bytes are damaged.
    """
    if "\0" in str(path):
        raise ScanError("file not found")
    try:
        _require_file(os.stat(path))
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as handle:
            before = os.fstat(handle.fileno())
            _require_file(before)
            yield Source(handle, before.st_size, digest, block)
            after = os.fstat(handle.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ScanError("the file changed while it was read")
    except FileNotFoundError:
        raise ScanError("a link to a file that is not there" if os.path.islink(path) else "file not found") from None
    except PermissionError:
        raise ScanError("permission denied") from None
    except OSError as error:
        raise ScanError(f"cannot be read: {error.strerror or error}") from None
    except zlib.error as error:
        raise ScanError(f"damaged: {str(error).split(': ', 1)[-1]} in the compressed data") from None


def _require_file(status: os.stat_result) -> None:
    for is_kind, name in NOT_FILES:
        if is_kind(status.st_mode):
            raise ScanError(f"expected a file, found {name}")
    if status.st_size == 0:
        raise ScanError("the file is empty (0 bytes)")
    if status.st_size > MOST_BYTES:
        raise ScanError(f"{status.st_size} bytes are more than a scan can have ({MOST_BYTES})")


class Source:
    """An open file's bytes in order, inflated where it begins as gzip does.

    compressed: whether it does.  size: bytes of the file.  position: bytes handed out so far.
    """

    def __init__(self, handle, size: int, digest, block: int):
        self._handle, self._digest, self._block = handle, digest, block
        self._waiting = self._take()
        self._member = zlib.decompressobj(31)
        self.compressed = self._waiting.startswith(GZIP_MAGIC)
        self.size, self.position = size, 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the file or where the compressed data break off."""
        parts, wanted = [], size
        while wanted > 0 and (part := self._next(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.position += size - wanted
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, or what there is."""
        while size > 0 and (part := self.read(min(size, self._block))):
            size -= len(part)

    def finish(self) -> None:
        """Read to the end of the file, so that checksum and digest are complete, inflating little more."""
        if self.compressed and len(self.read(self._block)) < self._block and not self._member.eof:
            raise ScanError("truncated: the compressed data break off before their checksum")
        self.drain()

    def drain(self) -> None:
        """Read to the end of the file for its digest's sake, inflating nothing."""
        while self._take():
            pass

    def _take(self) -> bytes:
        part = self._handle.read(self._block)
        if self._digest is not None:
            self._digest.update(part)
        return part

    def _next(self, most: int) -> bytes:
        if not self.compressed:
            part = self._waiting or self._take()
            self._waiting = part[most:]
            return part[:most]
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = self._waiting or self._take()
            if not data:
                return b""
            part = self._member.decompress(data, most)
            self._waiting = self._member.unconsumed_tail
            if part:
                return part

    def _next_member(self) -> bool:
        """Go on to the gzip member that follows the one just ended; False where none does."""
        rest = self._member.unused_data or self._take()
        if len(rest) == 1:
            rest += self._take()
        if not rest.startswith(GZIP_MAGIC):
            return False
        self._member, self._waiting = zlib.decompressobj(31), rest
        return True


def read_header(source: Source) -> Header:
    """The header at the start of a source; raises ScanError with what is wrong where it makes no sense."""
    first = source.read(348)
    if len(first) < 348:
        raise ScanError(f"not a readable NIfTI file: {len(first)} bytes are too few for a header")
    order, size = next((found for found in _sizes(first) if found[1] in MAGICS), (None, 0))
    if order is None:
        raise ScanError("not a readable NIfTI file: it does not begin as a header does")
    where, magic = MAGICS[size]
    if first[where] != magic:
        pair = first[where][:2] == b"ni"
        raise ScanError(
            "not a readable NIfTI file: the header of a pair (.hdr, .img), expected header and voxels in one file"
            if pair
            else f"not a readable NIfTI file: its magic is {first[where]!r}, expected {magic!r}"
        )
    first += source.read(size - 348)
    if len(first) < size:
        raise ScanError(f"not a readable NIfTI file: {len(first)} bytes are too few for a header")
    try:
        with np.errstate(all="ignore"):
            return _parsed(HEADERS[size](first, order, check=False), size)
    except ScanError:
        raise
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ScanError(f"not a readable NIfTI file: {error}") from None


def _sizes(first: bytes) -> list[tuple[str, int]]:
    return [("<", int.from_bytes(first[:4], "little")), (">", int.from_bytes(first[:4], "big"))]


def _parsed(header, size: int) -> Header:
    fields = header.structarr
    shape = _shape(fields["dim"])
    try:
        affine, warnings = placed(header, shape)
    except ValueError as error:
        raise ScanError(str(error)) from None
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        raise ScanError("the header's intercept is not finite")
    offset = float(fields["vox_offset"]) or size + 4
    if not size <= offset <= MOST_OFFSET:
        raise ScanError(f"the header places the voxels at byte {offset:g}, expected {size + 4} or somewhat more")
    return Header(shape, _dtype(header), int(offset), slope, intercept, affine, tuple(warnings))


def _dtype(header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        raise ScanError(f"expected numbers as voxels, found data type {header.structarr['datatype']}") from None
    if dtype.kind not in "iuf":
        raise ScanError(f"expected numbers as voxels, found {'colours' if dtype.fields else dtype}")
    return dtype


def _shape(dim) -> tuple[int, ...]:
    count, lengths = int(dim[0]), [int(length) for length in dim[1:]]
    if not 1 <= count <= 7:
        raise ScanError(f"the header gives {count} axes, expected 3")
    shape = lengths[:count]
    text = " x ".join(map(str, shape))
    if min(shape) < 0:
        raise ScanError(f"an axis has a negative length ({text})")
    if 0 in shape:
        raise ScanError(f"an axis has length 0 ({text})")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def require_volume(header: Header) -> None:
    """Raise ScanError where the voxels are not a 3D image or more than can be worked on."""
    text = " x ".join(map(str, header.shape))
    if len(header.shape) != 3:
        raise ScanError(f"expected a 3D image, found {len(header.shape)}D ({text})")
    if math.prod(header.shape) > MOST_VOXELS:
        raise ScanError(f"{text} voxels are more than can be worked on ({MOST_VOXELS}, 2 GiB of memory)")


def require_bytes(header: Header, source: Source) -> None:
    """Raise ScanError where the file is too small for what its header promises, whatever it holds."""
    most, held = source.size, f"holds {source.size}"
    if source.compressed:
        most, held = source.size * GZIP_RATIO, f"of {source.size} compressed ones cannot hold them"
    if header.promised > most:
        raise ScanError(f"truncated: the header promises {header.promised} bytes, the file {held}")


def read_voxels(path, digest=None) -> tuple[np.ndarray, Header]:
    """The voxels of a 3D image with slope and intercept applied, (X, Y, Z) float32, first axis fastest, and its header.

    digest: a hashlib object that is given the file's bytes. Raises ScanError with the reason where that cannot be.
    """
    with opened(path, digest) as source:
        header = read_header(source)
        require_volume(header)
        require_bytes(header, source)
        source.skip(header.offset - source.position)
        values = _decoded(source, header)
        source.finish()
    return values.reshape(header.shape, order="F"), header


def _decoded(source: Source, header: Header) -> np.ndarray:
    count, width = math.prod(header.shape), header.dtype.itemsize
    values = np.empty(count, np.float32)
    plain = (header.slope, header.intercept) == (1.0, 0.0)
    for start in range(0, count, BLOCK // width):
        end = min(start + BLOCK // width, count)
        raw = source.read((end - start) * width)
        if len(raw) < (end - start) * width:
            raise ScanError(
                f"truncated: the header promises {header.promised} bytes, the file holds {source.position}"
            )
        stored = np.frombuffer(raw, header.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            values[start:end] = stored if plain else stored * np.float64(header.slope) + header.intercept
    return values
