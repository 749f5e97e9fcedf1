"""The demo cohorts on disk: BIDS folders, participants.tsv, a samplesheet, and the planted truth beside them."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from tlimb.demo.anatomy import anatomy
from tlimb.demo.people import people
from tlimb.demo.scan import scan
from tlimb.errors import InputError, Problem
from tlimb.files import digest, file_digest, read_json, replacing, write_json, write_text
from tlimb.seeds import seed_for

LABELS = {"lifespan": ["age", "site"], "clinic": ["age", "sex", "site", "diagnosis", "diagnosis_null"]}


def demo_cohort(out, scans: int, seed: int, workers: int = 1) -> Path:
    """Write `scans` volumes of two cohorts under `out`; return the path of the samplesheet, `out/cohorts.csv`.

    Also writes, for each cohort, dataset_description.json and participants.tsv, and `truth.csv` with what was planted.
    The files are the same bit for bit for a seed, whatever `workers` (threads) is; more scans leave the earlier ones as
    they are. What the same seed and code have already written is kept untouched.
    Raises InputError where `out` cannot be written, ValueError below 10 scans.
    """
    out, table = Path(out), people(scans, seed)
    _check_writable(out)
    table.insert(2, "image", [_image_path(row, seed) for row in table.to_dict("records")])
    _write_scans(out, table, seed, workers)
    _write_tables(out, table)
    return out / "cohorts.csv"


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / "demo.probe"):
            pass
        (out / "demo.probe").unlink()
    except OSError as error:
        raise InputError([Problem(str(out), f"cannot be written: {error.strerror}")]) from None


def _image_path(row: dict, seed: int) -> str:
    """Where the scan stands, relative to the samplesheet; archives hold some volumes without compression."""
    rng = np.random.default_rng(seed_for(seed, "demo", "ending", row["subject"]))
    ending = ".nii" if rng.random() < 0.15 else ".nii.gz"
    return f"{row['cohort']}/{row['subject']}/anat/{row['subject']}_T1w{ending}"


def _write_scans(out: Path, table: pd.DataFrame, seed: int, workers: int) -> None:
    """Write the scans that are not there; all of them where another seed or other code wrote those that are."""
    made_by = {"seed": seed, "code": _code_digest()}
    marker = out / "demo.json"
    keep = marker.is_file() and read_json(marker) == made_by
    if not keep:
        marker.unlink(missing_ok=True)
    rows = [row for row in table.to_dict("records") if not (keep and (out / row["image"]).is_file())]

    def write(row):
        content = scan(row, seed_for(seed, "demo", "scan", row["subject"]))
        if row["image"].endswith(".gz"):
            content = gzip.compress(content, compresslevel=1, mtime=0)
        with replacing(out / row["image"]) as temporary:
            temporary.write_bytes(content)

    if rows:
        anatomy()  # built once, before several threads ask for it
    # Interpolation, random numbers and compression all run outside the interpreter's lock, so threads are enough.
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(write, rows):
            pass
    write_json(marker, made_by)


def _code_digest() -> str:
    """A digest of the modules whose change would change a scan."""
    folder = Path(__file__).parent
    return digest([file_digest(folder / f"{name}.py") for name in ("recipe", "people", "anatomy", "scan")])


def _write_tables(out: Path, table: pd.DataFrame) -> None:
    known = []
    for cohort, labels in LABELS.items():
        rows = table.loc[table.cohort == cohort, ["cohort", "subject", "image", *labels]]
        known.append(rows)
        description = {"Name": f"tlimb demo: {cohort}", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
        _write_changed(out / cohort / "dataset_description.json", json.dumps(description, indent=2) + "\n")
        participants = rows.drop(columns=["cohort", "image"]).rename(columns={"subject": "participant_id"})
        _write_changed(out / cohort / "participants.tsv", participants.to_csv(sep="\t", index=False))
    sheet = pd.concat(known)[["cohort", "subject", "image", *LABELS["clinic"]]]
    _write_changed(out / "cohorts.csv", sheet.to_csv(index=False))
    _write_changed(out / "truth.csv", table.drop(columns=["image"]).to_csv(index=False))


def _write_changed(path: Path, text: str) -> None:
    """Leave a file with this text untouched, so that what depends on it stays cached."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
