"""Labels as a samplesheet gives them: text or numbers, classes or quantities."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

MISSING = {"", "n/a", "na", "nan", "null"}
"""Cells, whatever their case, that mean that a label is not known."""

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
    """

    values: pd.Series
    kind: str
    classes: list[str]
    odd: list[int]
    commas: list[int]

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.values.dtype == np.float64

    def facts(self) -> dict:
        """The label as cohort.json describes it."""
        return {"kind": self.kind, "classes": self.classes, "n": int(self.values.notna().sum())}


def read_label(cells: pd.Series, kind: str | None = None) -> Label:
    """A label from the text of its cells; `kind` overrules what the values suggest.

    All finite numbers: float64; otherwise text, as written. Text and at most 10 distinct whole numbers are
    classification, else regression. Classes are sorted, whole numbers written without a decimal point.
    """
    unknown = missing(cells)
    present = cells[~unknown]
    numbers = present.map(is_number).astype(bool)
    commas = present.map(lambda cell: DECIMAL_COMMA.fullmatch(cell) is not None).astype(bool)
    if numbers.all():
        values = cells.where(~unknown).astype("float64")
        distinct = sorted(set(values.dropna()))
        few_whole = 0 < len(distinct) <= FEW and all(value.is_integer() for value in distinct)
        kind = kind or ("classification" if few_whole else "regression")
        classes, odd = [class_name(value) for value in distinct], []
    else:
        values = cells.where(~unknown)
        kind = kind or "classification"
        classes = sorted(set(present))
        odd = list(present.index[~numbers]) if numbers.mean() >= 0.5 else []
    with_comma = list(present.index[commas]) if commas.mean() > 0.5 else []
    return Label(values, kind, classes if kind == "classification" else [], odd, with_comma)


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
