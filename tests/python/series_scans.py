"""Small time series for the tests: recipes, tables and 4D images."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from tlimb.config import SeriesRecipe


def recipe(**changes) -> SeriesRecipe:
    """A recipe that does nothing but average and cut, with changes."""
    plain = {"kind": "series", "timepoints": 40, "detrend": False, "standardise": "none"}
    return SeriesRecipe(**plain | changes)


def noise(points=40, regions=5, seed=0) -> np.ndarray:
    """Signals like a scanner's: around 1000 with a spread of 20."""
    return 1000 + 20 * np.random.default_rng(seed).standard_normal((points, regions))


def write(path: Path, values, names=None, **arguments) -> Path:
    """A table of values, with a first line of names where they are given."""
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        separator = {".csv": ",", ".tsv": "\t", ".txt": " "}[path.suffix]
        pd.DataFrame(values).to_csv(path, sep=separator, index=False, header=names or False, **arguments)
    return path


def four_d(path: Path, data, affine, tr=2.0, unit="sec") -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", unit)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    nib.save(image, path)
    return path


def coarse(points=40, spacing=12, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Random 4D data over the whole template, and its affine."""
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [96, -132, -72]
    shape = (193 // spacing + 1, 229 // spacing + 1, 185 // spacing + 1, points)
    return np.random.default_rng(seed).uniform(500, 1500, shape).astype(np.float32), affine


def brain_image(atlas) -> nib.Nifti1Image:
    """1 in the regions of an atlas, 0 elsewhere."""
    return nib.Nifti1Image((atlas.labels > 0).astype(np.uint8), atlas.affine)


def label_image(path: Path) -> Path:
    """An atlas of two regions, the left and the right half of the template's field of view."""
    labels = np.ones((20, 23, 19), np.uint8)
    labels[:10] = 2
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = [-95, -130, -70]
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def staged(folder: Path, files: list[Path], confounds: list[Path | None] | None = None) -> dict:
    """A chunk of time series with their files in folder/images/<i>/ and folder/confounds/<i>/."""
    tables = confounds or [None] * len(files)
    given = [("images", files), ("confounds", [table for table in tables if table])]
    for kind, paths in given:
        for number, path in enumerate(paths, start=1):
            (folder / kind / str(number)).mkdir(parents=True)
            shutil.copy(path, folder / kind / str(number))
    rows = [
        {"scan_id": f"scan-{number}", "modality": "bold", "mask": False, "confounds": table is not None}
        for number, table in enumerate(tables)
    ]
    return {"chunk": "chunk", "scans": rows}
