"""OASIS-1 and OASIS-3: https://sites.wustl.edu/oasisbrains.

OASIS-1, files: `[disc1/]OAS1_0001_MR1/PROCESSED/MPRAGE/SUBJ_111/OAS1_0001_MR1_mpr_n4_anon_sbj_111.img`, the average
of a session at 1 mm, in Analyze format, whose header says nothing of orientation; `MR2` is a second session within 90
days.
Table: oasis_cross-sectional.csv with ID (OAS1_0001_MR1), M/F, Age, Educ, MMSE, CDR.

OASIS-3, files: `sub-OAS30001_ses-d0129[_run-01]_T1w.nii.gz` anywhere below the root (`OAS30001_MR_d0129/anat1/...` or
BIDS); the session is the day since entry. Tables: OASIS3_demographics.csv with OASISID, AgeatEntry, GENDER (1 male, 2
female), and OASIS3_UDSb4_cdr.csv with OASISID, days_to_visit, CDRTOT, MMSE, dx1, taken from the visit nearest to the
scan within a year; or subjects.csv and ADRC Clinical Data.csv of the older release.
"""

import re

import numpy as np
import pandas as pd

from tlimb.bids import IMAGES, first_of, parse_name
from tlimb.labels import missing
from tlimb.layouts.archive import SEX, Archive, Scans, coded, nearest_visit, one_each, with_labels
from tlimb.layouts.convert import to_niftis

AVERAGE = re.compile(r"(OAS1_\d{4})_(MR\d)_.*_sbj_111\.(img|nii|nii\.gz)")
CROSS_SECTIONAL = {"subject": ["ID"], "age": ["Age"], "sex": ["M/F"]}
CLINICAL = {"cdr": ["CDR"], "mmse": ["MMSE"], "education": ["Educ"]}

SUBJECT = ["OASISID", "Subject"]
DEMOGRAPHICS = {"subject": SUBJECT, "sex": ["GENDER", "M/F"]}
VISITS = {"subject": SUBJECT, "day": ["days_to_visit", "ADRC_ADRCCLINICALDATA ID"], "cdr": ["CDRTOT", "cdr"]}
YEAR = 365.25


def oasis1(archive: Archive) -> Scans:
    """The averaged T1 image of each session; labels age, sex, cdr, mmse, education. Analyze images are converted."""
    rows = []
    for path in archive.walk("_sbj_111.img", "_sbj_111.nii", "_sbj_111.nii.gz"):
        if part := AVERAGE.fullmatch(path.rsplit("/", 1)[-1]):
            rows.append({"subject": part[1], "session": part[2], "modality": "T1w", "image": path})
    if not rows:
        raise archive.nothing("OAS1_0001_MR1_mpr_n4_anon_sbj_111.img")
    scans = one_each(rows)
    analyze = scans.frame[scans.frame["image"].str.endswith(".img")]
    made = [
        archive.images / f"{subject}_{session}_T1w.nii.gz"
        for subject, session in zip(analyze["subject"], analyze["session"])
    ]
    to_niftis([(archive.root / image, target, _sagittal) for image, target in zip(analyze["image"], made)])
    scans.frame.loc[analyze.index, "image"] = [str(path) for path in made]
    if made:
        scans.remarks.append(f"{len(made)} Analyze images converted to NIfTI in {archive.images}")
    table = archive.table(CROSS_SECTIONAL, CLINICAL)
    if table is not None:
        ids = table["subject"].str.extract(r"^(OAS1_\d{4})_(MR\d)$")
        table = table.assign(subject=ids[0], session=ids[1], sex=coded(table["sex"], SEX)).dropna(subset=["subject"])
    return with_labels(scans, table, ["subject", "session"], "oasis_cross-sectional.csv (ID, M/F, Age, CDR)")


def _sagittal(shape: tuple[int, ...]) -> np.ndarray:
    """Voxel -> RAS mm of OASIS-1's images at 1 mm: first axis to the front, second upwards, third to the left."""
    affine = np.array([[0, 0, -1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape[:3]) / 2)
    return affine


def oasis3(archive: Archive) -> Scans:
    """T1w, T2w, FLAIR ... of each session; labels age, sex, and cdr, mmse, diagnosis of the nearest visit."""
    found = [parse_name(path) for path in archive.walk(".nii", ".nii.gz")]
    rows = [
        {"subject": name.entities["sub"], "session": name.entities["ses"], "modality": name.suffix, "image": name.path}
        for name in first_of(name for name in found if name)
        if name.suffix in IMAGES and re.fullmatch(r"OAS3\d+", name.entities.get("sub", "")) and "ses" in name.entities
    ]
    if not rows:
        raise archive.nothing("sub-OAS30001_ses-d0129_T1w.nii.gz")
    scans = one_each(rows)
    scans.frame["day"] = scans.frame["session"].str.extract(r"d(\d+)$")[0]
    people = archive.find(DEMOGRAPHICS, {"entry": ["AgeatEntry", "ageAtEntry"]})
    visits = archive.find(VISITS, {"mmse": ["MMSE"], "diagnosis": ["dx1"], "entry": ["ageAtEntry"]})
    if people is None and visits is None and archive.tables:
        raise archive.lacking(DEMOGRAPHICS)
    if people is not None:
        people = people.assign(sex=coded(people["sex"], {**SEX, "1": "M", "2": "F"}))
    scans = with_labels(scans, people, ["subject"], "OASIS3_demographics.csv and OASIS3_UDSb4_cdr.csv")
    if visits is not None:
        visits = visits[~missing(visits["cdr"])]
        visits = visits.assign(day=visits["day"].str.extract(r"(-?\d+)$")[0])
        scans.frame = _filled(scans.frame, nearest_visit(scans.frame, visits, "subject", "day", YEAR))
    return Scans(_aged(scans.frame), scans.remarks)


def _filled(frame: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        **{name: frame[name].where(frame[name] != "", more[name]) if name in frame else more[name] for name in more}
    )


def _aged(frame: pd.DataFrame) -> pd.DataFrame:
    """Age at the scan, from age at entry and the days since."""
    if "entry" in frame:
        age = pd.to_numeric(frame["entry"], errors="coerce") + frame["day"].astype(float) / YEAR
        frame = frame.assign(age=age.round(2).map(lambda value: "" if pd.isna(value) else f"{value:g}"))
    return frame.drop(columns=["day", "entry"], errors="ignore")
