"""Tables as text: a samplesheet's rows and columns, and where each cell stands."""

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem, nearest

REQUIRED = ("cohort", "subject", "image")
OPTIONAL = ("session", "modality", "mask", "confounds", "person")
RESERVED = ("scan_id", "split", "role", "chunk", "digest", "status", "content")
"""Columns of tables that tlimb writes and joins; a label cannot have their names."""

ALLOWED = {
    "cohort": r"[A-Za-z0-9._+-]+",
    "subject": r"[A-Za-z0-9._+-]+",
    "session": r"[A-Za-z0-9._+-]*",
    "modality": r"[A-Za-z0-9._+-]*",
    "person": r"[A-Za-z0-9._+/-]*",
}
"""What cells of the columns that make up ids may hold."""

BINARY = {".xls", ".xlsx", ".ods", ".parquet", ".sav", ".rda", ".xpt"}
"""Kinds of tables that people have and that are not text."""


@dataclass(frozen=True)
class Sheet:
    """The cells of a table as stripped text.

    frame: one row a scan (a person, ...), labelled 1, 2, ... as users count them.  names: what messages call each row,
    `row 3` or a file of a BIDS folder.  places: where it stands, `cohorts.csv, row 3 (line 4)`.  warnings: what was
    odd on the way.  listed: rows that nobody wrote, found by listing a BIDS folder.
    """

    path: Path
    frame: pd.DataFrame
    names: list[str]
    places: list[str]
    warnings: list[str] = field(default_factory=list)
    listed: frozenset[int] = frozenset()

    def name(self, row: int) -> str:
        """What messages call a row."""
        return self.names[row - 1]

    def place(self, row: int, column: str) -> str:
        """Where a cell stands, as problems say it."""
        return f"{self.places[row - 1]}, column {column}"


def read_sheet(path: Path, what: str = "the samplesheet", columns=REQUIRED) -> Sheet:
    """The cells of a CSV or TSV file in UTF-8, with or without a byte order mark; empty lines are passed over.

    A name that ends in .tsv or a header with tabs and no commas means tabs; a header with semicolons and no commas,
    semicolons. what: what messages call the table; columns: those it should have. Raises InputError where the file
    cannot be read, is empty, or rows do not match the header.
    """
    lines, rows = read_rows(path, what)
    if not rows:
        hint = f"expected the columns {', '.join(columns)}"
        raise InputError([Problem(path.name, f"{what} is empty", hint)])
    header, rows, lines = rows[0], rows[1:], lines[1:]
    names = [f"row {number}" for number in range(1, len(rows) + 1)]
    places = [f"{path.name}, {name} (line {line})" for name, line in zip(names, lines)]
    problems = [] if rows else [Problem(path.name, f"{what} has a header and no rows")]
    problems += [
        Problem(place, f"{len(row)} cells, the header has {len(header)}")
        for row, place in zip(rows, places)
        if len(row) != len(header)
    ]
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    problems += [Problem(f"{path.name}, column {name}", "stands more than once in the header") for name in repeated]
    if not problems:
        unnamed = [place for place, name in enumerate(header) if not name and any(row[place] for row in rows)]
        problems = [Problem(f"{path.name}, column {place + 1}", "has values and no name") for place in unnamed]
    if problems:
        raise InputError(problems)
    cells = {name: [row[place] for row in rows] for place, name in enumerate(header) if name}
    return Sheet(path, pd.DataFrame(cells, index=range(1, len(rows) + 1), dtype="str"), names, places)


def read_rows(path: Path, what: str = "the table") -> tuple[list[int], list[list[str]]]:
    """The rows of a text table that are not empty, header first, and the line on which each ends."""
    if path.suffix.lower() in BINARY:
        raise InputError([Problem(str(path), f"expected CSV or TSV, found {path.suffix}", "save it as CSV")])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError([Problem(str(path), f"{what.removeprefix('the ')} not found")]) from None
    except UnicodeDecodeError as error:
        raise InputError([Problem(path.name, f"not UTF-8 at byte {error.start}", "save it as UTF-8")]) from None
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    if "\0" in text:
        where = f"{path.name}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        raise InputError([Problem(where, "holds a null byte, expected text", "save it as UTF-8")])
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter(path, text), strict=True)
    lines, rows = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(reader.line_num)
                rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise InputError([Problem(f"{path.name}, line {reader.line_num}", f"not a readable table: {error}")]) from None
    return lines, rows


def delimiter(path: Path, text: str) -> str:
    """What separates the cells of a table that begins with `text`."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in ",\t;" if mark in header), ",")


def column_problems(sheet: Sheet) -> list[Problem]:
    """Required columns that are missing, names that look like a misspelt one, and names that tlimb itself uses."""
    names = list(sheet.frame.columns)
    others = [name for name in names if name not in REQUIRED + OPTIONAL]
    problems = [
        Problem(sheet.path.name, f"the column '{name}' is missing", nearest(name, others) if others else "")
        for name in REQUIRED
        if name not in names
    ]
    for name in others:
        where = f"{sheet.path.name}, column {name}"
        meant = get_close_matches(name.casefold(), [n for n in OPTIONAL if n not in names], n=1, cutoff=0.8)
        if name in RESERVED:
            problems.append(Problem(where, "this name is used by tlimb itself, expected another for a label"))
        elif meant:
            hint = f"did you mean '{meant[0]}'? any other name is taken as a label"
            problems.append(Problem(where, "unknown column", hint))
    return problems


def cell_problems(sheet: Sheet) -> list[Problem]:
    """Empty cells of required columns, and characters that ids cannot hold."""
    problems = []
    for column in (*REQUIRED, *OPTIONAL):
        for row, cell in sheet.frame[column].items() if column in sheet.frame else ():
            if column in REQUIRED and not cell:
                problems.append(Problem(sheet.place(row, column), "empty, expected a value"))
            elif column in ALLOWED and not re.fullmatch(ALLOWED[column], cell):
                problems.append(odd_characters(sheet.place(row, column), column, cell))
    return problems


def odd_characters(where: str, column: str, cell: str) -> Problem:
    """The problem of a cell with characters that ids cannot hold."""
    marks = "letters, digits and . _ + -" + (" /" if column == "person" else "")
    return Problem(where, f"'{cell}' holds other characters than {marks}")


def plain(text: str) -> str:
    """Text with other characters than ids may hold as hyphens."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")
