"""IXI: https://brain-development.org/ixi-dataset (T1, T2, PD of nearly 600 healthy people at three hospitals).

Files: anywhere below the root, `IXI002-Guys-0828-T1.nii.gz` (subject, site, number, contrast).
Table: IXI.xls saved as CSV, with IXI_ID (2), `SEX_ID (1=m, 2=f)`, AGE; 0 and empty cells mean not known.
"""

import re

from tlimb.layouts.archive import Archive, Scans, coded, one_each, with_labels

FILE = re.compile(r"(IXI\d+)-([A-Za-z]+)-\d+-(T1|T2|PD)\.nii(\.gz)?")
MODALITIES = {"T1": "T1w", "T2": "T2w", "PD": "PDw"}
SEX_CODES = {"1": "M", "2": "F", "0": ""}


def ixi(archive: Archive) -> Scans:
    """The T1, T2 and PD images; labels site, age, sex."""
    rows = [
        {"subject": part[1], "session": "", "modality": MODALITIES[part[3]], "image": path, "site": part[2]}
        for path in archive.walk(".nii", ".nii.gz")
        if (part := FILE.fullmatch(path.rsplit("/", 1)[-1]))
    ]
    if not rows:
        raise archive.nothing("IXI002-Guys-0828-T1.nii.gz")
    needed = {"subject": ["IXI_ID"], "age": ["AGE"], "sex": ["SEX_ID (1=m, 2=f)", "SEX_ID", "SEX"]}
    table = archive.table(needed)
    if table is not None:
        numbers = table["subject"].str.replace(r"\.0+$|\D", "", regex=True)
        table = table.assign(
            subject="IXI" + numbers.str.zfill(3),
            sex=coded(table["sex"], SEX_CODES),
            age=table["age"].where(table["age"].str.strip("0.") != "", ""),
        )
    return with_labels(one_each(rows), table, ["subject"], "IXI.csv (IXI_ID, AGE, SEX_ID)")
