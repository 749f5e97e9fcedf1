"""BIDS folders as rows of scans: one given in place of a samplesheet, and those that rows of a samplesheet name."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tlimb.bids import read_bids
from tlimb.errors import InputError, Problem
from tlimb.labels import missing
from tlimb.samplesheet import ALLOWED, OPTIONAL, REQUIRED, Sheet, odd_characters, read_sheet


def read_scans(path: Path) -> Sheet:
    """The rows of a samplesheet as they stand, or those of a BIDS folder under the dataset's own name.

    Cells of OPTIONAL columns that mean not known, such as n/a, are empty in both.
    """
    if not path.is_dir():
        sheet = read_sheet(path)
        return replace(sheet, frame=_without_unknown(sheet.frame))
    dataset = read_bids(path)
    frame = _without_unknown(dataset.scans.assign(cohort=dataset.name))
    names = _names(frame, path)
    warnings = [f"{dataset.name}: {warning}" for warning in dataset.warnings]
    frame.index = range(1, len(frame) + 1)
    places = [f"{path.name}, {name}" for name in names]
    return Sheet(path, frame, names, places, warnings, frozenset(frame.index))


def _without_unknown(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{name: frame[name].mask(missing(frame[name]), "") for name in OPTIONAL if name in frame})


def with_folders(sheet: Sheet) -> tuple[Sheet, list[Problem]]:
    """A samplesheet with each row that names a BIDS folder replaced by rows for the scans in it.

    Such a row has no subject (or *), a cohort or else the dataset's name, and in `modality` those to take, separated by
    spaces (all where empty). Its `person` is a name that the folder's people share with those of other such rows:
    sub-01 becomes the person <name>/sub-01. Other cells are labels of scans for which the dataset has none.
    """
    folder = os.path.dirname(os.path.realpath(sheet.path))
    rows = [row for row in sheet.frame.index if _names_folder(sheet.frame.loc[row], folder)] if _may(sheet) else []
    parts, names, places, problems, warnings = [], [], [], [], list(sheet.warnings)
    for row in rows:
        found = _own_problems(sheet, row)
        try:
            scans, notes = _opened(sheet.frame.loc[row], folder)
        except InputError as error:
            found += [replace(problem, where=f"{sheet.places[row - 1]}: {problem.where}") for problem in error.problems]
        problems += found
        if not found:
            parts.append(scans)
            names += _names(scans, Path(folder, sheet.frame.at[row, "image"]))
            places += [f"{sheet.places[row - 1]}, {name}" for name in names[len(places) :]]
            warnings += notes
    if not rows:
        return sheet, []
    files = sheet.frame.drop(index=rows)
    frame = pd.concat([files, *parts], ignore_index=True).fillna("")
    frame.index = range(1, len(frame) + 1)
    names = [sheet.name(row) for row in files.index] + names
    places = [sheet.places[row - 1] for row in files.index] + places
    listed = frozenset(frame.index[len(files) :])
    return Sheet(sheet.path, frame, names, places, warnings, listed), problems


def _may(sheet: Sheet) -> bool:
    """Whether any row lacks a subject, as one that names a folder does."""
    return set(REQUIRED) <= set(sheet.frame.columns) and sheet.frame["subject"].isin(["", "*"]).any()


def _names_folder(cells: pd.Series, folder: str) -> bool:
    return (
        cells["subject"] in ("", "*") and cells["image"] != "" and os.path.isdir(os.path.join(folder, cells["image"]))
    )


def _own_problems(sheet: Sheet, row: int) -> list[Problem]:
    given = {column: cell for column, cell in sheet.frame.loc[row].items() if cell}
    problems = [
        Problem(sheet.place(row, column), "expected an empty cell where the image is a folder")
        for column in ("session", "mask", "confounds")
        if column in given
    ]
    return problems + [
        odd_characters(sheet.place(row, column), column, given[column])
        for column in ("cohort", "person")
        if column in given and not re.fullmatch(ALLOWED[column], given[column])
    ]


def _opened(cells: pd.Series, folder: str) -> tuple[pd.DataFrame, list[str]]:
    """The scans of the folder in a row's cells, with the columns of the sheet and the labels of the dataset."""
    dataset = read_bids(Path(folder, cells["image"]), cells.get("modality", "").replace("*", "").split())
    scans = dataset.scans.copy()
    cohort = cells["cohort"] or dataset.name
    scans["cohort"] = cohort
    own = scans.get("person", pd.Series("", index=scans.index, dtype="str"))
    shared = cells.get("person", "")
    scans["person"] = own.where(~missing(own), shared and shared + "/" + scans["subject"])
    for name in cells.index:
        if name not in REQUIRED + OPTIONAL:
            given = scans.get(name, pd.Series("", index=scans.index, dtype="str"))
            scans[name] = given.where(~missing(given), cells[name])
    return scans, [f"{cohort}: {warning}" for warning in dataset.warnings]


def _names(scans: pd.DataFrame, root: Path) -> list[str]:
    start = len(os.path.realpath(root)) + 1
    return [image[start:] for image in scans["image"]]
