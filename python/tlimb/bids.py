"""A BIDS folder -> the scans in it, with the labels of its tables.

Raw datasets and derivatives (fMRIPrep's) are read by one walk over `sub-*/[ses-*/]{anat,func}`; nothing but names is
looked at, so tens of thousands of subjects take seconds. Layout: https://bids-specification.readthedocs.io.
"""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import read_json
from tlimb.labels import missing, some
from tlimb.samplesheet import OPTIONAL, REQUIRED, RESERVED, Sheet, plain, read_sheet

IMAGES = frozenset(
    "T1w T2w PDw T2starw T2star FLAIR inplaneT1 inplaneT2 PDT2 UNIT1 angio FLASH PD T1map T2map T2starmap R1map R2map "
    "R2starmap PDmap MTRmap MTsat MWFmap MTVmap Chimap S0map M0map T1rho".split()
)
"""Suffixes of anat/ that are one image of the head each; collections of several (MP2RAGE, MEGRE, VFA) are not."""

CONFOUNDS = (
    "_desc-confounds_timeseries.tsv",
    "_desc-confounds_regressors.tsv",
    "_confounds_timeseries.tsv",
    "_confounds.tsv",
)
TAKEN = frozenset(REQUIRED + OPTIONAL + RESERVED) - {"person"}
NOT_LABELS = frozenset({"acq_time", "participant_id", "session_id"})
COLUMNS = ["subject", "session", "modality", "image", "mask", "confounds"]
THREADS = 16  # that list folders; they wait for the disk most of the time


@dataclass(frozen=True)
class Name:
    """A file's name taken apart: entities such as {"sub": "01", "run": "2"}, and its suffix, `T1w`."""

    path: str
    entities: dict[str, str]
    suffix: str


@dataclass(frozen=True)
class Dataset:
    """The scans of a BIDS folder.

    name: the dataset's own, fit for an id.  scans: text, one row a scan, COLUMNS and a column a label, "" where there
    is nothing; paths absolute.  warnings: what was passed over or fits nothing.
    """

    name: str
    scans: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def read_bids(root: Path, modalities: Sequence[str] = ()) -> Dataset:
    """The scans of a BIDS folder, of all modalities or those named, with labels of participants.tsv and sessions.tsv.

    A modality is a file's suffix (T1w, T2w, FLAIR, bold ...). Of several files for one scan the first is taken: in
    MNI space if any is, without `acq` if one is, of the task `rest`, then by name, numbers counted as numbers. A label
    by session comes before the same one by participant. Raises InputError where there is nothing to read, and for
    folders and tables that cannot be read.
    """
    subjects = _subjects(root)
    with ThreadPoolExecutor(THREADS) as pool:
        walked = list(pool.map(lambda subject: _subject_files(root, subject), subjects))
    unreadable = [problem for _, found in walked for problem in found]
    if unreadable:
        raise InputError(unreadable)
    listed = [paths for paths, _ in walked]
    scans, notes = _scans([name for names in listed for name in names], set(modalities))
    lacking = set(modalities) - {row[2] for row in scans}
    if lacking or not scans:
        raise InputError(_nothing(root, listed, sorted(lacking)))
    frame = pd.DataFrame(scans, columns=COLUMNS, dtype="str")
    labels, more = _labels(root, subjects, frame)
    place = os.path.realpath(root)
    for column in ("image", "mask", "confounds"):
        frame[column] = frame[column].map(lambda path: f"{place}/{path}" if path else "")
    return Dataset(_dataset_name(root), pd.concat([frame, labels], axis=1), notes + more)


def parse_name(path: str) -> Name | None:
    """A file's name taken apart; None where it is no NIfTI file or not named as BIDS says."""
    name = os.path.basename(path)
    if not name.endswith((".nii", ".nii.gz")):
        return None
    *parts, suffix = name.removesuffix(".gz").removesuffix(".nii").split("_")
    if not parts or not all(re.fullmatch(r"[A-Za-z0-9]+-[^-]+(-[^-]+)*", part) for part in parts):
        return None
    return Name(path, dict(part.split("-", 1) for part in parts), suffix)


def first_of(names: Iterable[Name]) -> list[Name]:
    """Files for one scan, the one to take first."""
    return sorted(names, key=_preference)


def _preference(name: Name) -> tuple:
    space = name.entities.get("space", "")
    in_space = 0 if space.startswith("MNI") else 2 if space else 1
    other_task = name.entities.get("task", "rest") != "rest"
    return in_space, "acq" in name.entities, other_task, natural(os.path.basename(name.path))


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sorting key by which run-2 comes before run-10."""
    parts = [part for part in re.split(r"(\d+)", text) if part]
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]


def _subjects(root: Path) -> list[str]:
    try:
        entries = list(os.scandir(root))
        subjects = sorted(entry.name for entry in entries if entry.name.startswith("sub-") and entry.is_dir())
    except OSError as error:
        raise InputError([Problem(error.filename or str(root), f"cannot be read: {error.strerror}")]) from None
    if not subjects:
        inner = [entry.name for entry in entries if os.path.exists(f"{entry.path}/dataset_description.json")]
        hint = f"did you mean {root}/{sorted(inner)[0]}?" if inner else ""
        raise InputError([Problem(str(root), "no folder sub-* in it; expected a samplesheet or a BIDS dataset", hint)])
    return subjects


def _subject_files(root: Path, subject: str) -> tuple[list[str], list[Problem]]:
    """Paths of the files in a subject's folders of images, counted from the root, and folders that cannot be read."""
    inner, problems = _list(root / subject)
    if problems:
        return [], problems
    paths = []
    for place in (subject, *sorted(f"{subject}/{name}" for name in inner if name.startswith("ses-"))):
        for kind in ("anat", "func"):
            names, found = _list(root / place / kind)
            paths += [f"{place}/{kind}/{name}" for name in sorted(names) if not name.startswith(".")]
            problems += found
    return paths, problems


def _list(folder: Path) -> tuple[list[str], list[Problem]]:
    """The names in a folder, none where there is no such folder, and why it cannot be read."""
    try:
        return os.listdir(folder), []
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        return [], [Problem(str(folder), f"cannot be read: {error.strerror}")]


def _modality(name: Name) -> str | None:
    """What a file is a scan of; None where it is a mask, a segmentation, a collection's part or anything else."""
    if name.entities.get("desc", "preproc") != "preproc" or "label" in name.entities:
        return None
    folder = name.path.split("/")[-2]
    fits = name.suffix in IMAGES if folder == "anat" else name.suffix == "bold"
    return name.suffix if fits else None


def _scans(paths: list[str], modalities: set[str]) -> tuple[list[list[str]], list[str]]:
    """Rows of COLUMNS with paths counted from the root, and what was passed over in words."""
    groups: dict[tuple, list[Name]] = {}
    beside: dict[str, list[str]] = {}
    for path in paths:
        beside.setdefault(os.path.dirname(path), []).append(path)
        name = parse_name(path)
        modality = name and _modality(name)
        if modality and (not modalities or modality in modalities):
            subject, *inner = path.split("/")[:-2]
            groups.setdefault((subject, inner[0] if inner else "", modality), []).append(name)
    rows, passed = [], []
    for (subject, session, modality), names in groups.items():
        first, *others = first_of(names)
        passed += [name.path for name in others]
        near = beside[os.path.dirname(first.path)]
        mask = (
            _companion(first, near, ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")) if modality != "bold" else ""
        )
        confounds = _companion(first, near, CONFOUNDS) if modality == "bold" else ""
        rows.append([subject, session, modality, first.path, mask, confounds])
    several = f"{len(passed)} files passed over where one scan has several (the first by name without acq is taken)"
    notes = [f"{several}: {some(passed)}"] if passed else []
    elsewhere = [row[3] for row in rows if row[2] == "bold" and "_space-MNI" not in row[3]]
    if elsewhere:
        notes.append(f"{len(elsewhere)} bold series are not in MNI space by their names: {some(elsewhere)}")
    return rows, notes


def _companion(scan: Name, near: list[str], endings: tuple[str, ...]) -> str:
    """The file beside a scan that ends so and whose entities all agree with the scan's; "" where there is none."""
    found = []
    for path in near:
        ending = next((ending for ending in endings if path.endswith(ending)), None)
        if ending:
            parts = os.path.basename(path).removesuffix(ending).split("_")
            entities = dict(part.split("-", 1) for part in parts if "-" in part)
            same_grid = "mask" not in ending or all(entities.get(k) == scan.entities.get(k) for k in ("space", "res"))
            if same_grid and entities.items() <= scan.entities.items():
                found.append((-len(entities), endings.index(ending), path))
    return min(found)[2] if found else ""


def _nothing(root: Path, listed: list[list[str]], lacking: list[str]) -> list[Problem]:
    every = {row[2] for row in _scans([path for paths in listed for path in paths], set())[0]}
    if not every:
        return [Problem(str(root), "no scan in it; expected files as sub-01/anat/sub-01_T1w.nii.gz")]
    return [Problem(str(root), f"no scan of modality {name}", nearest(name, every)) for name in lacking]


def _dataset_name(root: Path) -> str:
    """The name in dataset_description.json, else the folder's, with other characters than ids may hold as hyphens."""
    description = root / "dataset_description.json"
    name = read_json(description) if description.exists() else {}
    name = name.get("Name") if isinstance(name, dict) else None
    return plain(name if isinstance(name, str) else "") or plain(root.resolve().name) or "bids"


def _labels(root: Path, subjects: list[str], scans: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A column of text for each label of participants.tsv and of the tables of sessions, a row for each scan."""
    if not (root / "participants.tsv").exists():
        persons, notes = pd.DataFrame(index=pd.Index([], dtype="str")), ["there is no participants.tsv"]
    else:
        persons, notes = _participants(root), []
        seen = set(scans["subject"])
        unseen = [subject for subject in persons.index if subject not in seen]
        unlisted = sorted(seen - set(persons.index))
        if unseen:
            notes.append(f"{len(unseen)} of {len(persons)} rows of participants.tsv have no scan: {some(unseen)}")
        if unlisted:
            notes.append(f"{len(unlisted)} subjects stand in no row of participants.tsv: {some(unlisted)}")
    sessions = _sessions(root, subjects)
    labels = {name: persons[name].reindex(scans["subject"]).set_axis(scans.index).fillna("") for name in persons}
    keys = pd.MultiIndex.from_frame(scans[["subject", "session"]])
    for name in sessions:
        cells = sessions[name].reindex(keys).set_axis(scans.index).fillna("")
        labels[name] = cells.where(~missing(cells), labels[name]) if name in labels else cells
    renamed = {name: f"participants_{name}" for name in labels if name in TAKEN}
    notes += [f"the column {name} of its tables became the label {new}" for name, new in renamed.items()]
    return pd.DataFrame(labels, index=scans.index, dtype="str").rename(columns=renamed), notes


def _participants(root: Path) -> pd.DataFrame:
    """participants.tsv by subject; raises InputError for a subject that stands there twice."""
    sheet = read_sheet(root / "participants.tsv", "the table of participants", ("participant_id",))
    ids = _column(sheet, "participant_id").map(lambda cell: _prefixed(cell, "sub-"))
    _told_once(sheet, "participant_id", ids)
    return sheet.frame.set_index(ids).drop(columns=list(NOT_LABELS), errors="ignore")


def _told_once(sheet: Sheet, column: str, keys: pd.Series) -> None:
    """Raise InputError for rows of a table with the key of an earlier one."""
    first = {key: row for row, key in reversed(list(keys.items()))}
    problems = [
        Problem(sheet.place(row, column), f"{keys[row]} stands already in {sheet.name(first[keys[row]])}")
        for row in keys.index[keys.duplicated()]
    ]
    if problems:
        raise InputError(problems)


def _sessions(root: Path, subjects: list[str]) -> pd.DataFrame:
    """Labels by subject and session, of sessions.tsv at the root and of each subject's own."""
    tables = [(root / "sessions.tsv", "")]
    tables += [(root / subject / f"{subject}_sessions.tsv", subject) for subject in subjects]
    rows, problems = {}, []
    for path, subject in tables:
        if not os.path.exists(path):
            continue
        try:
            for key, labels in _session_rows(path, subject).items():
                rows.setdefault(key, {}).update(labels)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    index = pd.MultiIndex.from_tuples(list(rows), names=["subject", "session"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index, dtype="str").fillna("")


def _session_rows(path: Path, subject: str) -> dict[tuple[str, str], dict[str, str]]:
    sheet = read_sheet(path, "the table of sessions", ("session_id",) if subject else ("participant_id", "session_id"))
    sessions = _column(sheet, "session_id").map(lambda cell: _prefixed(cell, "ses-"))
    if subject:
        owners = pd.Series(subject, index=sessions.index, dtype="str")
    else:
        owners = _column(sheet, "participant_id").map(lambda cell: _prefixed(cell, "sub-"))
    _told_once(sheet, "session_id", owners + " " + sessions)
    labels = sheet.frame.drop(columns=list(NOT_LABELS), errors="ignore").to_dict("records")
    return dict(zip(zip(owners, sessions), labels))


def _column(sheet: Sheet, name: str) -> pd.Series:
    if name not in sheet.frame:
        hint = nearest(name, sheet.frame.columns)
        raise InputError([Problem(str(sheet.path), f"the column '{name}' is missing", hint)])
    return sheet.frame[name]


def _prefixed(cell: str, prefix: str) -> str:
    return cell if cell.startswith(prefix) else prefix + cell
