"""Labels as a samplesheet gives them: text or numbers, classes or quantities."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

MISSING = {"", "n/a", "na", "nan", "null"}
"""Cells, whatever their case, that mean that a label is not known."""

ONE_CLASS = ("classification", "ordinal")
"""Kinds of label of which a scan has one class."""

CLASSES = (*ONE_CLASS, "multilabel")
"""Kinds of label that have classes."""

NUMBERS = ("regression", "survival")
"""Kinds of label that need numbers."""

SEVERAL = ";"
"""What stands between the classes of one cell; alone it says that there are none."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
FEW = 10
"""Distinct whole numbers up to which they are taken for classes."""


@dataclass(frozen=True)
class Label:
    """One label of all scans.

    values: float64 or text, null where missing, with the rows of the samplesheet as its index.
    odd: rows whose value kept the column from being numbers, while most others are numbers.
    commas: rows with a number like 35,8, where most are such.
    event: the column that says whether the time in this one is that of an event; empty for other kinds.
    """

    values: pd.Series
    kind: str
    classes: list[str]
    odd: list[int]
    commas: list[int]
    event: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.values.dtype == np.float64

    def facts(self) -> dict:
        """The label as cohort.json describes it."""
        event = {"event": self.event} if self.event else {}
        return {"kind": self.kind, "classes": self.classes, "n": int(self.values.notna().sum())} | event


def read_label(
    cells: pd.Series, kind: str | None = None, classes: Sequence[str] | None = None, event: str = ""
) -> Label:
    """A label from the text of its cells; `kind` and `classes` overrule what the values suggest.

    All finite numbers: float64; otherwise text, as written. Text and at most 10 distinct whole numbers are
    classification, else regression. Classes are in the order in which they are given, or sorted; whole numbers are
    written without a decimal point. Cells of several classes become text with the classes in their order.
    """
    if kind == "multilabel":
        return _read_several(cells, classes)
    unknown = missing(cells)
    present = cells[~unknown]
    numbers = present.map(is_number).astype(bool)
    commas = present.map(lambda cell: DECIMAL_COMMA.fullmatch(cell) is not None).astype(bool)
    if numbers.all():
        values = cells.where(~unknown).astype("float64")
        distinct = sorted(set(values.dropna()))
        few_whole = 0 < len(distinct) <= FEW and all(value.is_integer() for value in distinct)
        kind = kind or ("classification" if few_whole else "regression")
        found, odd = [class_name(value) for value in distinct], []
    else:
        values = cells.where(~unknown)
        kind = kind or "classification"
        found = sorted(set(present))
        odd = list(present.index[~numbers]) if numbers.mean() >= 0.5 else []
    with_comma = list(present.index[commas]) if commas.mean() > 0.5 else []
    return Label(values, kind, list(classes or found) if kind in CLASSES else [], odd, with_comma, event)


def _read_several(cells: pd.Series, classes: Sequence[str] | None) -> Label:
    known = cells[~missing(cells)]
    classes = list(classes or sorted(classes_of(known, "multilabel")))
    order = {name: number for number, name in enumerate(classes)}
    sets = {cell: together(sorted(set(classes_in(cell)), key=lambda name: order.get(name, -1))) for cell in set(known)}
    return Label(known.map(sets).reindex(cells.index).astype("str"), "multilabel", classes, [], [])


def classes_in(cell: str) -> list[str]:
    """The classes of a cell of several; none where it holds a ';' alone."""
    return [name.strip() for name in cell.split(SEVERAL) if name.strip()]


def together(names: list[str]) -> str:
    """Several classes as one cell."""
    return SEVERAL.join(names) or SEVERAL


def classes_of(column: pd.Series, kind: str) -> set[str]:
    """Every class that the known labels of a column have, numbers as they are written as classes."""
    known = column.dropna()
    if kind == "multilabel":
        return {name for cell in set(known) for name in classes_in(cell)}
    return {class_name(value) if isinstance(value, float) else value for value in set(known)}


def is_number(cell: str) -> bool:
    """Whether a cell is a finite number; 1e400 is none, as it would be read as infinity."""
    return NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def missing(cells: pd.Series) -> pd.Series:
    """Where the text of cells says that a label is not known."""
    return cells.str.casefold().isin(MISSING)


def same_value(one: str, other: str) -> bool:
    """Whether two cells say the same: equal text, or equal numbers however written."""
    if one == other:
        return True
    return is_number(one) and is_number(other) and float(one) == float(other)


def some(items: Iterable, named: int = 5) -> str:
    """The first of many things as text, and how many more there are."""
    items = [str(item) for item in items]
    return ", ".join(items[:named]) + (f" and {len(items) - named} more" if len(items) > named else "")


def class_name(value: float) -> str:
    """How a number is written as a class: 1.0 as "1", 1.5 as "1.5"."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def signed_times(times: pd.Series, events: pd.Series) -> pd.Series:
    """Times of events as they are, and those until which none was seen (event 0) negative; missing stays missing."""
    return times.where(events == 1, -times)


def members(codes: np.ndarray, classes: int) -> np.ndarray:
    """Which of the classes each sum of 2^index holds, (n,) -> (n, classes) of bool."""
    return (codes.astype("int64")[:, None] >> np.arange(classes)) & 1 == 1
