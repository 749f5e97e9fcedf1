"""Tables of more labels, joined to the scans by subject and, where given, by cohort and session."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import missing, same_value, some
from tlimb.samplesheet import OPTIONAL, REQUIRED, RESERVED, Sheet, read_sheet

KEYS = ["cohort", "subject", "session"]
SYNONYMS = {"participant_id": "subject", "session_id": "session"}
"""What BIDS calls the columns of its tables, so that those of phenotype/ can be joined as they are."""

SHOWN = 5  # problems of one kind that are told in full


def join_tables(sheet: Sheet, tables: Sequence[Path]) -> tuple[Sheet, list[Problem]]:
    """The rows of scans with the labels (and persons) of the tables, and what is wrong with the tables.

    A row of a table holds for every scan of its subject, in its cohort and session where it names them. A label that
    stands in two places must say the same in both. Rows that fit no scan are warnings of the sheet that comes back.
    """
    problems = []
    for path in tables:
        try:
            table = _read_table(Path(path))
        except InputError as error:
            problems += error.problems
            continue
        sheet, found = _joined(sheet, table)
        problems += found
    return sheet, problems


def _read_table(path: Path) -> Sheet:
    """A table with the columns KEYS, empty where it has none; raises InputError for names that no label can have."""
    table = read_sheet(path, "the table of labels", ("subject",))
    frame = table.frame.rename(columns={old: new for old, new in SYNONYMS.items() if new not in table.frame})
    problems = [
        Problem(f"{path.name}, column {name}", "cannot stand in a table of labels", "leave it out or rename it")
        for name in frame.columns
        if name in {*REQUIRED, *OPTIONAL, *RESERVED} - {*KEYS, "person"}
    ]
    if "subject" not in frame:
        hint = nearest("subject", frame.columns)
        problems.append(Problem(path.name, "the column 'subject' is missing", hint))
    if problems:
        raise InputError(problems)
    frame = frame.assign(**{key: "" for key in KEYS if key not in frame})
    frame["session"] = frame["session"].mask(missing(frame["session"]), "")
    problems = [
        Problem(table.place(row, "subject"), "empty, expected a subject") for row in frame.index[frame["subject"] == ""]
    ]
    first = frame.drop_duplicates(KEYS).reset_index().set_index(KEYS)["index"]
    for row, key in frame.loc[frame.duplicated(KEYS), KEYS].iterrows():
        message = f"'{' '.join(filter(None, key))}' stands already in {table.name(first[tuple(key)])}"
        problems.append(Problem(table.place(row, "subject"), message))
    if problems:
        raise InputError(problems)
    return replace(table, frame=frame)


def _joined(sheet: Sheet, table: Sheet) -> tuple[Sheet, list[Problem]]:
    scans, keys = _keys(sheet), table.frame[KEYS].copy()
    keys["subject"] = _known_as(keys["subject"], set(scans["subject"]), "sub-")
    keys["session"] = keys["session"].str.removeprefix("ses-")
    pairs = _pairs(scans, keys)
    problems = _ambiguous(table, scans, keys)
    if problems:
        return sheet, problems
    frame, warnings = sheet.frame.copy(), list(sheet.warnings)
    for name in table.frame.columns.difference(KEYS, sort=False):
        frame[name], found = _filled(sheet, table, pairs, frame, name)
        problems += found
    unused = table.frame.index.difference(pairs["row"])
    if len(unused):
        rows = [" ".join(filter(None, table.frame.loc[row, KEYS])) for row in unused]
        warnings.append(f"{table.path.name}: {len(unused)} of {len(table.frame)} rows fit no scan: {some(rows)}")
    return replace(sheet, frame=frame, warnings=warnings), problems


def _keys(sheet: Sheet) -> pd.DataFrame:
    """KEYS and person of each scan, defaults filled in, the index of the sheet as the column `scan`."""
    frame = sheet.frame
    empty = pd.Series("", index=frame.index, dtype="str")
    scans = frame[["cohort", "subject"]].copy()
    session, person = frame.get("session", empty), frame.get("person", empty)
    scans["session"] = session.where(session != "", "1").str.removeprefix("ses-")
    scans["person"] = person.where(person != "", scans["cohort"] + "/" + scans["subject"])
    return scans.rename_axis("scan").reset_index()


def _known_as(names: pd.Series, known: set[str], prefix: str) -> pd.Series:
    """Names as the scans have them, with or without BIDS's prefix."""

    def one(name: str) -> str:
        others = (name, prefix + name, name.removeprefix(prefix))
        return next((other for other in others if other in known), name)

    return names.map(one)


def _pairs(scans: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Which row of a table (`row`) holds for which scan (`scan`), rows that say less first."""
    keys = keys.rename_axis("row").reset_index()
    found = []
    for columns in (["subject"], ["cohort", "subject"], ["subject", "session"], KEYS):
        unsaid = [key for key in KEYS if key not in columns]
        part = keys[(keys[columns] != "").all(axis=1) & (keys[unsaid] == "").all(axis=1)]
        found.append(part[["row", *columns]].merge(scans[["scan", *columns]], on=columns)[["row", "scan"]])
    return pd.concat(found, ignore_index=True)


def _ambiguous(table: Sheet, scans: pd.DataFrame, keys: pd.DataFrame) -> list[Problem]:
    """Rows without a cohort whose subject is several people."""
    people = scans.groupby("subject")["person"].nunique()
    unclear = keys.index[(keys["cohort"] == "") & (keys["subject"].map(people).fillna(0) > 1)]
    if not len(unclear):
        return []
    subject = keys.at[unclear[0], "subject"]
    cohorts = " and ".join(scans.loc[scans["subject"] == subject, "cohort"].unique())
    others = f", and so do {len(unclear) - 1} more" if len(unclear) > 1 else ""
    message = f"'{subject}' stands in the cohorts {cohorts}{others}"
    return [Problem(table.place(unclear[0], "subject"), message, "add a column cohort that says which is meant")]


def _filled(sheet: Sheet, table: Sheet, pairs: pd.DataFrame, frame: pd.DataFrame, name: str):
    """A column of the scans with a table's values filled in, and the places where the two disagree."""
    cells = dict(frame[name]) if name in frame else dict.fromkeys(frame.index, "")
    given = dict(table.frame[name][~missing(table.frame[name])])
    absent = set(frame.index) if name not in frame else set(frame.index[missing(frame[name])])
    clashes = []
    for row, scan in pairs.itertuples(index=False):
        if row not in given:
            continue
        if scan in absent:
            cells[scan] = given[row]
            absent.discard(scan)
        elif not same_value(cells[scan], given[row]):
            message = f"'{given[row]}' here, and '{cells[scan]}' for the scan in {sheet.places[scan - 1]}"
            clashes.append(Problem(table.place(row, name), message))
    if len(clashes) > SHOWN:
        rest = Problem(
            f"{table.path.name}, column {name}", f"{len(clashes) - SHOWN} more cells disagree in the same way"
        )
        clashes = [*clashes[:SHOWN], rest]
    return pd.Series(cells, index=frame.index, dtype="str"), clashes
