"""A samplesheet or a BIDS folder -> a checked table of scans, and the chunks in which they are preprocessed."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.config import LabelSpec
from tlimb.errors import InputError, Problem
from tlimb.folders import read_scans, with_folders
from tlimb.label_problems import label_problems
from tlimb.label_tables import join_tables
from tlimb.labels import Label, read_label, some
from tlimb.samplesheet import OPTIONAL, REQUIRED, Sheet, cell_problems, column_problems
from tlimb.scan_files import URL, absolute, file_problems
from tlimb.split_file import read_split

COLUMNS = ["scan_id", "cohort", "subject", "session", "modality", "person", "image", "mask", "confounds"]


@dataclass(frozen=True)
class Cohort:
    """The scans of a samplesheet.

    table: as cohort.parquet, one row a scan, sorted by scan_id.  summary: as cohort.json.
    """

    table: pd.DataFrame
    summary: dict


def read_cohort(
    samplesheet: Path,
    kinds: dict[str, LabelSpec] | None = None,
    tables: Sequence[Path] = (),
    split_file: Path | None = None,
) -> Cohort:
    """Read and check a samplesheet (CSV or TSV) or a BIDS folder, and the header of every file in it.

    Relative paths count from the samplesheet's own folder, symbolic links resolved; URLs are left unchecked. A row
    whose image is a folder stands for the scans of that BIDS dataset. kinds: label -> what the sweep says of it, which
    overrules what the values suggest. tables: more labels, joined by subject. split_file: the user's own split. Raises
    InputError with every problem of the sheet, the tables and the files, by row (1 is the first under the header) and
    column.
    """
    sheet = read_scans(Path(samplesheet))
    problems = [] if sheet.path.is_dir() else column_problems(sheet)
    whole = set(REQUIRED) <= set(sheet.frame.columns)
    if whole:
        sheet, found = with_folders(sheet)
        sheet, more = join_tables(sheet, tables)
        problems += found + more
    labels = _labels(sheet, kinds or {})
    problems += label_problems(sheet, labels, kinds or {}) + cell_problems(sheet)
    folds, warnings = None, []
    if whole:
        scans = _scans(sheet)
        found, broken = file_problems(sheet, scans)
        problems += _repeated(sheet, scans) + _person_problems(sheet, scans) + found
        if split_file is not None:
            folds, warnings, found = _split(Path(split_file), scans)
            problems += found
        warnings = [*broken, *warnings]
    if problems:
        raise InputError(problems)
    table = scans.assign(**{name: label.values for name, label in labels.items()})
    warnings = [*sheet.warnings, *_warnings(sheet, table, labels), *warnings]
    summary = _summary(table, labels) | {"split_file": folds, "files": {}, "warnings": warnings}
    return Cohort(table.sort_values("scan_id", ignore_index=True), summary)


def _scans(sheet: Sheet) -> pd.DataFrame:
    """The columns COLUMNS for each row of the sheet, defaults filled in, paths absolute."""
    frame, folder = sheet.frame, os.path.dirname(os.path.realpath(sheet.path))
    empty = pd.Series("", index=frame.index, dtype="str")
    session, modality, person = (frame.get(name, empty) for name in ("session", "modality", "person"))
    scans = frame[["cohort", "subject"]].copy()
    scans["session"] = session.where(session != "", "1")
    scans["modality"] = modality.where(modality != "", "T1w")
    scans["person"] = person.where(person != "", scans["cohort"] + "/" + scans["subject"])
    scans["scan_id"] = scans["cohort"] + "/" + scans["subject"] + "/" + scans["session"] + "/" + scans["modality"]
    scans["image"] = frame["image"].map(lambda cell: absolute(cell, folder))
    for name in ("mask", "confounds"):
        cells = frame.get(name, empty)
        scans[name] = cells.map(lambda cell: absolute(cell, folder) if cell else None).astype("str")
    return scans[COLUMNS]


def _split(path: Path, scans: pd.DataFrame):
    """The folds of a split file with its warnings and problems."""
    try:
        return *read_split(path, scans), []
    except InputError as error:
        return None, [], error.problems


def _labels(sheet: Sheet, specs: dict[str, LabelSpec]) -> dict[str, Label]:
    """Every column of the sheet that is no part of a scan's description, as a label."""
    labels = {}
    for name in sheet.frame.columns:
        if name not in REQUIRED + OPTIONAL:
            spec = specs.get(name)
            told = (spec.kind, spec.classes, spec.event or "") if spec else ()
            labels[name] = read_label(sheet.frame[name], *told)
    return labels


def _repeated(sheet: Sheet, scans: pd.DataFrame) -> list[Problem]:
    """Scans given twice, and one file given for two scans (followed through symbolic links)."""
    problems = []
    first = scans.drop_duplicates("scan_id").reset_index().set_index("scan_id")["index"]
    for row, scan in scans.loc[scans["scan_id"].duplicated(), "scan_id"].items():
        message = f"the scan {scan} stands already in {sheet.name(first[scan])}"
        problems.append(Problem(sheet.place(row, "subject"), message, "tell them apart by session or modality"))
    files = scans["image"][scans["image"] != ""].map(lambda path: path if URL.match(path) else os.path.realpath(path))
    first = {file: row for row, file in reversed(list(files.items()))}
    for row, file in files[files.duplicated()].items():
        if scans.at[row, "scan_id"] != scans.at[first[file], "scan_id"]:
            problems.append(
                Problem(sheet.place(row, "image"), f"the same file as in {sheet.name(first[file])}: {file}")
            )
    return problems


def _person_problems(sheet: Sheet, scans: pd.DataFrame) -> list[Problem]:
    """One subject given as two persons, and one name in several cohorts without a word on who it is."""
    problems = []
    distinct = scans[scans["subject"] != ""].drop_duplicates(["cohort", "subject", "person"])
    first = distinct.drop_duplicates(["cohort", "subject"]).reset_index().set_index(["cohort", "subject"])
    for row, scan in distinct[distinct.duplicated(["cohort", "subject"])].iterrows():
        other = first.loc[(scan["cohort"], scan["subject"])]
        message = f"{scan['cohort']}/{scan['subject']} is the person '{scan['person']}' here and "
        problems.append(
            Problem(sheet.place(row, "person"), f"{message}'{other['person']}' in {sheet.name(other['index'])}")
        )
    told = sheet.frame["person"] != "" if "person" in sheet.frame else pd.Series(False, index=scans.index)
    shared = scans.groupby("subject")["cohort"].transform("nunique") > 1
    unclear = scans[shared & ~told & (scans["subject"] != "")]
    if len(unclear):
        names = unclear["subject"].drop_duplicates()
        places = scans[scans["subject"] == names.iloc[0]].drop_duplicates("cohort")
        where = " and ".join(f"{cohort} ({sheet.name(row)})" for row, cohort in places["cohort"].items())
        others = f", and so do {len(names) - 1} more" if len(names) > 1 else ""
        message = f"'{names.iloc[0]}' stands in {where}{others}; nothing says whether that is one person"
        hint = (
            "fill the column person: the same name in each row if it is one person, different names if not; for a BIDS "
        )
        hint += "folder, one name for the whole of it"
        problems.append(Problem(f"{sheet.path.name}, column subject", message, hint))
    return problems


def _summary(table: pd.DataFrame, labels: dict[str, Label]) -> dict:
    return {
        "scans": len(table),
        "persons": int(table["person"].nunique()),
        "cohorts": {
            name: {"scans": len(part), "persons": int(part["person"].nunique())}
            for name, part in table.groupby("cohort")
        },
        "labels": {name: label.facts() for name, label in labels.items()},
    }


def _warnings(sheet: Sheet, table: pd.DataFrame, labels: dict[str, Label]) -> list[str]:
    """What may be a slip: text among numbers, and labels that only some scans of a cohort lack."""
    warnings = []
    for name, label in labels.items():
        if label.odd:
            rows = [f"{sheet.name(row)} '{label.values[row]}'" for row in label.odd]
            warnings.append(f"{name}: taken as text because of {some(rows)}")
        for cohort, part in table.groupby("cohort"):
            lacking = part.loc[part[name].isna(), "scan_id"]
            if 0 < len(lacking) < len(part):
                warnings.append(f"{cohort}: {len(lacking)} of {len(part)} scans have no {name}: {some(lacking)}")
    return warnings


def chunks(scan_ids: Iterable[str], chunk_size: int) -> dict[str, list[str]]:
    """Scans cut into chunks of at most `chunk_size`, each named by the SHA-256 prefix its scan_ids share.

    All scans are one chunk, `all`, where they fit; a chunk that holds more is halved by the next binary digit.
    What chunk a scan is in depends on its own id and the number of scans near it alone: adding scans changes only the
    chunks that receive some.
    """
    by_digest = sorted((_binary_digest(scan), scan) for scan in scan_ids)
    return {prefix or "all": sorted(scan for _, scan in part) for prefix, part in _divided(by_digest, "", chunk_size)}


def _binary_digest(scan: str) -> str:
    return f"{int.from_bytes(hashlib.sha256(scan.encode()).digest(), 'big'):0256b}"


def _divided(part: list[tuple[str, str]], prefix: str, size: int):
    if not part:
        return
    if len(part) <= size or len(prefix) == len(part[0][0]):
        yield prefix, part
        return
    for digit in "01":
        yield from _divided([item for item in part if item[0][len(prefix)] == digit], prefix + digit, size)


def chunk_files(table: pd.DataFrame, chunk_size: int) -> dict[str, dict]:
    """Chunk -> what chunk-<chunk>.json holds, for the table of a cohort."""
    columns = ["scan_id", "modality", "image", "mask", "confounds"]
    scans = {
        row[0]: {name: None if pd.isna(cell) else cell for name, cell in zip(columns, row)}
        for row in table[columns].itertuples(index=False)
    }
    return {
        chunk: {"chunk": chunk, "scans": [scans[scan] for scan in part]}
        for chunk, part in chunks(table["scan_id"], chunk_size).items()
    }
