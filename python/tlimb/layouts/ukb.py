"""UK Biobank: https://biobank.ndph.ox.ac.uk/showcase, NIfTI bulk fields 20252 (T1) and 20253 (T2 FLAIR), unzipped.

Files: `1000223_20252_2_0/T1/T1.nii.gz` or `1000223/20252_2_0/T1/T1.nii.gz` (eid, field, instance, array);
T2_FLAIR/T2_FLAIR.nii.gz.
Instance 2 is the first imaging visit, 3 the repeat; it is the session. Table: eid and the fields 31 (sex: 0 female, 1
male), 21003 (age at the visit), 54 (centre), as `21003-2.0`, `p21003_i2` or `f.21003.2.0`.
"""

import re

import pandas as pd

from tlimb.layouts.archive import SEX, Archive, Scans, coded, one_each, with_labels

FILE = re.compile(r"(?:.*/)?(\d+)[_/]2025[23]_(\d)_\d/(T1/T1|T2_FLAIR/T2_FLAIR)\.nii\.gz")
MODALITIES = {"T1/T1": "T1w", "T2_FLAIR/T2_FLAIR": "FLAIR"}
INSTANCES = ("2", "3")


def ukb(archive: Archive) -> Scans:
    """Defaced T1 and FLAIR images with the skull on; labels age (at the visit), sex, site (assessment centre)."""
    rows = [
        {"subject": part[1], "session": part[2], "modality": MODALITIES[part[3]], "image": path}
        for path in archive.walk("T1.nii.gz", "T2_FLAIR.nii.gz")
        if (part := FILE.fullmatch(path))
    ]
    if not rows:
        hint = "there are zip files: unpack each into a folder of its name" if archive.walk("_20252_2_0.zip") else ""
        raise archive.nothing("1000223_20252_2_0/T1/T1.nii.gz", hint)
    known = {
        f"{label}-{visit}": _field(field, visit)
        for label, field in (("age", "21003"), ("site", "54"))
        for visit in INSTANCES
    }
    table = archive.table({"subject": ["eid", "participant.eid", "f.eid"], "sex": _field("31", "0")}, known)
    if table is not None:
        table = table[table["subject"].isin({row["subject"] for row in rows})]
        table = _by_visit(table.assign(sex=coded(table["sex"], {**SEX, "0": "F", "1": "M"})))
    return with_labels(one_each(rows), table, ["subject", "session"], "a table with eid, 31-0.0, 21003-2.0, 54-2.0")


def _field(field: str, instance: str) -> list[str]:
    names = [
        f"{field}-{instance}.0",
        f"p{field}_i{instance}",
        f"f.{field}.{instance}.0",
        f"participant.p{field}_i{instance}",
    ]
    return names + ([f"p{field}", f"participant.p{field}"] if instance == "0" else [])


def _by_visit(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each person and visit, labels of the visit under their plain names."""
    timed = [name for name in table if name.startswith(("age-", "site-")) and name[-1] in INSTANCES]
    parts = []
    for visit in INSTANCES:
        of_visit = {name: name.split("-")[0] for name in timed if name.endswith(f"-{visit}")}
        parts.append(
            table.drop(columns=[name for name in timed if name not in of_visit])
            .rename(columns=of_visit)
            .assign(session=visit)
        )
    return pd.concat(parts, ignore_index=True).fillna("")
