"""A chunk of scans -> the array, index and header of one shard."""

import hashlib
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from tlimb.preprocess.recipe import Recipe, fingerprint, settings_of
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.volume import ScanError

UNKNOWN = {"mask_overlap": None, "metric": None, "snr": None, "displacement": None, "warnings": ""}


def preprocess_chunk(
    chunk: dict, recipe: Recipe, images: Path, masks: Path | None, threads: int
) -> tuple[np.ndarray, list[dict], dict]:
    """Preprocess every scan of a chunk; one that fails is recorded with its reason and the rest go on.

    chunk: as in chunk-<chunk>.json. images: the i-th scan's image, counted from 1, is the only file in <images>/<i>/;
    masks: likewise, counted among the scans that have one. threads: scans worked on at a time; no number depends on it.
    Returns what `tlimb.store.write_shard` takes: array (n, X, Y, Z) float16, one row of the index a scan, the header.
    """
    template = template_for(recipe)
    jobs = _jobs(chunk["scans"], images, masks)
    work = partial(_attempt, recipe=recipe)
    if threads > 1 and len(jobs) > 1:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(min(threads, len(jobs)), mp_context=context) as pool:
            results = list(pool.map(work, jobs))
    else:
        results = [work(job) for job in jobs]
    results.sort(key=lambda result: result[1]["scan_id"])
    arrays = [array for array, _ in results if array is not None]
    rows = iter(range(len(arrays)))
    index = [row | {"row": -1 if array is None else next(rows)} for array, row in results]
    header = {
        "chunk": chunk["chunk"],
        "fingerprint": fingerprint(recipe),
        "n": len(arrays),
        "shape": list(template.shape),
        "spacing": float(recipe.spacing),
        "affine": template.affine.tolist(),
        "recipe": settings_of(recipe),
    }
    return np.stack(arrays) if arrays else np.zeros((0, *template.shape), np.float16), index, header


def _jobs(scans: list[dict], images: Path, masks: Path | None) -> list[tuple[str, Path | None, Path | None]]:
    jobs, with_mask = [], 0
    for number, scan in enumerate(scans, start=1):
        mask = None
        if scan["mask"] and masks is not None:
            with_mask += 1
            mask = _only_file(masks / str(with_mask))
        jobs.append((scan["scan_id"], _only_file(images / str(number)), mask))
    return jobs


def _only_file(folder: Path) -> Path | None:
    files = sorted(folder.glob("*"))
    return files[0] if len(files) == 1 else None


def _attempt(job: tuple[str, Path | None, Path | None], recipe: Recipe) -> tuple[np.ndarray | None, dict]:
    scan_id, image, mask = job
    row = {"scan_id": scan_id, "status": "failed", "reason": "", "digest": ""}
    if image is None:
        return None, row | UNKNOWN | {"reason": "no image was handed to preprocessing"}
    try:
        row["digest"] = _digest(image, mask)
        array, quality = preprocess_scan(image, mask, recipe, template_for(recipe))
        return array, row | quality | {"status": "ok"}
    except (ScanError, OSError) as error:
        reason = str(error)
    except Exception as error:  # an odd scan must not cost the others; what it met is told in full
        traceback.print_exc()
        reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[-1:]])
    return None, row | UNKNOWN | {"reason": reason}


def _digest(image: Path, mask: Path | None) -> str:
    digest = hashlib.sha256(image.read_bytes())
    if mask is not None:
        digest.update(mask.read_bytes())
    return digest.hexdigest()[:16]
