"""OpenBHB: https://baobablab.github.io/bhb (Dufumier et al., NeuroImage 2022, doi 10.1016/j.neuroimage.2022.119637).

Files: `[train/]derivatives/sub-<id>/ses-1/sub-<id>_preproc-quasiraw_T1w.npy` (T1w in MNI space, brain only, 1 mm) and
`..._preproc-cat12vbm_desc-gm_T1w.npy` (grey matter maps, 1.5 mm). Arrays have no place in space: it is taken from the
release's own images `quasiraw_space-MNI152_desc-brain_T1w.nii.gz` and `cat12vbm_space-MNI152_desc-gm_TPM.nii.gz`
(folder resource), and they are converted to NIfTI. Table: participants.tsv at the root with participant_id, age, sex,
site, study, split.
"""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np

from tlimb.layouts.archive import SEX, Archive, Scans, coded, one_each, with_labels
from tlimb.layouts.convert import Affine, to_niftis

FILE = re.compile(r"(?:.*/)?sub-(\d+)_(?:ses-[^_]+_)?preproc-(quasiraw|cat12vbm_desc-gm)_T1w\.(npy|nii|nii\.gz)")
MODALITIES = {"quasiraw": "T1w", "cat12vbm_desc-gm": "vbm"}
REFERENCES = {"T1w": "quasiraw_space-MNI152_desc-brain_T1w", "vbm": "cat12vbm_space-MNI152_desc-gm_TPM"}
KNOWN = {"sex": ["sex"], "site": ["siteXacq", "site"], "study": ["study"], "openbhb_split": ["split"]}


def openbhb(archive: Archive) -> Scans:
    """Quasi-raw T1 images and grey matter maps; labels age, sex, site, study, openbhb_split."""
    rows = [
        {"subject": part[1], "session": "", "modality": MODALITIES[part[2]], "image": path}
        for path in archive.walk("_T1w.npy", "_T1w.nii", "_T1w.nii.gz")
        if (part := FILE.fullmatch(path))
    ]
    if not rows:
        raise archive.nothing("sub-100053248969_preproc-quasiraw_T1w.npy")
    scans = one_each(rows)
    _convert(archive, scans)
    if (archive.root / "participants.tsv").exists():
        archive = replace(archive, tables=[*archive.tables, archive.root / "participants.tsv"])
    table = archive.table({"subject": ["participant_id"], "age": ["age"]}, KNOWN)
    if table is not None:
        table = table.assign(subject=table["subject"].str.removeprefix("sub-"))
        table = table.assign(sex=coded(table["sex"], SEX)) if "sex" in table else table
    return with_labels(scans, table, ["subject"], "participants.tsv (participant_id, age, sex, site)")


def _convert(archive: Archive, scans: Scans) -> None:
    """Write each array as NIfTI and put its new path into the table of scans."""
    arrays = scans.frame[scans.frame["image"].str.endswith(".npy")]
    places = {modality: _place(archive, modality) for modality in arrays["modality"].unique()}
    made = [
        archive.images / f"sub-{subject}_{kind}.nii.gz" for subject, kind in zip(arrays["subject"], arrays["modality"])
    ]
    sources = [archive.root / image for image in arrays["image"]]
    to_niftis([(source, target, places[kind]) for source, target, kind in zip(sources, made, arrays["modality"])])
    scans.frame.loc[arrays.index, "image"] = [str(path) for path in made]
    if made:
        scans.remarks.append(f"{len(made)} arrays converted to NIfTI in {archive.images}")


def _place(archive: Archive, modality: str) -> Affine:
    """Shape -> affine of the release's image for a kind of array; ValueError for another shape."""
    name = REFERENCES[modality]
    found = archive.walk(f"{name}.nii.gz", f"{name}.nii")
    if not found:
        hint = "it comes with the release, in the folder resource, and says where the arrays lie in space"
        raise archive.nothing(f"{name}.nii.gz", hint)
    image = nib.load(archive.root / found[0])

    def affine(shape: tuple[int, ...]) -> np.ndarray:
        if shape != tuple(image.shape[:3]):
            raise ValueError(f"has the shape {shape}, the release's own image {tuple(image.shape[:3])}")
        return image.affine

    return affine
