"""Tables of time points by columns: parcellated time series, and the confounds beside them."""

import csv
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError

from tlimb.errors import nearest
from tlimb.preprocess.nifti import ScanError, opened
from tlimb.preprocess.series_file import PARCELLATED, SEPARATORS, numbers_in, parcellated, table_names
from tlimb.preprocess.signals import COMPARED, Signals, as_hashed, too_few

MOTION = "framewise_displacement"


def read_table(path: Path, timepoints: int) -> Signals:
    """The first `timepoints` rows of a parcellated table; columns are regions.

    Raises ScanError where the file is no such table, is too short, or holds a cell that is no finite number.
    """
    names, named, counted = table_names(path)
    try:
        values, tr = _cells(path, named, counted)
    except (OSError, EOFError, ValueError, csv.Error, ImageFileError) as error:
        reason = str(error).replace(str(path), path.name)
        raise ScanError(reason if isinstance(error, ScanError) else f"cannot be read: {reason}") from None
    except Warning:
        raise ScanError(f"the first line has {len(names)} columns, others have more") from None
    points, regions = values.shape
    if points < timepoints:
        hint = f"it has {regions} columns: is it transposed?" if regions >= timepoints else ""
        raise ScanError(too_few(points, timepoints, hint))
    _require_numbers(values[:timepoints], names)
    kept = values[:timepoints].astype(np.float64)
    doubt = f"{regions} regions, more than {points} time points: is the table transposed?"
    content = hashlib.sha256(as_hashed(kept[:COMPARED])).hexdigest()[:16]
    return Signals(kept, tuple(names), points, content, tr, temporal_snr(kept), warnings=[doubt] * (regions > points))


def table_tr(path: Path) -> float | None:
    """Seconds between the time points of a table; None where it does not say, as only .ptseries.nii can."""
    if not path.name.lower().endswith(PARCELLATED):
        return None
    axis = parcellated(path).header.get_axis(0)
    return float(axis.step) if str(axis.unit).upper() == "SECOND" and axis.step > 0 else None


def temporal_snr(values: np.ndarray) -> float | None:
    """The median over columns of mean over standard deviation, None where the columns were centred before."""
    spread = values.std(0)
    ratio = values.mean(0)[spread > 0] / spread[spread > 0]
    return float(np.median(ratio)) if len(ratio) and np.median(ratio) > 1 else None


def read_confounds(
    path: Path, names: Sequence[str], points: int, timepoints: int
) -> tuple[np.ndarray | None, float | None, list[str]]:
    """The first `timepoints` values of the confounds `names` (T, K), the mean framewise displacement in mm, and notes.

    Values that are missing at the start, as those of derivatives are, become their column's mean. A confound that does
    not vary is left out. points: time points of the scan, which the table must have too.
    Raises ScanError where the table does not fit or lacks a column.
    """
    frame = _read_frame(path)
    unknown = [name for name in names if name not in frame.columns]
    if unknown:
        told = [f"'{name}'" + (f", {hint}" if (hint := nearest(name, frame.columns)) else "") for name in unknown]
        raise ScanError(f"confounds: no column {'; '.join(told)}")
    if len(frame) != points:
        raise ScanError(f"confounds: {len(frame)} rows, the scan has {points} time points")
    notes, columns, filled = [], [], []
    for name in names:
        values, mended = _whole(name, frame[name].iloc[:timepoints])
        filled += [name] * mended
        columns.append(values)
    if filled:
        notes.append(f"confounds without a value at their start, taken as their mean: {', '.join(filled)}")
    still = [name for name, values in zip(names, columns) if values.std() == 0]
    if still:
        notes.append(f"confounds that do not vary, left out: {', '.join(still)}")
    columns = [values for values in columns if values.std() > 0]
    return np.stack(columns, 1) if columns else None, _motion(frame, timepoints), notes


def _cells(path: Path, named: bool, counted: bool) -> tuple[np.ndarray, float | None]:
    """All cells as numbers, and the seconds between time points where the file says."""
    if path.name.lower().endswith(PARCELLATED):
        return np.asarray(parcellated(path).dataobj), table_tr(path)
    if path.suffix.lower() == ".npy":
        return numbers_in(path), None
    frame = _frame(path, SEPARATORS[path.suffix.lower()], 0 if named else None)
    return _numbers(frame.iloc[:, 1:] if counted else frame), None


def _frame(path: Path, separator: str | None, header: int | None):
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would lose their end
        return pd.read_csv(
            path, sep=separator or r"\s+", header=header, index_col=False, encoding="utf-8-sig", low_memory=False
        )


def _numbers(frame) -> np.ndarray:
    """A table's cells as float64; raises ScanError that quotes the first cell which is text."""
    import pandas as pd

    texts = [column for column, kind in enumerate(frame.dtypes) if kind.kind not in "iuf"]
    for column in texts:
        cells = frame.iloc[:, column]
        wrong = pd.to_numeric(cells, errors="coerce").isna() & cells.notna()
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            found = str(cells.iloc[row])[:40]
            raise ScanError(f"time point {row + 1}, column {column + 1}: expected a number, found '{found}'")
    return frame.astype("float64").to_numpy()


def _require_numbers(values: np.ndarray, names: Sequence[str]) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"the first at time point {row + 1} of region {names[column]}"
        raise ScanError(f"{int(wrong.sum())} values are missing or infinite, {where}")


def _read_frame(path: Path):
    import pandas as pd

    separator = SEPARATORS.get(path.suffix.lower(), "\t")
    try:
        with opened(path):
            frame = _frame(path, separator, 0)
    except (ScanError, OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise ScanError(f"confounds: cannot be read: {str(error).replace(str(path), path.name)}") from None
    return frame.rename(columns=lambda name: str(name).strip())


def _whole(name: str, column) -> tuple[np.ndarray, bool]:
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce")
    if (values.isna() & column.notna()).any():
        row = int(np.flatnonzero(values.isna() & column.notna())[0])
        raise ScanError(f"confounds: time point {row + 1} of '{name}': expected a number, found '{column.iloc[row]}'")
    values = values.to_numpy("float64", na_value=np.nan, copy=True)
    known = np.isfinite(values)
    if not known.any():
        raise ScanError(f"confounds: '{name}' holds no number")
    first = int(np.argmax(known))
    if not known[first:].all():
        row = first + int(np.argmin(known[first:]))
        raise ScanError(f"confounds: '{name}' has no value at time point {row + 1}")
    values[:first] = values[first:].mean()
    return values, first > 0


def _motion(frame, timepoints: int) -> float | None:
    import pandas as pd

    if MOTION not in frame.columns:
        return None
    values = pd.to_numeric(frame[MOTION].iloc[:timepoints], errors="coerce").to_numpy("float64", na_value=np.nan)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else None
