"""The store of a recipe: preprocessed scans in memory-mapped shards, and their index."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import read_json, replacing, write_json

Box = tuple[slice, ...]


def columns() -> dict[str, str]:
    """Columns of a shard's index and their Arrow types."""
    from tlimb.preprocess.quality import COLUMNS

    facts = ("scan_id", "row", "status", "reason", "digest", "content")
    return {name: "int64" if name == "row" else "string" for name in facts} | COLUMNS


def write_shard(
    folder: Path, chunk: str, array: np.ndarray, index: list[dict], header: dict, montages: Sequence[dict] = ()
) -> None:
    """Write shard-<chunk>.npy, .parquet, .montage.parquet and .json, each atomically, the header last.

    array: (n, ...) float16, copied row by row. index: one dict a scan with the keys of `columns`, sorted by scan_id.
    montages: scan_id and `image`, the bytes of a PNG, of the scans that have one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stem = Path(folder) / f"shard-{chunk}"
    with replacing(stem.with_name(f"{stem.name}.npy")) as temporary, open(temporary, "wb") as file:
        facts = {"descr": "<f2", "fortran_order": False, "shape": tuple(array.shape)}
        np.lib.format.write_array_header_1_0(file, facts)
        for row in array:
            file.write(np.ascontiguousarray(row, "<f2"))
    tables = {"parquet": (index, columns()), "montage.parquet": (montages, {"scan_id": "string", "image": "binary"})}
    for suffix, (rows, kinds) in tables.items():
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
        with replacing(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)
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
        self.shape: tuple[int, ...] = self._one_shape(headers)
        self.spacing: float | None = first["spacing"]
        self._scans: dict[str, int] = {chunk: header["n"] for chunk, header in headers.items()}
        self._maps: dict[str, _Mapped] = {}

    def _path(self, chunk: str, suffix: str) -> Path:
        return self.folder / f"shard-{chunk}.{suffix}"

    def _one_shape(self, headers: dict[str, dict]) -> tuple[int, ...]:
        """The shape of the scans of every shard that holds any; tables of time series may have different regions."""
        full = {chunk: header for chunk, header in headers.items() if header["n"]} or headers
        chunk, first = next(iter(full.items()))
        for other, header in full.items():
            if header["shape"] != first["shape"]:
                sizes = ["x".join(map(str, part["shape"])) for part in (first, header)]
                message = f"scans have different shapes: {sizes[0]} in shard {chunk} and {sizes[1]} in shard {other}"
                raise InputError([Problem(str(self.folder), message)])
            if header.get("regions") != first.get("regions"):
                message = f"the series of shards {chunk} and {other} have other regions or another order of them"
                raise InputError([Problem(str(self.folder), message)])
        return tuple(first["shape"])

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
        from pyarrow import ArrowException, dataset

        chunks = {str(self._path(chunk, "parquet")): chunk for chunk in self.shards}
        try:
            files = dataset.dataset(list(chunks), format="parquet")
            table = files.to_table(columns=[*files.schema.names, "__filename"]).to_pandas()
        except (ArrowException, OSError) as error:
            raise InputError([Problem(str(self.folder), f"an index cannot be read: {error}")]) from None
        table["chunk"] = table.pop("__filename").map(chunks)
        table = table.sort_values("scan_id", ignore_index=True)
        twice = table[table["scan_id"].duplicated(keep=False)].groupby("scan_id")["chunk"].agg(" and ".join)
        if len(twice):
            places = [(f"{self.folder}, scan {scan}", f"stands in shards {where}") for scan, where in twice.items()]
            raise InputError([Problem(scan, message) for scan, message in places])
        return table

    @cached_property
    def _place(self) -> dict[str, tuple[str, int]]:
        table = self.index[self.index["status"] == "ok"]
        return {scan: (chunk, row) for scan, chunk, row in zip(table["scan_id"], table["chunk"], table["row"])}

    def gather(self, scan_ids: Sequence[str], box: Box | None = None) -> np.ndarray:
        """Some scans in the order given, (n, x, y, z) or (n, timepoints, regions) float16; no other voxels are read.

        box: the part of each axis that is wanted, the whole by default.
        Raises InputError naming each scan that is not in the store or failed in preprocessing.
        """
        unknown = [scan for scan in scan_ids if scan not in self._place]
        if unknown:
            raise InputError([self._absence(scan) for scan in dict.fromkeys(unknown)])
        box = box or tuple(slice(None) for _ in self.shape)
        shape = [len(range(*part.indices(size))) for part, size in zip(box, self.shape)]
        places = [self._place[scan] for scan in scan_ids]
        for chunk, row in places:
            self._mapped(chunk).expect(row, box[0])
        gathered = np.empty((len(scan_ids), *shape), np.float16)
        for position in sorted(range(len(places)), key=places.__getitem__):
            chunk, row = places[position]
            gathered[position] = self._mapped(chunk).voxels[(row, *box)]
        return gathered

    def _mapped(self, chunk: str) -> "_Mapped":
        if chunk not in self._maps:
            found = _map(self._path(chunk, "npy"))
            expected = (self._scans[chunk], *self.shape)
            if found.voxels.shape != expected or found.voxels.dtype != np.float16:
                message = f"expected {expected} float16, found {found.voxels.shape} {found.voxels.dtype}"
                raise InputError([Problem(str(self._path(chunk, "npy")), message)])
            self._maps[chunk] = found
        return self._maps[chunk]

    def _absence(self, scan: str) -> Problem:
        known = self.index[self.index["scan_id"] == scan]
        if len(known):
            return Problem(f"{self.folder}, scan {scan}", f"failed in preprocessing: {known['reason'].iloc[0]}")
        return Problem(f"{self.folder}, scan {scan}", "not in the store", nearest(scan, self.index["scan_id"]))


@dataclass(frozen=True)
class _Mapped:
    """A shard's voxels (n, ...) in the memory that maps its file, and the byte at which they begin."""

    voxels: np.ndarray
    memory: mmap.mmap
    start: int

    def expect(self, row: int, part: slice) -> None:
        """Have the system read a part of a scan along its first axis, all of it at once and nothing beyond.

        Without this word each page is read when it is touched, and as many of its neighbours as the disk is set to.
        """
        first, stop, _ = part.indices(self.voxels.shape[1])
        if not hasattr(self.memory, "madvise") or stop <= first:
            return
        begin = self.start + row * self.voxels.strides[0] + first * self.voxels.strides[1]
        page = begin // mmap.PAGESIZE * mmap.PAGESIZE
        length = begin - page + (stop - first) * self.voxels.strides[1]
        self.memory.madvise(mmap.MADV_WILLNEED, page, length)


def _map(path: Path) -> _Mapped:
    """Map an npy file. Raises InputError where it is none, is laid out otherwise or is shorter than it says."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, kind = read(file)
            start = file.tell()
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            voxels = np.ndarray(shape, kind, memory, start, order="F" if by_columns else "C")
        except (ValueError, TypeError) as error:
            raise InputError([Problem(str(path), f"cannot be read as an npy file: {error}")]) from None
    return _Mapped(voxels, memory, start)
