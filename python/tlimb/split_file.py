"""A user's own split: who trains, who validates, who is tested, fold by fold."""

from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import some
from tlimb.samplesheet import Sheet, read_sheet

ROLES = ("train", "validation", "test")
OTHER_WORDS = {
    "training": "train", "learn": "train", "val": "validation", "valid": "validation", "dev": "validation",
    "development": "validation", "testing": "test", "eval": "test", "holdout": "test", "heldout": "test",
}  # fmt: skip
WHO = ("scan_id", "person", "subject")
COLUMNS = {*WHO, "cohort", "role", "fold"}

Folds = dict[str, dict[str, list[str]]]


def read_split(path: Path, scans: pd.DataFrame) -> tuple[Folds, list[str]]:
    """Fold -> role -> sorted persons, and warnings; one fold "0" where the file has no column fold.

    The file (CSV or TSV) names people by one of the columns scan_id, person or subject (with cohort where a subject's
    name stands in several), and their `role`: train, validation or test. scans: with the columns of cohort.parquet.
    Raises InputError for people and roles that do not exist, for a person in two roles of one fold, and for a fold
    that leaves a role empty.
    """
    sheet = read_sheet(path, "the split file", ("subject", "role"))
    problems = _column_problems(sheet)
    if problems:
        raise InputError(problems)
    frame = sheet.frame.assign(fold=sheet.frame.get("fold", "0"))
    persons, problems = _persons(sheet, scans)
    problems += _cell_problems(sheet, frame)
    if not problems:
        frame["person"] = persons
        problems = _twice(sheet, frame) + _empty(sheet, frame)
    if problems:
        raise InputError(problems)
    folds = {
        fold: {role: sorted(set(part.loc[part["role"] == role, "person"])) for role in ROLES}
        for fold, part in frame.groupby("fold")
    }
    return folds, _left_out(sheet, frame, scans)


def _column_problems(sheet: Sheet) -> list[Problem]:
    names = list(sheet.frame.columns)
    who = [name for name in WHO if name in names]
    problems = []
    if "role" not in names:
        problems.append(Problem(sheet.path.name, "the column 'role' is missing", nearest("role", names)))
    if len(who) != 1:
        found = f"found {' and '.join(who)}" if who else "found none of them"
        problems.append(Problem(sheet.path.name, f"expected one of the columns subject, person or scan_id, {found}"))
    problems += [
        Problem(f"{sheet.path.name}, column {name}", "unknown column", nearest(name, COLUMNS))
        for name in names
        if name not in COLUMNS
    ]
    return problems


def _cell_problems(sheet: Sheet, frame: pd.DataFrame) -> list[Problem]:
    problems = []
    for row, role in frame["role"].items():
        if role not in ROLES:
            meant = OTHER_WORDS.get(role.casefold()) or (role.casefold() if role.casefold() in ROLES else "")
            hint = f"did you mean '{meant}'?" if meant else nearest(role, ROLES)
            problems.append(Problem(sheet.place(row, "role"), f"'{role}', expected train, validation or test", hint))
    empty = frame.index[frame["fold"] == ""]
    return problems + [Problem(sheet.place(row, "fold"), "empty, expected the name of a fold") for row in empty]


def _persons(sheet: Sheet, scans: pd.DataFrame) -> tuple[pd.Series, list[Problem]]:
    """The person that each row means."""
    column = next(name for name in WHO if name in sheet.frame)
    with_cohort = column == "subject" and "cohort" in sheet.frame
    keys = scans["cohort"] + "\t" + scans["subject"] if with_cohort else scans[column]
    people = scans.groupby(keys)["person"].agg(lambda persons: sorted(set(persons))).to_dict()
    named = sheet.frame["cohort"] + "\t" + sheet.frame["subject"] if with_cohort else sheet.frame[column]
    problems, found = [], {}
    for row, name in named.items():
        meant = people.get(name, [])
        text = name.replace("\t", "/")
        if not meant:
            hint = nearest(name, people).replace("\t", "/") if len(problems) < 20 else ""
            problems.append(Problem(sheet.place(row, column), f"no scan of '{text}'", hint))
        elif len(meant) > 1:
            hint = "add a column cohort that says which is meant"
            problems.append(Problem(sheet.place(row, column), f"'{text}' is {' and '.join(meant)}", hint))
        found[row] = meant[0] if meant else ""
    return pd.Series(found, dtype="str"), problems


def _twice(sheet: Sheet, frame: pd.DataFrame) -> list[Problem]:
    """People with two roles in one fold."""
    distinct = frame.drop_duplicates(["fold", "person", "role"])
    problems = []
    for (fold, person), part in distinct.groupby(["fold", "person"]):
        if len(part) > 1:
            rows = " and ".join(f"{role} ({sheet.name(row)})" for row, role in part["role"].items())
            problems.append(Problem(f"{sheet.path.name}, fold {fold}", f"{person} is in {rows}"))
    return problems


def _empty(sheet: Sheet, frame: pd.DataFrame) -> list[Problem]:
    return [
        Problem(f"{sheet.path.name}, fold {fold}", f"nobody has the role {role}")
        for fold, part in frame.groupby("fold")
        for role in ROLES
        if role not in set(part["role"])
    ]


def _left_out(sheet: Sheet, frame: pd.DataFrame, scans: pd.DataFrame) -> list[str]:
    """Cohorts of which the file names some people and not others."""
    warnings = []
    for cohort, part in scans.groupby("cohort"):
        persons = set(part["person"])
        for fold, rows in frame.groupby("fold"):
            lacking = sorted(persons - set(rows["person"]))
            if 0 < len(lacking) < len(persons):
                which = f"{len(lacking)} of {len(persons)} persons of {cohort} have no role in fold {fold}"
                warnings.append(f"{sheet.path.name}: {which}: {some(lacking)}")
    return warnings
