"""What was named to be predicted -> scans: image files, folders of them, BIDS datasets, samplesheets."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from tlimb.bids import IMAGES, natural, parse_name
from tlimb.errors import InputError, Problem, nearest
from tlimb.folders import read_scans, with_folders
from tlimb.labels import some
from tlimb.modality import SERIES, kind_of
from tlimb.preprocess.header import header_problem
from tlimb.samplesheet import OPTIONAL, REQUIRED, Sheet, delimiter
from tlimb.scan_files import THREADS, URL, absolute, table_problem

NIFTI = (".nii", ".nii.gz")
TABLES = (".csv", ".tsv")
TAKES = {"volume": "3D images", "series": "time series (bold)"}
USUAL = {"volume": "T1w", "series": "bold"}
"""The modality of a scan of which nothing says it, by the kind of recipe."""

Found = tuple[list["Scan"], list[str]]
"""Scans, and what was passed over in words."""


@dataclass(frozen=True)
class Scan:
    """One scan to predict.

    name: `cohort/subject/session/modality` where a samplesheet or BIDS gives cohort and subject, else the file as it
    was named. person: as in training, empty where nothing says. place: where messages say that it stands. listed:
    whether it was found in a folder rather than named.
    """

    name: str
    person: str
    modality: str
    image: str
    mask: str | None
    confounds: str | None
    place: str
    listed: bool = False


def find_scans(paths: Sequence[Path], kind: str, modality: Sequence[str]) -> Found:
    """The scans of image files, folders and samplesheets, in their order, and what was passed over.

    kind: of the model's recipe, `volume` or `series`. modality: which to take of a folder or a samplesheet that holds
    several; any where it is empty, but of a BIDS dataset, which then may hold one only. Just headers are read. Raises
    InputError with every problem of the scans that were named; files that a folder holds are left to preprocessing.
    """
    scans, notes, problems = [], [], []
    for path in paths:
        try:
            found, said = _found(Path(path), kind, modality)
        except InputError as error:
            problems += error.problems
        else:
            scans += found
            notes += said
    problems += _repeated(scans) + _file_problems([scan for scan in scans if not scan.listed], kind)
    if not scans and not problems:
        problems = [Problem("scans", "none was named", "name image files, folders or a samplesheet after the model")]
    if problems:
        raise InputError(problems)
    return scans, notes


def _found(path: Path, kind: str, modality: Sequence[str]) -> Found:
    if path.is_dir():
        is_dataset = any(path.glob("sub-*")) or (path / "dataset_description.json").exists()
        return (_of_dataset if is_dataset else _of_folder)(path, kind, modality)
    if path.suffix.lower() in TABLES and path.is_file() and (kind == "volume" or _names_images(path)):
        return _of_samplesheet(path, kind, modality)
    return [_of_file(str(path), kind, modality)], []


def _names_images(path: Path) -> bool:
    """Whether a table's first line has the column `image`, as a samplesheet's does and a table of signals' does not."""
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        first = handle.readline()
    return "image" in (cell.strip(' "\r\n') for cell in first.split(delimiter(path, first)))


def _of_file(path: str, kind: str, modality: Sequence[str], listed: bool = False) -> Scan:
    name = parse_name(path)
    told = name.suffix if name and name.suffix in IMAGES | SERIES else ""
    usual = modality[0] if len(modality) == 1 else USUAL[kind]
    return Scan(path, "", told or usual, os.path.abspath(path), None, None, path, listed)


def _of_folder(path: Path, kind: str, modality: Sequence[str]) -> Found:
    """The NIfTI files in a plain folder, brain masks left out."""
    names = sorted((name for name in os.listdir(path) if name.endswith(NIFTI) and name[0] != "."), key=natural)
    masks = [name for name in names if name.removesuffix(".gz").endswith("mask.nii")]
    if not set(names) - set(masks):
        hint = f"name the models, {path}/*" if any(path.glob("*/model.json")) else ""
        raise InputError([Problem(str(path), "no NIfTI file in it (.nii, .nii.gz), and it is no BIDS dataset", hint)])
    scans = [_of_file(str(path / name), kind, modality, listed=True) for name in names if name not in masks]
    return scans, [f"{path}: {len(masks)} masks passed over: {some(masks)}"] if masks else []


def _of_dataset(path: Path, kind: str, modality: Sequence[str]) -> Found:
    sheet = read_scans(path)
    scans = [scan for scan in _rows(sheet, kind) if kind_of(scan.modality) == kind]
    there = sorted({scan.modality for scan in scans})
    if not there:
        raise InputError([Problem(str(path), f"holds no scan that the model takes: {TAKES[kind]}")])
    if not modality and len(there) > 1:
        message = f"holds scans of several modalities: {', '.join(there)}"
        raise InputError([Problem(str(path), message, f"say which by --modality, such as {there[0]}")])
    if modality and not set(modality) & set(there):
        hint = f"there are {', '.join(there)}"
        raise InputError([Problem(str(path), f"no scan of modality {' or '.join(modality)}", hint)])
    return [scan for scan in scans if not modality or scan.modality in modality], sheet.warnings


def _of_samplesheet(path: Path, kind: str, modality: Sequence[str]) -> Found:
    sheet = read_scans(path)
    problems = _column_problems(sheet)
    if not problems and set(REQUIRED) <= set(sheet.frame.columns):
        sheet, problems = with_folders(sheet)
    cells = [] if problems else sheet.frame["image"].items()
    problems += [Problem(sheet.place(row, "image"), "empty, expected a file") for row, cell in cells if not cell]
    if problems:
        raise InputError(problems)
    scans = [scan for scan in _rows(sheet, kind) if kind_of(scan.modality) == kind or not scan.listed]
    taken = [scan for scan in scans if not modality or scan.modality in modality]
    for scan in taken:
        if kind_of(scan.modality) != kind:
            problems.append(Problem(scan.place, f"is of modality {scan.modality}, and the model takes {TAKES[kind]}"))
    if problems or not taken:
        raise InputError(problems or [Problem(str(path), f"no scan of modality {' or '.join(modality)}")])
    left = len(scans) - len(taken)
    passed = [f"{path}: {left} scans of other modalities than {', '.join(modality)} passed over"] if left else []
    return taken, [*sheet.warnings, *passed]


def _column_problems(sheet: Sheet) -> list[Problem]:
    """`image` missing, and names that look like a misspelt one; other columns are labels, which nobody reads here."""
    names, known = list(sheet.frame.columns), [*REQUIRED, *OPTIONAL]
    problems = []
    if "image" not in names:
        problems = [Problem(sheet.path.name, "the column 'image' is missing", nearest("image", names))]
    absent = [name for name in known if name not in names and name != "image"]
    for name in names:
        meant = [] if name in known else get_close_matches(name.casefold(), absent, n=1, cutoff=0.8)
        if meant:
            where = f"{sheet.path.name}, column {name}"
            problems.append(Problem(where, "unknown column", f"did you mean '{meant[0]}'?"))
    return problems


def _rows(sheet: Sheet, kind: str) -> list[Scan]:
    """Every scan of a samplesheet or a BIDS dataset."""
    frame, folder = sheet.frame, os.path.dirname(os.path.realpath(sheet.path))
    empty = pd.Series("", index=frame.index, dtype="str")
    cells = pd.DataFrame({name: frame.get(name, empty) for name in (*REQUIRED, *OPTIONAL)})
    scans = []
    for row, cell in zip(cells.index, cells.to_dict("records")):
        files = {name: absolute(cell[name], folder) if cell[name] else None for name in ("image", "mask", "confounds")}
        modality = cell["modality"] or USUAL[kind]
        subject = f"{cell['cohort']}/{cell['subject']}" if cell["cohort"] and cell["subject"] else ""
        name = f"{subject}/{cell['session'] or '1'}/{modality}" if subject else cell["image"]
        place = sheet.places[row - 1]
        scans.append(Scan(name, cell["person"] or subject, modality, **files, place=place, listed=row in sheet.listed))
    return scans


def _repeated(scans: list[Scan]) -> list[Problem]:
    counts = Counter(scan.name for scan in scans)
    return [Problem(name, f"stands {count} times, expected once") for name, count in counts.items() if count > 1]


def _file_problems(scans: list[Scan], kind: str) -> list[Problem]:
    """Files that are missing or that their headers show to be wrong."""
    checks = [
        (scan.place, column, path, _check(column, kind))
        for scan in scans
        for column, path in (("image", scan.image), ("mask", scan.mask), ("confounds", scan.confounds))
        if path is not None
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        return [problem for problem in pool.map(lambda check: _file_problem(*check), checks) if problem]


def _check(column: str, kind: str) -> Callable[[str], str | None]:
    if column == "confounds":
        return table_problem
    if column == "mask" or kind == "volume":
        return header_problem
    from tlimb.preprocess.series_file import series_problem

    return series_problem


def _file_problem(place: str, column: str, path: str, check: Callable[[str], str | None]) -> Problem | None:
    problem = f"expected a file, found the URL {path}" if URL.match(path) else check(path)
    if not problem or os.path.abspath(place) == path:
        return Problem(place, problem) if problem else None
    return Problem(f"{place}, column {column}", f"{path}: {problem}")
