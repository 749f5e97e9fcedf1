"""The store of a recipe: preprocessed scans in memory-mapped shards, and their index."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import read_json, replacing, write_json

COLUMNS = {
    "scan_id": "string",
    "row": "int64",
    "status": "string",
    "reason": "string",
    "digest": "string",
    "mask_overlap": "float64",
    "metric": "float64",
    "snr": "float64",
    "displacement": "float64",
    "warnings": "string",
}
"""Columns of a shard's index and their Arrow types."""

Box = tuple[slice, slice, slice]


def write_shard(folder: Path, chunk: str, array: np.ndarray, index: list[dict], header: dict) -> None:
    """Write shard-<chunk>.npy, .parquet and .json, each atomically, the header last.

    array: (n, X, Y, Z) float16. index: one dict a scan with the keys of COLUMNS, sorted by scan_id.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stem = Path(folder) / f"shard-{chunk}"
    with replacing(stem.with_name(f"{stem.name}.npy")) as temporary:
        np.save(temporary, np.ascontiguousarray(array, dtype=np.float16), allow_pickle=False)
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    with replacing(stem.with_name(f"{stem.name}.parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist(index, schema=schema), temporary)
    write_json(stem.with_name(f"{stem.name}.json"), header)


class Store:
    """The shards in a folder, or those named; voxels are read only when asked for.

    Raises InputError where there is no shard, a file of a shard is missing, or shards were preprocessed differently.
    """

    def __init__(self, folder: Path | str, shards: Sequence[str] | None = None):
        self.folder = Path(folder)
        if shards is None:
            shards = [path.stem.removeprefix("shard-") for path in self.folder.glob("shard-*.json")]
        self.shards = sorted(shards)
        if not self.shards:
            raise InputError([Problem(str(self.folder), "holds no shard (shard-<chunk>.json)")])
        missing = [p for c in self.shards for s in ("json", "parquet", "npy") if not (p := self._path(c, s)).is_file()]
        if missing:
            raise InputError([Problem(str(path), "file of the store not found") for path in missing])
        headers = {chunk: read_json(self._path(chunk, "json")) for chunk in self.shards}
        first = headers[self.shards[0]]
        for chunk, header in headers.items():
            if header["fingerprint"] != first["fingerprint"]:
                raise InputError([self._disagreement(self.shards[0], first, chunk, header)])
        self.fingerprint: str = first["fingerprint"]
        self.shape: tuple[int, int, int] = tuple(first["shape"])
        self.spacing: float = first["spacing"]
        self._maps: dict[str, np.ndarray] = {}

    def _path(self, chunk: str, suffix: str) -> Path:
        return self.folder / f"shard-{chunk}.{suffix}"

    def _disagreement(self, chunk: str, header: dict, other_chunk: str, other: dict) -> Problem:
        one, two = header["recipe"], other["recipe"]
        differing = [key for key in sorted({*one, *two}) if one.get(key) != two.get(key)]
        why = ", ".join(f"{key} {one.get(key)} and {two.get(key)}" for key in differing) or "template or code version"
        shards = f"shards {chunk} ({header['fingerprint']}) and {other_chunk} ({other['fingerprint']})"
        return Problem(str(self.folder), f"{shards} were preprocessed differently: {why}")

    @cached_property
    def index(self):
        """All rows of the shards' indices as a DataFrame with the column `chunk`, sorted by scan_id.

        Raises InputError where a scan stands in two shards, as after runs with different chunk sizes into one folder.
        """
        import pandas as pd

        parts = [pd.read_parquet(self._path(chunk, "parquet")).assign(chunk=chunk) for chunk in self.shards]
        table = pd.concat(parts, ignore_index=True).sort_values("scan_id", ignore_index=True)
        twice = table[table["scan_id"].duplicated(keep=False)].groupby("scan_id")["chunk"].agg(" and ".join)
        if len(twice):
            raise InputError([Problem(f"{self.folder}, scan {scan}", f"stands in shards {where}") for scan, where in twice.items()])
        return table

    @cached_property
    def _place(self) -> dict[str, tuple[str, int]]:
        table = self.index[self.index["status"] == "ok"]
        return {scan: (chunk, row) for scan, chunk, row in zip(table["scan_id"], table["chunk"], table["row"])}

    def gather(self, scan_ids: Sequence[str], box: Box | None = None) -> np.ndarray:
        """The voxels of some scans in the order given, (n, x, y, z) float16; only those asked for are read.

        box: the part of each axis that is wanted, the whole by default.
        Raises InputError naming each scan that is not in the store or failed in preprocessing.
        """
        unknown = [scan for scan in scan_ids if scan not in self._place]
        if unknown:
            raise InputError([self._absence(scan) for scan in dict.fromkeys(unknown)])
        box = box or (slice(None), slice(None), slice(None))
        shape = [len(range(*part.indices(size))) for part, size in zip(box, self.shape)]
        gathered = np.empty((len(scan_ids), *shape), np.float16)
        order = sorted(range(len(scan_ids)), key=lambda position: self._place[scan_ids[position]])
        for position in order:
            chunk, row = self._place[scan_ids[position]]
            gathered[position] = self._map(chunk)[(row, *box)]
        return gathered

    def _map(self, chunk: str) -> np.ndarray:
        if chunk not in self._maps:
            voxels = np.load(self._path(chunk, "npy"), mmap_mode="r", allow_pickle=False)
            if voxels.shape[1:] != self.shape or voxels.dtype != np.float16:
                message = f"expected (n, *{self.shape}) float16, found {voxels.shape} {voxels.dtype}"
                raise InputError([Problem(str(self._path(chunk, "npy")), message)])
            self._maps[chunk] = voxels
        return self._maps[chunk]

    def _absence(self, scan: str) -> Problem:
        known = self.index[self.index["scan_id"] == scan]
        if len(known):
            return Problem(f"{self.folder}, scan {scan}", f"failed in preprocessing: {known['reason'].iloc[0]}")
        return Problem(f"{self.folder}, scan {scan}", "not in the store", nearest(scan, self.index["scan_id"]))
