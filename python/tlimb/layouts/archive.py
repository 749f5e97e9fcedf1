"""What all layouts share: an archive's folder and tables, one file for each scan, labels joined, images converted."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from tlimb.bids import natural
from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import missing, same_value, some
from tlimb.samplesheet import BINARY, delimiter

SCAN = ["subject", "session", "modality"]
Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Archive:
    """A public archive as it lies on the user's disk.

    root: its folder.  tables: CSV or TSV files with its labels.  images: where images that have to be converted go.
    keep: columns of the tables to take as labels beside the usual ones.
    """

    root: Path
    tables: Sequence[Path] = ()
    images: Path = Path("images")
    keep: Sequence[str] = ()

    @cached_property
    def headers(self) -> dict[Path, list[str]]:
        """The columns of each table; raises InputError for tables that cannot be read."""
        return {path: _header(path) for path in self.tables}

    def files(self, *patterns: str) -> list[str]:
        """Paths that fit any of the glob patterns, counted from the root, in natural order."""
        found = {path.relative_to(self.root).as_posix() for pattern in patterns for path in self.root.glob(pattern)}
        return sorted(found, key=natural)

    def walk(self, *endings: str) -> list[str]:
        """Paths of all files anywhere below the root that end so, counted from the root, in natural order."""
        found, seen = [], set()
        for folder, inner, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                inner.clear()
                continue
            seen.add(real)
            found += [
                os.path.relpath(os.path.join(folder, name), self.root) for name in names if name.endswith(endings)
            ]
        return sorted(found, key=natural)

    def nothing(self, expected: str, hint: str = "") -> InputError:
        """The error that says what was looked for and not found."""
        return InputError([Problem(str(self.root), f"nothing found that is named {expected}", hint)])

    def find(self, needed: Columns, known: Columns | None = None) -> pd.DataFrame | None:
        """The first table that has all the needed columns, with those of the known ones that it has; None without one.

        Both say new name -> names that the column may have, in the archive's releases; others are dropped.
        """
        for path, header in self.headers.items():
            named = {new: column(header, names) for new, names in {**(known or {}), **needed}.items()}
            if all(named[new] for new in needed):
                return self._read(path, {new: old for new, old in named.items() if old})
        return None

    def table(self, needed: Columns, known: Columns | None = None) -> pd.DataFrame | None:
        """As `find`, and an InputError where there are tables and none will do."""
        found = self.find(needed, known)
        if found is None and self.tables:
            raise self.lacking(needed)
        return found

    def lacking(self, needed: Columns) -> InputError:
        """The error that says which columns each table would have needed."""
        return InputError(
            [
                Problem(str(path), f"the column '{names[0]}' is missing", nearest(names[0], header))
                for path, header in self.headers.items()
                for names in needed.values()
                if not column(header, names)
            ]
        )

    def _read(self, path: Path, named: Mapping[str, str]) -> pd.DataFrame:
        kept = {name: name for name in self.keep if name in self.headers[path]}
        columns = {**kept, **named}
        frame = _read(path, usecols=sorted(set(columns.values())))
        return pd.DataFrame({new: frame[old].str.strip() for new, old in columns.items()})


@dataclass
class Scans:
    """What a layout finds: rows of a samplesheet (paths counted from the root unless absolute) and remarks."""

    frame: pd.DataFrame
    remarks: list[str] = field(default_factory=list)


def column(header: Iterable[str], known: Sequence[str]) -> str | None:
    """The first of some names that a table has, whatever its case."""
    lower = {name.casefold(): name for name in reversed(list(header))}
    return next((lower[name.casefold()] for name in known if name.casefold() in lower), None)


def one_each(rows: list[dict], what: str = "files") -> Scans:
    """One row for each scan: of several the first; columns SCAN, image and whatever else the rows hold."""
    frame = pd.DataFrame(rows, dtype="str").fillna("")
    again = frame.duplicated([name for name in SCAN if name in frame])
    remarks = [f"{again.sum()} {what} passed over where one scan has several: {some(frame.loc[again, 'image'])}"]
    return Scans(frame[~again].reset_index(drop=True), remarks if again.any() else [])


def with_labels(scans: Scans, labels: pd.DataFrame | None, on: Sequence[str], expected: str) -> Scans:
    """Scans with the columns of a table joined `on` the columns that both have.

    Labels that are there already are filled where they are empty. Rows of one key that disagree leave their label
    empty. expected: which table and columns would do, for the remark where there is none.
    """
    if labels is None:
        return Scans(scans.frame, [*scans.remarks, f"no labels; give {expected} with --table"])
    on, remarks = list(on), list(scans.remarks)
    one, unclear = _settled(labels, on)
    if unclear:
        remarks.append(f"rows of one subject that disagree were left empty: {some(unclear)}")
    keys = pd.MultiIndex.from_frame(scans.frame[on]) if len(on) > 1 else pd.Index(scans.frame[on[0]])
    frame = scans.frame.copy()
    for name in one:
        cells = one[name].reindex(keys).set_axis(frame.index).fillna("")
        frame[name] = frame[name].where(~missing(frame[name]), cells) if name in frame else cells
    unlisted = frame.loc[~keys.isin(one.index), "subject"].unique()
    if len(unlisted):
        remarks.append(f"{len(unlisted)} subjects have no row in the table: {some(unlisted)}")
    return Scans(frame, remarks)


def _settled(labels: pd.DataFrame, on: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """One row a key, empty where several rows of a key disagree, and the keys where they do."""
    rows, unclear = {}, []
    for key, part in labels[labels.duplicated(on, keep=False)].groupby(on, sort=False):
        cells = {}
        for name in labels.columns.difference(on):
            known = list(part.loc[~missing(part[name]), name])
            agree = all(same_value(known[0], value) for value in known)
            cells[name] = known[0] if known and agree else ""
            unclear += [] if agree else [f"{name} of {' '.join(key)}"]
        rows[key if len(on) > 1 else key[0]] = cells
    one = labels.drop_duplicates(on).set_index(on)
    for key, cells in rows.items():
        one.loc[key, list(cells)] = list(cells.values())
    return one, unclear


def coded(cells: pd.Series, codes: Mapping[str, str]) -> pd.Series:
    """Cells with their codes written out, whatever their case and with or without decimals; others as they are."""
    plain = cells.str.replace(r"\.0+$", "", regex=True)
    return plain.str.casefold().map(codes).where(plain.str.casefold().isin(codes), cells)


SEX = {"m": "M", "male": "M", "f": "F", "female": "F"}
"""How all layouts write sex, so that cohorts can be put together."""


def nearest_visit(scans: pd.DataFrame, visits: pd.DataFrame, by: str, at: str, within: float) -> pd.DataFrame:
    """For each scan the labels of its person's visit nearest in time, at most `within` away; empty where none is.

    scans, visits: both with the text column `by` and the numeric column `at`. The rows are those of scans.
    """
    left = scans[[by, at]].astype({at: float}).rename_axis("scan").reset_index().dropna().sort_values(at)
    right = visits.astype({at: float}).dropna(subset=[at]).sort_values(at)
    found = pd.merge_asof(left, right, on=at, by=by, direction="nearest", tolerance=float(within))
    return found.set_index("scan").drop(columns=[by, at]).reindex(scans.index).fillna("").astype("str")


def _header(path: Path) -> list[str]:
    return list(_read(path, nrows=0).columns)


def _read(path: Path, **options) -> pd.DataFrame:
    if path.suffix.lower() in BINARY:
        raise InputError([Problem(str(path), f"expected CSV or TSV, found {path.suffix}", "save it as CSV")])
    try:
        with open(path, encoding="utf-8-sig") as handle:
            mark = delimiter(path, handle.readline())
        return pd.read_csv(path, sep=mark, dtype="str", keep_default_na=False, encoding="utf-8-sig", **options)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError([Problem(str(path), f"cannot be read: {error}")]) from None
