"""What preprocessing left, read for SUGGEST: indices and fingerprints, not voxels."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.files import read_json

COLUMNS = ("scan_id", "status", "reason", "digest", "content")


@dataclass(frozen=True)
class Recipes:
    """For each recipe the fingerprint of its store and the index of its scans.

    index: columns scan_id, status, digest (of the file), content (of the decoded image; a store may lack it), chunk.
    """

    fingerprint: dict[str, str]
    index: dict[str, pd.DataFrame]


def all_fine(table: pd.DataFrame, names) -> Recipes:
    """The index as it will be if every scan passes preprocessing: for checks and plans before anything has run."""
    index = pd.DataFrame({"scan_id": table["scan_id"], "status": "ok", "digest": "", "content": "", "chunk": ""})
    return Recipes({name: "" for name in names}, {name: index for name in names})


def read_recipes(store: Path, names, max_failed: float) -> Recipes:
    """The index and fingerprint of each recipe's shards under ``store/<recipe>/``.

    max_failed: scans that may fail in preprocessing, a share below 1 or a number from 1 on. Raises InputError
    listing the failed scans with their reasons when there are more, or when shards disagree on their fingerprint.
    """
    fingerprint, index, problems = {}, {}, []
    for name in names:
        headers = [read_json(path) for path in sorted(Path(store, name).glob("shard-*.json"))]
        prints = {header["fingerprint"] for header in headers}
        if len(prints) != 1:
            found = ", ".join(sorted(prints)) or "no shard"
            problems.append(Problem(f"store {name}", f"expected shards of one fingerprint, found {found}"))
            continue
        parts = [_part(Path(store, name), header["chunk"]) for header in headers]
        fingerprint[name], index[name] = prints.pop(), pd.concat(parts, ignore_index=True)
        problems += _too_many(name, index[name], max_failed)
    if problems:
        raise InputError(problems)
    return Recipes(fingerprint, index)


def _part(folder: Path, chunk: str) -> pd.DataFrame:
    part = pd.read_parquet(folder / f"shard-{chunk}.parquet")
    return part[[name for name in COLUMNS if name in part]].assign(chunk=chunk)


def _too_many(name: str, index: pd.DataFrame, max_failed: float) -> list[Problem]:
    failed = index[index["status"] != "ok"]
    allowed = max_failed if max_failed >= 1 else max_failed * len(index)
    if len(failed) <= allowed:
        return []
    message = f"{len(failed)} of {len(index)} scans failed in preprocessing"
    head = Problem(f"recipe {name}", f"{message}, more than max_failed_scans ({max_failed:g}) allows")
    return [head, *(Problem(scan, reason) for scan, reason in zip(failed["scan_id"], failed["reason"]))]
