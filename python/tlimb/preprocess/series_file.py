"""Which files can hold a time series, and what can be told of one without reading it whole."""

import csv
import math
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from tlimb.preprocess.nifti import Header, ScanError, opened, read_header, require_bytes

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": None}
"""What parts the columns of a table, by its ending; None stands for any white space."""

IMAGES = (".nii", ".nii.gz")
PARCELLATED = ".ptseries.nii"
OTHER_CIFTI = (".dtseries.nii", ".dscalar.nii", ".dlabel.nii", ".dconn.nii", ".pconn.nii", ".pscalar.nii")
MISSING = {"n/a", "na", "nan", "null", "none"}
LARGEST_TABLE = 2**30  # bytes
LARGEST_VOLUME = 2**26  # voxels of one time point
LONGEST_LINE = 2**22  # characters


def series_problem(path: str) -> str | None:
    """What is wrong with the time series at `path`, judged by name, size, header or first line; None where nothing is.

    Good are 4D NIfTI images and tables of time points by regions: .csv, .tsv, .txt (with or without a first line of
    names), .npy and .ptseries.nii.
    """
    try:
        if is_table(path):
            table_names(path)
        else:
            with opened(path, block=4096) as source:
                header = read_header(source)
                require_series(header, source.compressed, path)
                require_bytes(header, source)
    except ScanError as error:
        return str(error)
    return None


def is_table(path) -> bool:
    """Whether a file holds a value a region and time point rather than images, by its name; ScanError for others."""
    name = os.path.basename(path).lower()
    if name.endswith(OTHER_CIFTI):
        raise ScanError(f"of CIFTI files only {PARCELLATED} are read; make one with wb_command -cifti-parcellate")
    if name.endswith((*SEPARATORS, ".npy", PARCELLATED)):
        return True
    if not name.endswith(IMAGES):
        raise ScanError(
            "expected a 4D NIfTI image (.nii, .nii.gz) or a table of time points by regions (.csv, .tsv, .txt, .npy)"
        )
    return False


def require_series(header: Header, compressed: bool, path) -> None:
    """Raise ScanError where an image is not 4D, is named otherwise than it is packed, or is larger than any brain."""
    if compressed != str(path).lower().endswith(".gz"):
        raise ScanError("gzip-compressed but named .nii" if compressed else "named .nii.gz but not gzip-compressed")
    text = " x ".join(map(str, header.shape))
    if len(header.shape) != 4:
        raise ScanError(f"expected a 4D image, found {len(header.shape)}D ({text})")
    if math.prod(header.shape[:3]) > LARGEST_VOLUME:
        raise ScanError(f"{text} voxels: a time point is larger than any image of a brain")


def table_names(path) -> tuple[list[str], bool, bool]:
    """The regions of a table, whether a first line names them, and whether a first column counts the rows.

    A first line names regions where it holds something that is no number, or nothing but 0, 1, 2 … or 1, 2, 3 …, as
    tables without names are often written. Regions without a name are called region-1 and so on.
    Raises ScanError where the file cannot be read, holds no table, or a name stands twice.
    """
    path = Path(path)
    with opened(path, block=4096) as source:
        if source.size > LARGEST_TABLE:
            raise ScanError(f"larger than {LARGEST_TABLE // 2**20} MiB; expected a table of time points by regions")
    try:
        if path.name.lower().endswith(PARCELLATED):
            return _unrepeated([str(name) for name in parcellated(path).header.get_axis(1).name]), False, False
        if path.suffix.lower() == ".npy":
            return _named([""] * numbers_in(path).shape[1]), False, False
        return _first_line(path)
    except (OSError, EOFError, ValueError, csv.Error, ImageFileError) as error:
        reason = str(error).replace(str(path), path.name)
        raise ScanError(reason if isinstance(error, ScanError) else f"cannot be read: {reason}") from None


def parcellated(path: Path) -> nib.Cifti2Image:
    """The image in a .ptseries.nii file; raises ScanError where it is not one of time points by parcels."""
    image = nib.load(path)
    axes = []
    if isinstance(image, nib.Cifti2Image):
        axes = [type(image.header.get_axis(axis)).__name__ for axis in range(image.ndim)]
    if axes != ["SeriesAxis", "ParcelsAxis"]:
        raise ScanError("expected a CIFTI-2 file of time points by parcels")
    return image


def numbers_in(path: Path) -> np.ndarray:
    """The memory-mapped array in a .npy file; raises ScanError where it is not one of time points by regions."""
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim != 2:
        raise ScanError(f"expected time points by regions, found {values.ndim} axes {values.shape}")
    if values.dtype.kind not in "iuf":
        raise ScanError(f"expected numbers, found {values.dtype}")
    if 0 in values.shape:
        raise ScanError(f"an axis has length 0 {values.shape}")
    return values


def _first_line(path: Path) -> tuple[list[str], bool, bool]:
    separator = SEPARATORS[path.suffix.lower()]
    with open(path, encoding="utf-8-sig", newline="") as handle:
        line = next((line for line in iter(lambda: handle.readline(LONGEST_LINE), "") if line.strip()), "")
    cells = line.split() if separator is None else next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
    cells = [cell.strip() for cell in cells]
    if not cells:
        raise ScanError("the table holds no line")
    counts = [[str(number + first) for number in range(len(cells))] for first in (0, 1)]
    named = not all(map(_is_number, cells)) or (len(cells) > 1 and cells in counts)
    counted = named and cells[0] == "" and len(cells) > 1
    names = cells[1:] if counted else cells
    return _named(names if named and not all(map(_is_number, names)) else [""] * len(names)), named, counted


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.lower() in MISSING
    return True


def _named(names: list[str]) -> list[str]:
    return _unrepeated([name or f"region-{number}" for number, name in enumerate(names, start=1)])


def _unrepeated(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScanError(f"regions named more than once: {', '.join(twice[:5])}")
    return names
