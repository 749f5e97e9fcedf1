"""Atlases: label images in MNI space that cut the brain into regions, and one made from the template."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from tlimb.errors import InputError, Problem, nearest

BLOCKS = (4, 2, 2)  # parts of each half of the brain: from back to front, from below to above, from the midline out
HEIGHTS, DEPTHS = ("lower", "upper"), ("inner", "outer")
ENDINGS = (".nii", ".nii.gz")
LABEL_COLUMNS, NAME_COLUMNS = ("index", "label", "value", "id"), ("name", "region", "label")


@dataclass(frozen=True)
class Atlas:
    """Regions of the brain.

    names: one a region, in the order of their numbers.  numbers: (R,) the values in `labels` that stand for them.
    labels: (X, Y, Z) int32, 0 where there is no region.  affine: (4, 4), voxel index -> MNI mm.
    digest: 16 hexadecimal digits of the SHA-256 of all this; atlases of one digest are equal.
    """

    names: tuple[str, ...]
    numbers: np.ndarray = field(compare=False)
    labels: np.ndarray = field(compare=False)
    affine: np.ndarray = field(compare=False)
    digest: str


@lru_cache(maxsize=4)
def load_atlas(name_or_path: str) -> Atlas:
    """An atlas by its short name, or from a 3D label image or a folder that holds one and nothing else of its kind.

    A table beside the image, <image>.tsv or .csv, names the regions: the columns `index` and `name`, or its first two.
    Raises InputError naming the file where it cannot be read, is no label image, or its table does not fit.
    """
    if str(name_or_path) in SHORT_NAMES:
        return SHORT_NAMES[str(name_or_path)]()
    path = _image_of(Path(name_or_path))
    labels, affine = _read_labels(path)
    numbers = np.unique(labels[labels > 0])
    return _atlas(_read_names(path, numbers), numbers, labels, affine)


def blocks() -> Atlas:
    """The brain of the MNI152 template in 32 blocks, mirror images of each other, equal in volume within 6 %.

    Each half is cut into quarters from back (1) to front (4), each of these into halves from below to above, each of
    those into halves from the midline outwards. The plane between the halves belongs to neither.
    """
    from tlimb.preprocess.template import template_path

    image = nib.load(template_path())
    brain, affine = np.asarray(image.dataobj) > 0, np.asarray(image.affine, float)
    half = np.argwhere(brain)
    places = half @ affine[:3, :3].T + affine[:3, 3]
    left = places[:, 0] < 0
    half, places = half[left], places[left]
    part = _equal_parts(np.zeros(len(half), int), places[:, 1], BLOCKS[0])
    part = _equal_parts(part, places[:, 2], BLOCKS[1])
    part = _equal_parts(part, -places[:, 0], BLOCKS[2])
    labels = np.zeros(brain.shape, np.int32)
    labels[tuple(half.T)] = part + 1
    mirrored = np.round((-places[:, 0] - affine[0, 3]) / affine[0, 0]).astype(int)
    labels[mirrored, half[:, 1], half[:, 2]] = part + 1 + np.prod(BLOCKS)
    kinds = [f"{y + 1}-{HEIGHTS[z]}-{DEPTHS[x]}" for y, z, x in np.ndindex(*BLOCKS)]
    names = [f"{side}-{kind}" for side in ("left", "right") for kind in kinds]
    return _atlas(names, np.arange(1, len(names) + 1), labels, affine)


SHORT_NAMES = {"blocks": blocks}
"""The atlases that need no file."""


def _equal_parts(part: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """Each part cut along `place` into `count` parts that hold as near to the same number of voxels as planes allow."""
    finer = np.zeros_like(part)
    for number in np.unique(part):
        inside = part == number
        edges = np.quantile(place[inside], np.arange(1, count) / count)
        finer[inside] = number * count + np.searchsorted(edges, place[inside], side="left")
    return finer


def _atlas(names, numbers: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> Atlas:
    digest = hashlib.sha256("\n".join(names).encode())
    for part in (numbers.astype(np.int32), labels, affine.astype(np.float64)):
        digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
    return Atlas(tuple(names), numbers, labels, affine, digest.hexdigest()[:16])


def _image_of(path: Path) -> Path:
    if path.is_dir():
        images = sorted(item for item in path.iterdir() if item.name.endswith(ENDINGS))
        if len(images) != 1:
            raise InputError([Problem(f"atlas {path}", f"expected one label image in the folder, found {len(images)}")])
        return images[0]
    if not path.is_file():
        hint = nearest(str(path), SHORT_NAMES)
        raise InputError([Problem(f"atlas {path}", "neither the name of an atlas nor a file", hint)])
    return path


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    where = f"atlas {path}"
    try:
        image = nib.load(path)
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError([Problem(where, f"cannot be read: {error}")]) from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        hint = "of an atlas of probabilities make a label image first" if values.ndim == 4 else ""
        raise InputError([Problem(where, f"expected a 3D label image, found shape {values.shape}", hint)])
    whole = values.dtype.kind in "iuf" and np.isfinite(values).all() and (values == np.round(values)).all()
    if not whole or np.abs(values).max() >= 2**31:
        raise InputError([Problem(where, "expected whole numbers as labels, found others")])
    if not (values > 0).any():
        raise InputError([Problem(where, "holds no label above 0")])
    affine = np.asarray(image.affine, float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InputError([Problem(where, "the header's affine is singular")])
    return np.maximum(values, 0).astype(np.int32), affine


def _read_names(path: Path, numbers: np.ndarray) -> list[str]:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    table = next((t for ending in (".tsv", ".csv") if (t := path.with_name(stem + ending)).is_file()), None)
    known = {} if table is None else _names_in(table)
    names = [known.get(int(number), f"label-{number}") for number in numbers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError([Problem(str(table), f"regions {', '.join(twice[:5])}: named more than once")])
    return names


def _names_in(table: Path) -> dict[int, str]:
    import pandas as pd

    try:
        frame = pd.read_csv(table, sep="\t" if table.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputError([Problem(str(table), f"cannot be read: {error}")]) from None
    if len(frame.columns) < 2:
        found = ", ".join(frame.columns)
        raise InputError([Problem(str(table), f"expected the columns index and name, found {found}")])
    lower = {column.lower(): column for column in frame.columns}
    number = next((lower[key] for key in LABEL_COLUMNS if key in lower), frame.columns[0])
    name = next((lower[key] for key in NAME_COLUMNS if key in lower and lower[key] != number), frame.columns[1])
    bad = [(row, text) for row, text in enumerate(frame[number], start=2) if not text.strip().isdecimal()]
    if bad:
        where = [(f"{table}, row {row}, column {number}", text) for row, text in bad[:20]]
        raise InputError([Problem(place, f"expected a whole number, found '{text}'") for place, text in where])
    return {int(key): value.strip() for key, value in zip(frame[number], frame[name])}
