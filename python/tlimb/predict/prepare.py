"""Scans through a model's recipe, by the code of PREPROCESS, part by part."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.predict.scans import Scan
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.store import Store, write_shard

PART = 256
"""Scans that are prepared, predicted and forgotten together, so that disk and memory do not grow with their number."""


def prepared(
    scans: Sequence[Scan],
    recipe: SimpleNamespace,
    *,
    regions: Sequence[str] | None,
    atlas: Path | None,
    threads: int,
    keep: Path | None,
) -> Iterator[tuple[Store, pd.DataFrame]]:
    """A store of each `PART` scans and its index, a row a scan in the order given, status `ok` or `failed`.

    regions, atlas: of time series, as `preprocess_chunk` takes them. keep: folder in which the stores are left as one,
    with pictures of their scans; each is otherwise deleted when the next is asked for. Raises InputError where `keep`
    holds prepared scans already, or the recipe cannot be followed.
    """
    if keep is not None and any(keep.glob("shard-*")):
        raise InputError([Problem(str(keep), "holds prepared scans already", "name an empty folder or a new one")])
    for start in range(0, len(scans), PART):
        part = scans[start : start + PART]
        with _place(keep) as place, tempfile.TemporaryDirectory() as staged:
            files = _staged(part, Path(staged))
            chunk = {"chunk": f"{start // PART:05d}", "scans": [_line(scan) for scan in part]}
            given = {"regions": regions, "atlas": atlas, "threads": threads, "scratch": place}
            array, index, header, montages = preprocess_chunk(chunk, recipe, **files, **given)
            write_shard(place, chunk["chunk"], array, index, header, montages if keep is not None else ())
            rows = pd.DataFrame(index).set_index("scan_id").loc[[scan.name for scan in part]]
            yield Store(place, [chunk["chunk"]]), rows.reset_index()


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    """Where a store is written to."""
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep


def _line(scan: Scan) -> dict:
    """A scan as a chunk's file has it."""
    return {"scan_id": scan.name, "modality": scan.modality, "mask": scan.mask, "confounds": scan.confounds}


def _staged(part: Sequence[Scan], folder: Path) -> dict[str, Path]:
    """Links to the scans' files in numbered folders, as preprocessing is handed them."""
    kinds = {"images": "image", "masks": "mask", "confounds": "confounds"}
    for kind, name in kinds.items():
        files = [getattr(scan, name) for scan in part if getattr(scan, name) is not None]
        for number, file in enumerate(files, start=1):
            place = folder / kind / str(number)
            place.mkdir(parents=True)
            if os.path.exists(file):
                os.symlink(os.path.realpath(file), place / os.path.basename(file))
    return {kind: folder / kind for kind in kinds if kind == "images" or (folder / kind).is_dir()}
