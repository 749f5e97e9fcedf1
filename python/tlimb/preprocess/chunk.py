"""A chunk of scans -> the array, index and header of one shard."""

import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tlimb.preprocess.mask import require_extractor
from tlimb.preprocess.nifti import ScanError
from tlimb.preprocess.quality import COLUMNS
from tlimb.preprocess.recipe import Recipe, fingerprint, settings_of
from tlimb.preprocess.reference import reference
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.workers import Died, worked

UNKNOWN = dict.fromkeys(COLUMNS) | {"digest": "", "content": "", "notes": "", "warnings": ""}


@dataclass(frozen=True)
class Job:
    """One scan and its files as they were handed to preprocessing; None where there is none."""

    scan_id: str
    modality: str
    image: Path | None
    mask: Path | None
    confounds: Path | None


def preprocess_chunk(
    chunk: dict,
    recipe: Recipe,
    images: Path,
    *,
    masks: Path | None = None,
    confounds: Path | None = None,
    atlas: Path | None = None,
    regions: Sequence[str] | None = None,
    threads: int = 1,
    scratch: Path | None = None,
) -> tuple[np.ndarray, list[dict], dict, list[dict]]:
    """Preprocess every scan of a chunk, images or time series as the recipe says.

    One that fails is recorded with its reason and the rest go on, also where it ends the process that works on it.
    chunk: as in chunk-<chunk>.json. images: the i-th scan's image, counted from 1, is the only file in <images>/<i>/;
    masks, confounds: likewise, counted among the scans that have one. atlas: for time series, the file that stands for
    the recipe's, or a folder that holds it. regions: names that series shall have, in this order, in place of those that
    most of the chunk's scans have. threads: scans worked on at a time; no number depends on it.
    scratch: folder for a temporary file that holds the array, so that memory does not grow with the chunk.
    Returns what `tlimb.store.write_shard` takes: array (n, ...) float16 of what was prepared, one row of the index a
    scan, the header, and scan_id and PNG of each montage. Raises InputError where the recipe itself cannot be followed.
    """
    jobs = _jobs(chunk["scans"], images, masks, confounds)
    if recipe.kind == "series":
        work, facts = _series_work(jobs, recipe, atlas, regions)
    else:
        work, facts = _volume_work(recipe)
    array, index, montages = _collected(worked(work, jobs, threads), jobs, facts["shape"], scratch)
    header = {"chunk": chunk["chunk"], "n": len(array), "recipe": settings_of(recipe)} | facts
    return array, index, header, montages


def _jobs(scans: list[dict], images: Path, masks: Path | None, confounds: Path | None) -> list[Job]:
    """The scans sorted by scan_id, each with its files, which stand in folders numbered in the chunk's order."""
    jobs, counts = [], {"mask": 0, "confounds": 0}
    for number, scan in enumerate(scans, start=1):
        files = {}
        for name, folder in (("mask", masks), ("confounds", confounds)):
            counts[name] += bool(scan[name])
            files[name] = _only_file(folder / str(counts[name])) if scan[name] and folder is not None else None
        jobs.append(Job(scan["scan_id"], scan["modality"], _only_file(images / str(number)), **files))
    return sorted(jobs, key=lambda job: job.scan_id)


def _only_file(folder: Path) -> Path | None:
    files = sorted(folder.glob("*"))
    return files[0] if len(files) == 1 else None


def _volume_work(recipe: Recipe) -> tuple[Callable, dict]:
    if recipe.mask == "learned":
        require_extractor()
    template = template_for(recipe)
    if template is not None:
        reference()  # made once, before there are workers to share it
    facts = {
        "fingerprint": fingerprint(recipe),
        "shape": list(recipe.shape if template is None else template.shape),
        "spacing": float(recipe.spacing),
        "affine": None if template is None else template.affine.tolist(),
    }
    return partial(_attempt, _volume, recipe=recipe), facts


def _volume(job: Job, recipe: Recipe) -> tuple[np.ndarray, dict, bytes]:
    return preprocess_scan(job.image, job.mask, recipe, template_for(recipe), job.modality)


def _series_work(jobs: list[Job], recipe, atlas: Path | None, regions) -> tuple[Callable, dict]:
    from tlimb.preprocess.atlas import load_atlas
    from tlimb.preprocess.series import agreed_regions, common_tr, series_header

    name = str(atlas or recipe.atlas)
    labels = load_atlas(name)
    there = [job.image for job in jobs if job.image is not None]
    regions = agreed_regions(there, labels) if regions is None else list(regions)
    usual_tr = common_tr(there) if recipe.tr is None else None
    facts = {"fingerprint": fingerprint(recipe, labels.digest)} | series_header(recipe, regions)
    return partial(_attempt, partial(_series, atlas=name, regions=regions, usual_tr=usual_tr), recipe=recipe), facts


def _series(job: Job, recipe, atlas: str, regions: list[str], usual_tr: float | None) -> tuple[np.ndarray, dict, None]:
    from tlimb.preprocess.atlas import load_atlas
    from tlimb.preprocess.series import preprocess_series

    return *preprocess_series(job.image, job.confounds, recipe, load_atlas(atlas), regions, usual_tr), None


def _attempt(prepare: Callable, job: Job, recipe) -> tuple[np.ndarray | None, dict, bytes | None]:
    """Array, row of the index and montage of a scan; without array and montage where it fails."""
    row = {"scan_id": job.scan_id, "status": "failed", "reason": ""} | UNKNOWN
    if job.image is None:
        return None, row | {"reason": "no image was handed to preprocessing"}, None
    try:
        array, quality, picture = prepare(job, recipe)
        return array, row | quality | {"status": "ok"}, picture
    except (ScanError, OSError) as error:
        reason = str(error)
    except MemoryError as error:
        reason = " ".join(["not enough memory:", *str(error).splitlines()[:1]])
    except Exception as error:  # an odd scan must not cost the others; what it met is told in full
        traceback.print_exc()
        reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[-1:]])
    return None, row | {"reason": reason}, None


def _collected(results: Iterable, jobs: list[Job], shape, scratch) -> tuple[np.ndarray, list[dict], list[dict]]:
    """Arrays one behind the other in a temporary file, rows of the index, montages."""
    index, montages, count = [], [], 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for job, result in zip(jobs, results, strict=True):
            array, row, picture = _lost(job, result) if isinstance(result, Died) else result
            index.append(row | {"row": -1 if array is None else count})
            if array is not None:
                file.write(np.ascontiguousarray(array, np.float16).reshape(shape))
                count += 1
            if picture is not None:
                montages.append({"scan_id": job.scan_id, "image": picture})
        file.flush()
        size = (count, *shape)
        array = np.memmap(file, np.float16, "r", shape=size) if count else np.zeros(size, np.float16)
    return array, index, montages


def _lost(job: Job, death: Died) -> tuple[None, dict, None]:
    reason = f"the process that worked on it was ended by {death.how}"
    return None, {"scan_id": job.scan_id, "status": "failed", "reason": reason} | UNKNOWN, None
