"""ADNI and PPMI as LONI's archive delivers them: https://ida.loni.usc.edu.

Files: `ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I45108/ADNI_002_S_0295_MR_MPRAGE_Br_2007..._S13408_I45108.nii`
(subject, description, date and time, image), downloaded as NIfTI; PPMI the same with numbers as subjects.
Table: the CSV that comes with a collection, with Image Data ID, Subject, Group, Sex, Age, Visit. ADNI also
ADNIMERGE.csv with PTID, EXAMDATE, DX, and EXAMDATE_bl, AGE, PTGENDER, MMSE, of which the visit within half a year of
the scan is taken. Its diagnoses (CN, MCI, Dementia) are other words than the groups (CN, EMCI, LMCI, AD), so that
where it is given diagnoses come from it alone.
Both also as prepared for trans-MRI (https://github.com/ben0it8/trans-MRI): see tlimb.layouts.listed.
"""

import re

import pandas as pd

from tlimb.labels import missing
from tlimb.layouts.archive import SEX, Archive, Scans, coded, nearest_visit, one_each, with_labels
from tlimb.layouts.contrast import contrast
from tlimb.layouts.listed import is_listed, listed

FILE = re.compile(
    r"(?:.*/)?(?P<subject>[^/]+)/(?P<description>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)_[\d_.]+/[^/]+/[^/]*_I(?P<image>\d+)\.nii(\.gz)?"
)
COLLECTION = {"image_id": ["Image Data ID", "Image ID"], "subject_": ["Subject", "Subject ID"]}
USUAL = {"diagnosis": ["Group", "Research Group"], "sex": ["Sex"], "age": ["Age"], "visit": ["Visit"]}
MERGE = {"subject": ["PTID"], "date": ["EXAMDATE"], "diagnosis": ["DX"]}
MERGED = {"age_bl": ["AGE"], "date_bl": ["EXAMDATE_bl"], "sex": ["PTGENDER"], "mmse": ["MMSE"]}
HALF_A_YEAR = 183


def adni(archive: Archive) -> Scans:
    """Structural images of ADNI; session the date of the scan, labels diagnosis, sex, age, visit, mmse."""
    if is_listed(archive):
        return listed(archive)
    scans = _images(archive, "ADNI")
    merge = archive.find(MERGE, MERGED)
    usual = {label: names for label, names in USUAL.items() if merge is None or label != "diagnosis"}
    collection = archive.find(COLLECTION, usual)
    if merge is None and collection is None and archive.tables:
        raise archive.lacking(COLLECTION)
    if merge is not None:
        scans.frame = scans.frame.join(_nearest_exam(scans.frame, merge))
    return _from_collection(scans, collection, "the collection's CSV or ADNIMERGE.csv", merge is None)


def ppmi(archive: Archive) -> Scans:
    """T1w, T2w and FLAIR images of PPMI; session the date of the scan, labels diagnosis, sex, age, visit."""
    if is_listed(archive):
        return listed(archive)
    return _from_collection(_images(archive, "PPMI"), archive.table(COLLECTION, USUAL), "the collection's CSV", True)


def _images(archive: Archive, project: str) -> Scans:
    rows, unknown = [], set()
    for path in archive.walk(".nii", ".nii.gz"):
        if part := FILE.fullmatch(path):
            row = {"subject": part["subject"], "session": part["date"], "modality": contrast(part["description"])}
            rows.append(row | {"image": path, "image_id": part["image"], "order": _order(part["description"])})
            unknown |= set() if row["modality"] else {part["description"]}
    if not rows:
        hint = "there are DICOM files: download as NIfTI or convert them" if archive.walk(".dcm") else ""
        raise archive.nothing(f"{project}/<subject>/<description>/<date>_<time>/I<image>/*_I<image>.nii", hint)
    rows = sorted((row for row in rows if row["modality"]), key=lambda row: row["order"])
    if not rows:
        raise archive.nothing("after a structural contrast", f"found {', '.join(sorted(unknown))}")
    scans = one_each([{name: cell for name, cell in row.items() if name != "order"} for row in rows])
    if unknown:
        scans.remarks.append(f"descriptions of no known contrast passed over: {', '.join(sorted(unknown))}")
    return scans


def _order(description: str) -> tuple:
    """First what is no repeat, then what went through more of LONI's own corrections (GradWarp, B1, N3)."""
    again = bool(re.search(r"REPEAT|REPE|_R$|(^|_)2($|_)", description.upper()))
    return again, -description.count("__"), description


def _from_collection(scans: Scans, table: pd.DataFrame | None, expected: str, needed: bool) -> Scans:
    if table is not None:
        table = table.assign(image_id=table["image_id"].str.lstrip("ID")).drop(columns="subject_")
        if "sex" in table:
            table["sex"] = coded(table["sex"], SEX)
    if table is not None or needed:
        scans = with_labels(scans, table, ["image_id"], expected)
    return Scans(scans.frame.drop(columns="image_id"), scans.remarks)


def _nearest_exam(frame: pd.DataFrame, merge: pd.DataFrame) -> pd.DataFrame:
    """Labels of ADNIMERGE's visit nearest to each scan, age counted on from baseline."""
    scans = frame[["subject"]].assign(day=_days(frame["session"]))
    merge = merge[~missing(merge["diagnosis"])]
    visits = merge.assign(day=_days(merge["date"])).drop(columns="date")
    found = nearest_visit(scans, visits, "subject", "day", HALF_A_YEAR)
    if {"age_bl", "date_bl"} <= set(found):
        age = pd.to_numeric(found["age_bl"], errors="coerce") + (scans["day"] - _days(found["date_bl"])) / 365.25
        found["age"] = age.round(2).map(lambda value: "" if pd.isna(value) else f"{value:g}")
    if "sex" in found:
        found["sex"] = coded(found["sex"], SEX)
    return found.drop(columns=["age_bl", "date_bl"], errors="ignore")


def _days(dates: pd.Series) -> pd.Series:
    """Days since 1970, NaN where there is no date."""
    moments = pd.to_datetime(dates, errors="coerce", format="mixed")
    return (moments - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
