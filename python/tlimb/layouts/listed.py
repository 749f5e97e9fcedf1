"""Images that a table lists, as trans-MRI prepared ADNI, PPMI and iDSS (https://github.com/ben0it8/trans-MRI).

Table: PTID, DX (AD, CVD; Dementia, CN; PD, HC), and `file_path`, absolute or counted from the root; without it the
columns Visit, Scan.Date, Image.ID, and files
`<PTID>/<Visit>/<PTID>_<Scan.Date>_<Visit>_<Image.ID>_<DX>_Warped.nii.gz`, in which blanks are left out of Visit and /
is - in Scan.Date.
"""

import pandas as pd

from tlimb.bids import natural
from tlimb.errors import InputError, Problem
from tlimb.labels import missing, some
from tlimb.layouts.archive import SCAN, SEX, Archive, Scans, coded, column
from tlimb.layouts.contrast import contrast
from tlimb.samplesheet import plain

PATHS = {"subject": ["PTID"], "diagnosis": ["DX"], "image": ["file_path"]}
PARTS = {"subject": ["PTID"], "diagnosis": ["DX"], "visit": ["Visit"], "date": ["Scan.Date"], "image_id": ["Image.ID"]}
MORE = {
    "age": ["Age", "AGE"],
    "sex": ["Sex", "PTGENDER"],
    "session": ["Visit", "VISCODE"],
    "modality": ["Modality", "mri_type"],
}
NO_CONTRAST = {"MR", "MRI"}
"""What ADNI's tables have in the column Modality; it says no more than an empty cell."""


def is_listed(archive: Archive) -> bool:
    """Whether a table names images itself."""
    return any(
        all(column(header, names) for names in needed.values())
        for header in archive.headers.values()
        for needed in (PATHS, PARTS)
    )


def idss(archive: Archive) -> Scans:
    """Images that a table lists by path: iDSS, or anything prepared like it; labels diagnosis, age, sex."""
    if not archive.tables:
        raise InputError(
            [Problem("iDSS", "its images are listed by a table", "give it with --table (PTID, DX, file_path)")]
        )
    if not is_listed(archive):
        raise archive.lacking(PATHS)
    return listed(archive)


def listed(archive: Archive) -> Scans:
    """A scan for each row of the table; a subject's images without a visit are numbered as they are named.

    Rows that say nothing of the contrast are T1w; those that name none that is known are passed over.
    """
    frame = archive.find(PATHS, MORE)
    if frame is None:
        frame = _named(archive.find(PARTS, MORE))
    if "sex" in frame:
        frame["sex"] = coded(frame["sex"], SEX)
    frame, remarks = _with_contrast(frame)
    frame["subject"] = frame["subject"].map(plain)
    frame = frame.iloc[sorted(range(len(frame)), key=lambda place: natural(frame["image"].iloc[place]))].reset_index(
        drop=True
    )
    if "session" in frame:
        frame["session"] = frame["session"].map(lambda cell: plain(cell.replace(" ", "")))
    else:
        number = frame.groupby(["subject", "modality"]).cumcount() + 1
        frame["session"] = number.astype("str")
    again = frame.duplicated(SCAN)
    if again.any():
        remarks.append(f"{again.sum()} rows of one scan passed over: {some(frame.loc[again, 'image'])}")
    return Scans(frame[~again].reset_index(drop=True), remarks)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the paths that its columns spell out."""
    visit, date = frame["visit"].str.replace(" ", ""), frame["date"].str.replace("/", "-")
    name = frame["subject"] + "_" + date + "_" + visit + "_" + frame["image_id"] + "_" + frame["diagnosis"]
    image = frame["subject"] + "/" + visit + "/" + name + "_Warped.nii.gz"
    return frame.assign(image=image, session=frame["visit"]).drop(columns=["visit", "date", "image_id"])


def _with_contrast(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose contrast is known, with their modality, and what was passed over in words."""
    told = frame["modality"] if "modality" in frame else pd.Series("", index=frame.index, dtype="str")
    unsaid = missing(told) | told.str.upper().isin(NO_CONTRAST)
    modality = told.map(contrast).mask(unsaid, "T1w")
    unknown = sorted(set(told[modality == ""]))
    if unknown and not modality.any():
        message = f"names no structural contrast, found {some(unknown)}"
        raise InputError([Problem("the table's column Modality", message, "expected T1w, T2w, FLAIR, PDw or T2starw")])
    remarks = [f"{(modality == '').sum()} rows of no known contrast passed over: {some(unknown)}"] if unknown else []
    return frame.assign(modality=modality)[modality != ""], remarks
