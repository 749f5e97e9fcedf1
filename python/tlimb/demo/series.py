"""Small fMRI cohorts with planted rhythms: images in a BIDS derivative, parcellated tables, and HCP's text files."""

import gzip
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from tlimb.files import replacing, write_json, write_text
from tlimb.preprocess.atlas import load_atlas
from tlimb.seeds import seed_for

TR = 2.0  # s
TIMEPOINTS = 72
SPACING = 6.0  # mm
SLOW, FAST = (0.02, 0.05), (0.09, 0.14)  # Hz
RHYTHMS = 6  # sinusoids a band
CHANGE = 0.02  # of the baseline, by one unit of signal
COUPLING = {"control": 0.8, "patient": 0.2}  # share of the front's slow signal that its blocks have in common
FAST_IN_FRONT = {"control": 0.1, "patient": 2.0}
AGES = (20.0, 80.0)
NUISANCE = 1.5  # of the signal's unit, shared by all regions and told in the confounds
CONFOUNDS = ("csf", "trans_x", "trans_y", "trans_z")
SPACE = "space-MNI152NLin2009cAsym"


def write_series_cohort(folder, persons: int = 48, seed: int = 0) -> Path:
    """Write two cohorts of resting-state scans under `folder`; return the samplesheet, `folder/cohorts.csv`.

    `parcels`: half of the persons, tables of time points by the regions of the atlas `blocks`, with an age. `clinic`:
    the other half, 4D images in MNI space laid out as a BIDS derivative, with age and diagnosis. Both have confounds.
    Fast rhythms grow with age in all regions; in the front of patients' brains they are stronger and slow rhythms less
    coupled. The same files for a seed; more persons leave the earlier ones as they are.
    """
    folder, rows = Path(folder), []
    for number in range(persons):
        cohort = "clinic" if number % 2 else "parcels"
        person = _person(cohort, number // 2, seed)
        signals, nuisance, confounds = person_signals(person, seed)
        written = _write_image if cohort == "clinic" else _write_table
        image = written(folder / cohort, person["subject"], signals, nuisance, seed)
        table = image.with_name(image.name.split("_space-")[0].split(".")[0] + "_desc-confounds_timeseries.tsv")
        write_text(table, confounds.to_csv(sep="\t", index=False, na_rep="n/a"))
        paths = {"image": image.relative_to(folder), "confounds": table.relative_to(folder)}
        rows.append({"cohort": cohort, "subject": person["subject"], **paths, "modality": "bold", **_labels(person)})
    sheet = pd.DataFrame(rows).sort_values(["cohort", "subject"], ignore_index=True)
    _write_participants(folder / "clinic", sheet[sheet["cohort"] == "clinic"])
    write_text(folder / "cohorts.csv", sheet.to_csv(index=False))
    return folder / "cohorts.csv"


def write_hcp_series(folder, persons: int = 4, seed: int = 0) -> Path:
    """Write time series of nodes as HCP's PTN release holds them; return the folder with one text file a subject."""
    names = load_atlas("blocks").names
    nodes = Path(folder) / "node_timeseries" / f"3T_HCP1200_MSMAll_d{len(names)}_ts2"
    for number in range(persons):
        person = _person("parcels", number, seed)
        signals, _, _ = person_signals(person, seed)
        lines = [" ".join(f"{value:.6f}" for value in row) for row in signals]
        write_text(nodes / f"{100206 + 101 * number}.txt", "\n".join(lines) + "\n")
    return nodes


def person_signals(person: dict, seed: int) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """A person's signals (TIMEPOINTS, regions), the nuisance (TIMEPOINTS,) that all regions share, the confounds.

    person: cohort, number, age (years) and diagnosis.
    """
    rng = np.random.default_rng(seed_for(seed, "series", person["cohort"], person["number"]))
    names = load_atlas("blocks").names
    front = np.array(["-4-" in name for name in names])
    slow, fast = (np.stack([_rhythm(rng, band) for _ in names], 1) for band in (SLOW, FAST))
    share = COUPLING[person["diagnosis"]]
    slow[:, front] = np.sqrt(share) * _rhythm(rng, SLOW)[:, None] + np.sqrt(1 - share) * slow[:, front]
    low, high = AGES
    strength = np.where(front, FAST_IN_FRONT[person["diagnosis"]], 0.1 + 1.4 * (person["age"] - low) / (high - low))
    signals = slow + strength * fast + 0.3 * rng.standard_normal(slow.shape)
    confounds = _confounds(rng)
    return signals, NUISANCE * confounds["csf"].to_numpy(), confounds


def _rhythm(rng: np.random.Generator, band: tuple[float, float]) -> np.ndarray:
    """A signal (TIMEPOINTS,) of variance about 1 with its power in a band of frequencies in Hz."""
    time = TR * np.arange(TIMEPOINTS)[:, None]
    frequencies, phases = rng.uniform(*band, RHYTHMS), rng.uniform(0, 2 * np.pi, RHYTHMS)
    return np.sqrt(2 / RHYTHMS) * np.cos(2 * np.pi * frequencies * time + phases).sum(1)


def _confounds(rng: np.random.Generator) -> pd.DataFrame:
    walk = np.cumsum(0.02 * rng.standard_normal((TIMEPOINTS, 3)), axis=0)
    drift = np.cumsum(rng.standard_normal(TIMEPOINTS))
    motion = np.abs(np.diff(walk, axis=0)).sum(1)
    moves = {f"trans_{axis}": walk[:, place] for place, axis in enumerate("xyz")}
    csf = (drift - drift.mean()) / drift.std()
    return pd.DataFrame({"csf": csf, **moves, "framewise_displacement": [np.nan, *motion]}).round(6)


def _person(cohort: str, number: int, seed: int) -> dict:
    rng = np.random.default_rng(seed_for(seed, "series person", cohort, number))
    subject = f"sub-{cohort[0].upper()}{number + 1:03d}"
    diagnosis = ("control", "patient")[number % 2] if cohort == "clinic" else "control"
    return {"cohort": cohort, "number": number, "subject": subject, "age": rng.uniform(*AGES), "diagnosis": diagnosis}


def _labels(person: dict) -> dict:
    return {"age": round(person["age"], 1), "diagnosis": person["diagnosis"] if person["cohort"] == "clinic" else None}


def _write_table(folder: Path, subject: str, signals: np.ndarray, nuisance: np.ndarray, seed: int) -> Path:
    values = 1000 * (1 + CHANGE * (signals + nuisance[:, None]))
    path = folder / f"{subject}.tsv"
    table = pd.DataFrame(values, columns=list(load_atlas("blocks").names))
    write_text(path, table.to_csv(sep="\t", index=False, float_format="%.4f"))
    return path


def _write_image(folder: Path, subject: str, signals: np.ndarray, nuisance: np.ndarray, seed: int) -> Path:
    """A 4D image of int16 whose voxels carry their block's signal and noise of their own; 0 outside of the brain."""
    baseline, region, affine = _grid()
    rng = np.random.default_rng(seed_for(seed, "series voxels", subject))
    inside = baseline > 0
    carried = np.concatenate([np.zeros((TIMEPOINTS, 1)), signals], 1)[:, region[inside]] + nuisance[:, None]
    values = baseline[inside] * (1 + CHANGE * (carried + rng.standard_normal(carried.shape)))
    data = np.zeros((*baseline.shape, TIMEPOINTS), np.int16)
    data[inside] = np.round(values.T)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((SPACING, SPACING, SPACING, TR))
    path = folder / subject / "func" / f"{subject}_task-rest_{SPACE}_desc-preproc_bold.nii.gz"
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
    return path


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template's intensities, the blocks' numbers, and the affine of the demo's images, whose axes run to LAS."""
    from tlimb.preprocess.template import template_path

    atlas, template = load_atlas("blocks"), nib.load(template_path())
    step = int(SPACING)
    head = np.asarray(template.dataobj, np.float64)[::-step, ::step, ::step]
    region = atlas.labels[::-step, ::step, ::step]
    affine = atlas.affine @ np.diag([-SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = atlas.affine[:3, 3] + [atlas.labels.shape[0] - 1, 0, 0]
    return 1000 * head / head.max(), region, affine


def _write_participants(folder: Path, sheet: pd.DataFrame) -> None:
    description = {"Name": "clinic", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
    write_json(folder / "dataset_description.json", description | {"GeneratedBy": [{"Name": "tlimb"}]})
    table = sheet[["subject", "age", "diagnosis"]].rename(columns={"subject": "participant_id"})
    write_text(folder / "participants.tsv", table.to_csv(sep="\t", index=False, na_rep="n/a"))
