"""A store of 40,000 scans at 1 mm: the time to open it, to read its index and to draw batches from it.

python benchmarks/large_store.py [--scans 40000]

The shards' indexes and headers are real, their arrays sparse files of the right size (about 370 GB that take no room),
so everything but the disk itself is measured.
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np

from tlimb.store import Store, columns, write_shard

SHAPE, SHARD, BATCH, BATCHES = (152, 192, 160), 64, 16, 20


@click.command(help=__doc__)
@click.option("--scans", type=click.IntRange(SHARD), default=40_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a temporary folder by default.")
def main(scans: int, folder: Path | None):
    """Print a Markdown table, for that number of scans and a tenth of it."""
    print("| scans | shards | open, s | index, s | draw a batch of 16 and read its middle slices, ms |\n|---|---|---|---|---|")
    for number in (scans // 10, scans):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_store(Path(place), number)
            print("|", " | ".join(_measured(Path(place), number)), "|", flush=True)


def write_store(folder: Path, scans: int) -> None:
    """The shards of a store whose arrays are holes."""
    for start in range(0, scans, SHARD):
        names = [f"ukb/{number:07d}/1/T1w" for number in range(start, min(start + SHARD, scans))]
        chunk = f"{start // SHARD:016b}"
        empty = {name: {"string": "", "int64": 0, "float64": 0.5}[kind] for name, kind in columns().items()}
        index = [empty | {"scan_id": name, "row": row, "status": "ok"} for row, name in enumerate(names)]
        header = {"fingerprint": "0" * 12, "n": len(names), "shape": list(SHAPE), "spacing": 1.0, "recipe": {}}
        write_shard(folder, chunk, np.zeros((0, *SHAPE), np.float16), index, header)
        np.lib.format.open_memmap(folder / f"shard-{chunk}.npy", "w+", np.float16, (len(names), *SHAPE))


def _measured(folder: Path, scans: int) -> list[str]:
    started = time.perf_counter()
    store = Store(folder)
    opened = time.perf_counter()
    names = store.index["scan_id"].to_numpy()
    indexed = time.perf_counter()
    rng, middle = np.random.default_rng(0), (slice(76, 77), slice(None), slice(None))
    store.gather(names[rng.integers(len(names), size=BATCH)].tolist(), middle)
    warm = time.perf_counter()
    for _ in range(BATCHES):
        store.gather(names[rng.integers(len(names), size=BATCH)].tolist(), middle)
    drawn = time.perf_counter()
    figures = [opened - started, indexed - opened, 1000 * (drawn - warm) / BATCHES]
    return [str(scans), str(len(store.shards)), *(f"{figure:.2f}" for figure in figures)]


if __name__ == "__main__":
    main()
