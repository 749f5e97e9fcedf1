"""How fast scans come out of a store, by layout: sizes, and milliseconds a scan for volumes, crops and slices, warm and cold.

python benchmarks/store.py [--gigabytes 0.5] [--folder DIR]

Scans are the template with noise, z-scored in the brain and float16, as a recipe leaves them. Batches of 16 in random
order, one process, one thread. Warm: everything has been read before; cold: the files were dropped from the page cache.
"""

import gc
import os
import shutil
import tempfile
import time
from pathlib import Path

import click
import nibabel as nib
import numpy as np

from tlimb.preprocess.template import load_template, template_path
from tlimb.preprocess.volume import read_volume, resample
from tlimb.store import Store, columns, write_shard

BATCH, SHARD = 16, 64


@click.command(help=__doc__)
@click.option("--gigabytes", type=click.FloatRange(0.1), default=0.5, show_default=True, help="Size of each layout, uncompressed.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a temporary folder by default.")
def main(gigabytes: float, folder: Path | None):
    """Print a Markdown table for 2 mm and one for 1 mm."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for spacing in (2.0, 1.0):
            _table(Path(place), spacing, gigabytes)


def _table(place: Path, spacing: float, gigabytes: float) -> None:
    template = load_template(spacing)
    brain, rng = _brain(template), np.random.default_rng(0)
    scans = max(2 * BATCH, int(gigabytes * 1e9 / (2 * brain.size)) // BATCH * BATCH)
    volumes = [np.where(template.mask, brain + rng.normal(0, 0.1, brain.shape), 0).astype(np.float16) for _ in range(scans)]
    reads = _reads(brain.shape)
    print(f"\n{spacing:g} mm, {scans} scans of {' x '.join(map(str, brain.shape))}, ms a scan, warm / cold\n")
    print("| layout | size | " + " | ".join(reads) + " |\n|" + "---|" * (len(reads) + 2))
    for name, layout in LAYOUTS.items():
        folder = place / "layout"
        folder.mkdir()
        try:
            opened = layout(folder, volumes)
        except ImportError as error:
            print(f"| {name} | not installed: {error.name} |")
        else:
            share = _bytes(folder) / (2 * brain.size * scans)
            print(f"| {name} | {share:.0%} | " + " | ".join(_cell(folder, opened, box, volumes) for box in reads.values()) + " |", flush=True)
        shutil.rmtree(folder)


def _brain(template) -> np.ndarray:
    head, _ = read_volume(template_path())
    values = np.nan_to_num(resample(head, np.eye(4), template.affine, template.shape))
    inside = values[template.mask]
    return (values - inside.mean()) / inside.std()


def _reads(shape) -> dict:
    centre = tuple(slice(n // 2 - round(0.35 * n), n // 2 + round(0.35 * n)) for n in shape)
    whole = (slice(None),) * 3
    slices = {name: tuple(slice(n // 2, n // 2 + 1) if axis == other else slice(None) for other, n in enumerate(shape))
              for axis, name in enumerate(("sagittal slice", "coronal slice", "axial slice"))}
    return {"volume": whole, "crop of 70 % a side": centre} | slices


def _cell(folder: Path, opened, box, volumes: list) -> str:
    rng = np.random.default_rng(1)
    order = rng.permutation(len(volumes))
    assert np.array_equal(opened()(order[0], box), volumes[order[0]][box])
    gc.collect()  # what a process maps stays in the page cache
    _drop(folder)
    read = opened()
    cold = _milliseconds(read, order[: 2 * BATCH], box)
    for number in order:
        read(number, box)
    warm = min(_milliseconds(read, rng.permutation(len(volumes))[: 2 * BATCH], box) for _ in range(3))
    return f"{warm:.2f} / {cold:.1f}"


def _milliseconds(read, order, box) -> float:
    started = time.perf_counter()
    for start in range(0, len(order), BATCH):
        np.stack([read(number, box) for number in order[start : start + BATCH]])
    return 1000 * (time.perf_counter() - started) / len(order)


def _drop(folder: Path) -> None:
    """Write a folder's files out and drop them from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tlimb(folder: Path, volumes: list):
    names = [f"a/{number:05d}/1/T1w" for number in range(len(volumes))]
    kinds = {"string": "", "int64": 0, "float64": None}
    for start in range(0, len(volumes), SHARD):
        part = names[start : start + SHARD]
        index = [
            {column: kinds[kind] for column, kind in columns().items()} | {"scan_id": name, "row": row, "status": "ok"}
            for row, name in enumerate(part)
        ]
        shape = volumes[0].shape
        header = {"fingerprint": "0" * 12, "n": len(part), "shape": list(shape), "spacing": 1.0, "recipe": {}}
        write_shard(folder, f"{start // SHARD:08b}", np.stack(volumes[start : start + SHARD]), index, header)

    def opened():
        store = Store(folder)
        return lambda number, box: store.gather([names[number]], box)[0]

    return opened


def _npy_shards(folder: Path, volumes: list):
    shards = range(0, len(volumes), SHARD)
    for start in shards:
        np.save(folder / f"{start // SHARD}.npy", np.stack(volumes[start : start + SHARD]))

    def opened():
        maps = [np.load(folder / f"{start // SHARD}.npy", mmap_mode="r") for start in shards]
        return lambda number, box: maps[number // SHARD][(number % SHARD, *box)]

    return opened


def _npy_files(folder: Path, volumes: list):
    for number, volume in enumerate(volumes):
        np.save(folder / f"{number}.npy", volume)
    return lambda: lambda number, box: np.load(folder / f"{number}.npy", mmap_mode="r")[box]


def _nifti(folder: Path, volumes: list):
    for number, volume in enumerate(volumes):
        nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), folder / f"{number}.nii.gz")
    return lambda: lambda number, box: np.asarray(nib.load(folder / f"{number}.nii.gz").dataobj, np.float16)[box]


def _blosc2(codec: str, blocks: int | None):
    def layout(folder: Path, volumes: list):
        import blosc2

        parameters = {"codec": blosc2.Codec[codec], "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1}
        shape = volumes[0].shape
        block = None if blocks is None else (1, *(min(blocks, n) for n in shape))
        urls = [str(folder / f"{start // SHARD}.b2nd") for start in range(0, len(volumes), SHARD)]
        for place, url in enumerate(urls):
            part = np.stack(volumes[place * SHARD : (place + 1) * SHARD])
            blosc2.asarray(part.view(np.uint16), urlpath=url, chunks=(1, *shape), blocks=block, cparams=parameters)

        def opened():
            arrays = [blosc2.open(url, mode="r", mmap_mode="r", dparams={"nthreads": 1}) for url in urls]
            one = [slice(row, row + 1) for row in range(SHARD)]
            return lambda number, box: arrays[number // SHARD][(one[number % SHARD], *box)][0].view(np.float16)

        return opened

    return layout


def _zarr(folder: Path, volumes: list):
    import zarr
    from zarr.codecs import BloscCodec

    shape = volumes[0].shape
    array = zarr.create_array(
        store=str(folder / "store.zarr"), shape=(len(volumes), *shape), chunks=(1, *shape), dtype="float16",
        compressors=BloscCodec(cname="lz4", shuffle="bitshuffle"),
    )  # fmt: skip
    for number, volume in enumerate(volumes):
        array[number] = volume
    del array

    def opened():
        data = zarr.open_array(str(folder / "store.zarr"), mode="r")
        return lambda number, box: data[(int(number), *box)]

    return opened


def _hdf5(folder: Path, volumes: list):
    import h5py

    shape = volumes[0].shape
    with h5py.File(folder / "store.h5", "w") as file:
        data = file.create_dataset("scans", (len(volumes), *shape), "float16", chunks=(1, *shape), compression="lzf", shuffle=True)
        for number, volume in enumerate(volumes):
            data[number] = volume

    def opened():
        data = h5py.File(folder / "store.h5", "r")["scans"]
        return lambda number, box: data[(int(number), *box)]

    return opened


LAYOUTS = {
    "tlimb: npy, a file for 64 scans": _tlimb,
    "npy, a file for 64 scans, numpy.memmap": _npy_shards,
    "npy, a file a scan": _npy_files,
    "blosc2, lz4, a chunk a scan": _blosc2("LZ4", None),
    "blosc2, lz4, blocks of 16": _blosc2("LZ4", 16),
    "blosc2, zstd, a chunk a scan": _blosc2("ZSTD", None),
    "zarr 3, blosc lz4, a chunk a scan": _zarr,
    "HDF5, lzf, a chunk a scan": _hdf5,
    "NIfTI, gzip, a file a scan": _nifti,
}


if __name__ == "__main__":
    main()
