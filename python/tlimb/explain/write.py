"""explain.json and the files beside it, in the folder of one explained trial.

    {"id": "0f3a…", "candidate": "77b1…", "name": "full, lr 0.001", "selected": "best", "set": "test",
     "target": "diagnosis", "kind": "classification", "space": "MNI152" | "own",
     "scans": ["clinic/sub-012/1/T1w", …],                       that were explained; drawn among the test scans
     "methods": {
       "occlusion": {"status": "ok" | "left out", "reason": "", "scans": 16, "unit": "log-odds", "signed": true,
                     "settings": {"patch": [1, 7, 8], "stride": [1, 3, 4]},         voxels
                     "maps": [{"class": "patient" | null, "scans": 8, "png": "occlusion-1.png",
                               "nifti": "occlusion-1.nii.gz" | null, "peak": 0.31,
                               "peak_mni": [-32.0, 4.0, 18.0] | null, "peak_voxel": [17, 38, 30]}]},
       "integrated_gradients": {…, "settings": {"tolerance": 0.05},
                     "maps": [{…, "steps": 64, "incomplete": 0, "worst": 0.01}]},   scans that miss it; the worst
       "grad_cam": {…, "settings": {"layer": "maps", "size": [2, 2]}},
       "attention": {…, "settings": {"of": "slices" | "positions" | "patches"},
                     "maps": [{…, "slices": {"axis": "sagittal", "mm": [-80.0, …] | null,
                                             "weights": [0.01, …]}}]}},
     "features": {"status", "reason", "file": "features.parquet", "scans": 48, "of": 48, "width": 512,
                  "explained_variance": [0.41, 0.12], "perplexity": 15.7, "neighbours": 15,
                  "columns": ["diagnosis", "site"]},
     "reconstructions": {"status", "reason", "networks": [
        {"network": "9ab2…", "stage": "pretrain", "png": "reconstruction-9ab2….png", "scans": [4 scan ids],
         "error": 0.12,                                            mean squared error over the scans that were coded
         "code": {"scans": 48, "numbers": 27104,
                  "values": {"edges": [65 numbers], "counts": [64], "near_zero": 0.4},
                  "means":  {"edges": [65 numbers], "counts": [64], "near_zero": 0.2}}}]},
     "harmonised": null |                                           nobody asked
       {"status", "reason", "column": "site", "keeping": ["age"],
        "unharmonised": 2,                                          scans of both parts that ComBat left as they are
        "n": {"train": 80, "test": 40, "persons": 38},              scans; persons tested
        "test": null | {"before": {"auroc": {"value", "low", "high"} | null}, "after", "difference"},
        "site": null | {"before": 0.8, "after": 0.5, "chance": 0.5}}}

A method that does not apply to a network is "left out" with its reason, and has no maps; the `reason` of one that is
"ok" says what a reader must know. `class` is null where one map
stands for all scans. `peak` is the value of the largest size in the mean map, `peak_mni` where it stands, in mm, null
where scans are in no template space or the map is 0 everywhere; `peak_voxel` counts in the store's grid (in the image's
own where its place in that is not known, and then `nifti` is null). Of time series `png` is regions by time and
`peak_voxel` a region and a time point.
`scans` of the features are those that were laid out, of `of` that were held out. `harmonised` has, of a network whose
encoder stayed frozen, the metrics of a linear probe on test scans before and after ComBat over `column`, their paired
difference, and the balanced accuracy with which a probe tells the site of test scans.

features.parquet, a row a held-out scan: scan_id, person, set (validation, test, external-<cohort>), pc1, pc2, tsne1,
tsne2, umap1, umap2 (null where there are too few scans) and label columns.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from tlimb.explain.picture import Caption, draw, draw_table
from tlimb.explain.space import Space
from tlimb.files import replacing, write_json, write_parquet

TEMPLATE, ALIGNED = 4, 2
"""What NIfTI calls spaces: MNI152's, and that of another image."""

OWN = ("scan_id", "person", "set", "pc1", "pc2", "tsne1", "tsne2", "umap1", "umap2")
"""Columns of features.parquet beside those of labels; a label of such a name is left out."""

NO_LABELS = ("subject", "session", "image", "mask", "confounds")
"""Columns of cohort.parquet that are no labels to colour by."""

USUAL = ("site", "scanner", "cohort", "sex", "gender", "age", "diagnosis")
"""Columns that come first where there are more than MOST_COLUMNS."""

MOST_COLUMNS = 30


def write_explanation(folder: Path, said: dict) -> None:
    """Write explain.json: what is at the top of this module."""
    write_json(folder / "explain.json", said)


def write_map(folder: Path, stem: str, mean: np.ndarray, space: Space, caption: Caption) -> dict:
    """Write a mean map as PNG and, where it has a place in the store's grid, as NIfTI; what explain.json says of it."""
    highest = np.unravel_index(np.abs(mean).argmax(), mean.shape) if mean.any() else [size // 2 for size in mean.shape]
    peak = [int(place) for place in highest]
    facts = {"png": f"{stem}.png", "nifti": None, "peak": float(mean[tuple(peak)]), "peak_mni": None}
    if space.ground is None:
        draw_table(folder / facts["png"], mean, caption)
        return facts | {"peak_voxel": peak}
    at = space.mm(peak)
    draw(folder / facts["png"], (mean, space.affine), space.ground, at, caption)
    if space.place is not None:
        facts["nifti"] = f"{stem}.nii.gz"
        write_nifti(folder / facts["nifti"], mean, space)
    if space.mni and facts["peak"]:
        facts["peak_mni"] = np.round(at, 2).tolist()
    return facts | {"peak_voxel": peak}


def write_nifti(path: Path, values: np.ndarray, space: Space) -> None:
    """Write values (X, Y, Z) float32 in the space, atomically; the same values give the same bytes."""
    image = nibabel.Nifti1Image(values.astype("float32"), space.affine)
    for put in (image.set_sform, image.set_qform):
        put(space.affine, TEMPLATE if space.mni else ALIGNED)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def write_features(folder: Path, table: pd.DataFrame) -> None:
    """Write features.parquet."""
    write_parquet(folder / "features.parquet", table)


def label_columns(rows: pd.DataFrame, targets: Sequence[str], cohort: str | Path | None) -> pd.DataFrame:
    """The label columns that stand beside features, in the order of rows (scan_id, targets): the targets as the job has
    them, then those of cohort.parquet, where it is given, that have more than one value among these scans, MOST_COLUMNS
    in all at most."""
    found = rows[[name for name in targets if name not in OWN]].reset_index(drop=True)
    if cohort is None:
        return found
    table = pd.read_parquet(cohort).set_index("scan_id").reindex(rows["scan_id"])
    taken = {*OWN, *NO_LABELS, *targets}
    names = [name for name in table if name not in taken and table[name].nunique() > 1]
    names.sort(key=lambda name: USUAL.index(name.lower()) if name.lower() in USUAL else len(USUAL))
    kept = table[names[: max(0, MOST_COLUMNS - len(targets))]]
    return pd.concat([found, kept.reset_index(drop=True)], axis=1)
