"""HCP Young Adult, S1200: https://www.humanconnectome.org/study/hcp-young-adult.

Files: `100307/T1w/T1w_acpc_dc_restore.nii.gz` (and T2w_...), aligned, bias-corrected, defaced;
`100307/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_hp2000_clean.nii.gz`, in MNI space, session REST1-LR;
parcellated series of the PTN release, `node_timeseries/3T_HCP1200_MSMAll_d100_ts2/100307.txt` (4800 x 100, four runs
after one another). Tables: the unrestricted CSV with Subject, Gender, Age (22-25, 26-30, 31-35, 36+); the restricted
one with Age_in_Yrs and Family_ID. HCP's people are siblings and twins; whether families stay together is for a split
file to say.
"""

import re

from tlimb.errors import InputError, Problem
from tlimb.layouts.archive import SEX, Archive, Scans, coded, one_each, with_labels

STRUCTURAL = re.compile(r"(?:.*/)?(\d{6})/T1w/(T[12]w)_acpc_dc_restore\.nii\.gz")
REST = re.compile(
    r"(?:.*/)?(\d{6})/MNINonLinear/Results/rfMRI_(REST\d)_([A-Z]{2})/rfMRI_REST\d_[A-Z]{2}(_hp2000_clean)?\.nii\.gz"
)
NODES = re.compile(r"(?:(?:.*/)?([^/]*_d\d+_ts2[^/]*)/)?(\d{6})\.txt")
UNRESTRICTED = {"subject": ["Subject"], "sex": ["Gender"]}
RESTRICTED = {"subject": ["Subject"], "family": ["Family_ID"]}


def hcp(archive: Archive) -> Scans:
    """Structural images, resting-state images in MNI space, parcellated series; labels sex, age_range, age, family."""
    rows = [*_structural(archive), *_rest(archive), *_nodes(archive)]
    if not rows:
        raise archive.nothing("100307/T1w/T1w_acpc_dc_restore.nii.gz or 3T_HCP1200_MSMAll_d100_ts2/100307.txt")
    people = archive.find(UNRESTRICTED, {"age_range": ["Age"]})
    families = archive.find(RESTRICTED, {"age": ["Age_in_Yrs"]})
    if people is None and families is None and archive.tables:
        raise archive.lacking(UNRESTRICTED)
    if people is not None:
        people = people.assign(sex=coded(people["sex"], SEX))
    scans = one_each(rows)
    if people is not None or families is None:
        scans = with_labels(scans, people, ["subject"], "the unrestricted CSV (Subject, Gender, Age)")
    return scans if families is None else with_labels(scans, families, ["subject"], "")


def _structural(archive: Archive) -> list[dict]:
    ending = "T1w/T[12]w_acpc_dc_restore.nii.gz"
    return [
        {"subject": part[1], "session": "", "modality": part[2], "image": path}
        for path in archive.files(f"*/{ending}", f"*/*/{ending}")
        if (part := STRUCTURAL.fullmatch(path))
    ]


def _rest(archive: Archive) -> list[dict]:
    """Resting-state runs, cleaned ones first."""
    ending = "MNINonLinear/Results/rfMRI_REST*/rfMRI_REST*.nii.gz"
    found = [part for path in archive.files(f"*/{ending}", f"*/*/{ending}") if (part := REST.fullmatch(path))]
    return [
        {"subject": part[1], "session": f"{part[2]}-{part[3]}", "modality": "bold", "image": part[0]}
        for part in sorted(found, key=lambda part: part[4] is None)
    ]


def _nodes(archive: Archive) -> list[dict]:
    """Parcellated series, one parcellation at a time."""
    found = [part for path in archive.files("*.txt", "*/*.txt", "*/*/*.txt") if (part := NODES.fullmatch(path))]
    kinds = sorted({part[1] or "" for part in found})
    if len(kinds) > 1:
        message = f"series of several parcellations: {', '.join(kinds)}"
        raise InputError([Problem(str(archive.root), message, "name one of these folders as the root")])
    return [{"subject": part[2], "session": "", "modality": "bold", "image": part[0]} for part in found]
