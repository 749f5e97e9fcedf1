"""The files that rows of a samplesheet name, looked at without reading voxels."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd

from tlimb.errors import Problem, nearest
from tlimb.modality import SERIES
from tlimb.preprocess.header import header_problem
from tlimb.samplesheet import Sheet

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
THREADS = 8  # a process, that look at headers; they wait for the disk much of the time
MANY = 2000  # files from which on it pays to start processes
PART = 500  # files that a process takes at a time
NEAR = 20  # missing files for which the nearest name is looked up; it takes long in a large folder


def absolute(cell: str, folder: str) -> str:
    """The path in a cell, counted from the samplesheet's folder; URLs as they are."""
    return cell if URL.match(cell) else os.path.normpath(os.path.join(folder, cell))


def file_problems(sheet: Sheet, scans: pd.DataFrame) -> tuple[list[Problem], list[str]]:
    """Files that are missing or that their headers show to be wrong, and warnings; URLs are passed over.

    A broken file that a row of the samplesheet names is a problem; one that was found in a BIDS folder is a warning, for
    preprocessing will leave it out with its reason.
    """
    given = {column: sheet.frame[column] != "" for column in ("image", "mask", "confounds") if column in sheet.frame}
    cells = [
        (row, column, path)
        for column, there in given.items()
        for row, path in scans.loc[there, column].items()
        if not URL.match(path)
    ]
    series = dict(scans["modality"].isin(SERIES))
    checks = [
        ("confounds" if column == "confounds" else "series" if series[row] and column == "image" else "volume", path)
        for row, column, path in cells
    ]
    problems, warnings, near = [], [], NEAR
    for (row, column, path), problem in zip(cells, _all_checked(checks)):
        where = sheet.place(row, column)
        if problem == "file not found":
            near -= 1
            problems.append(Problem(where, f"file not found: {path}", _near_file(path) if near >= 0 else ""))
        elif problem and os.path.isdir(path):
            hint = "leave subject empty to read a folder as a BIDS dataset"
            problems.append(Problem(where, f"{path}: expected a file, found a folder", hint))
        elif problem and row in sheet.listed and os.path.isfile(path):
            warnings.append(f"{sheet.name(row)} will be left out: {problem}")
        elif problem:
            problems.append(Problem(where, f"{path}: {problem}"))
    return problems, warnings


def _all_checked(checks: list[tuple[str, str]]) -> list[str | None]:
    """The problem of each file; headers cost the interpreter's time, so many files are shared among processes."""
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    if len(checks) < MANY or workers == 1:
        return _checked(checks)
    parts = [checks[start : start + PART] for start in range(0, len(checks), PART)]
    with ProcessPoolExecutor(workers) as pool:
        return [problem for part in pool.map(_checked, parts) for problem in part]


def _checked(checks: list[tuple[str, str]]) -> list[str | None]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_problem, checks))


def _problem(check: tuple[str, str]) -> str | None:
    kind, path = check
    return _check(kind)(path)


def _check(kind: str) -> Callable[[str], str | None]:
    if kind == "series":
        from tlimb.preprocess.series import series_problem

        return series_problem
    return header_problem if kind == "volume" else table_problem


def table_problem(path: str) -> str | None:
    """What is wrong with a table of confounds, judged by its name and first line; None where nothing is."""
    if not path.endswith((".tsv", ".csv")):
        return "expected a table, .tsv or .csv"
    if not os.path.exists(path):
        return "file not found"
    if not os.path.isfile(path):
        return "expected a file, found a folder"
    try:
        with open(path, encoding="utf-8-sig") as handle:
            first, second = handle.readline(), handle.readline()
    except (OSError, UnicodeDecodeError) as error:
        return f"not a readable table: {error}"
    if not first.strip():
        return "the table is empty"
    return None if second.strip() else "the table has a header and no rows"


def _near_file(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    hint = nearest(os.path.basename(path), os.listdir(folder))
    return hint if hint.startswith("did") else ""
