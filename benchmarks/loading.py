"""Batches a second from one process: the store against what peers offer, on the same scans, warm, in random order.

python benchmarks/loading.py [--scans 128] [--epochs 3]

Every method yields float32 batches (16, 1, 56, 64, 56), the centre of volumes of 80 x 96 x 80 voxels. Peers may cache
whatever their documentation says that they cache: MONAI's datasets the cropped volumes. Methods take turns, epoch by
epoch, so that all see the same load of the machine; the best epoch of each counts, in seconds of processor time, which
other work on the machine disturbs little: everything is in memory or in the page cache.
"""

import os
import resource
import tempfile
import time
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import torch

from tlimb.data.dataset import EpochOrder, ScanDataset, loader
from tlimb.data.images import Images
from tlimb.data.modules import CropCenterDataModule
from tlimb.store import Store, columns, write_shard

SHAPE, CROP, BATCH, SHARD = (80, 96, 80), (56, 64, 56), 16, 64


@click.command(help=__doc__)
@click.option("--scans", type=click.IntRange(32), default=128, show_default=True)
@click.option("--epochs", type=click.IntRange(2), default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where the scans are written; a temporary folder by default.")
def main(scans: int, epochs: int, folder: Path | None):
    """Print a Markdown table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_scans(Path(place), scans)
        methods = {name: make(Path(place), scans) for name, make in METHODS.items()}
        methods = {name: method for name, method in methods.items() if method is not None}
        seconds = {name: [] for name in methods}
        for epoch in range(1, epochs + 2):
            for name, method in methods.items():
                seconds[name].append(_timed(method, epoch, scans))
    best = {name: min(times[1:]) for name, times in seconds.items()}
    ours = best["tlimb, kept in memory"]
    print(f"{scans} scans, best of {epochs} epochs after one that warms up, one thread, torch {torch.__version__}\n")
    print("| method | scans a second | times slower than tlimb |\n|---|---|---|")
    for name, took in sorted(best.items(), key=lambda item: item[1]):
        print(f"| {name} | {scans / took:.0f} | {took / ours:.1f} |")
    print(f"\nlargest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def write_scans(folder: Path, scans: int) -> None:
    """Scans of smooth noise as a store (float16) and as NIfTI files (float32), some bytes of which compress as a brain's do."""
    rng = np.random.default_rng(0)
    inside = np.linalg.norm(np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")), axis=0) < 0.95
    for start in range(0, scans, SHARD):
        names = [f"a/{i:05d}/1/T1w" for i in range(start, min(start + SHARD, scans))]
        voxels = np.stack([np.where(inside, rng.normal(size=SHAPE), 0) for _ in names]).astype(np.float16)
        for name, volume in zip(names, voxels):
            nib.save(nib.Nifti1Image(volume.astype(np.float32), np.diag([2, 2, 2, 1])), folder / f"{name.split('/')[1]}.nii.gz")
        index = [index_row(name, row) for row, name in enumerate(names)]
        write_shard(folder / "store", f"{start // SHARD:08b}", voxels, index, header(len(names)))


def index_row(name: str, row: int) -> dict:
    """A row of a shard's index that says that preprocessing went well."""
    text = {"string": "", "int64": 0, "float64": None}
    return {column: text[kind] for column, kind in columns().items()} | {"scan_id": name, "row": row, "status": "ok"}


def header(n: int) -> dict:
    """The header of a shard of n scans."""
    return {"fingerprint": "0" * 12, "n": n, "shape": list(SHAPE), "spacing": 2.0, "affine": np.eye(4).tolist(), "recipe": {}}


def _timed(method, epoch: int, scans: int) -> float:
    started = time.process_time()
    seen = 0
    for images in method(epoch):
        assert images.shape[1:] == (1, *CROP) and images.dtype == torch.float32
        seen += len(images)
    assert seen == scans
    return time.process_time() - started


def _order(scans: int, epoch: int) -> list[int]:
    return np.random.default_rng(epoch).permutation(scans).tolist()


def _tlimb(memory: int):
    def make(folder: Path, scans: int):
        import pandas as pd

        store = Store(folder / "store")
        ids = store.index["scan_id"].tolist()
        images = Images(store, CropCenterDataModule(list(CROP)), ids, memory=memory)
        dataset = ScanDataset(pd.DataFrame({"scan_id": ids}), [], images)
        order = EpochOrder(scans, 0, "benchmark")

        def batches(epoch: int):
            order.epoch = epoch
            return (batch[0] for batch in loader(dataset, order, BATCH))

        return batches

    return make


def _monai(kind: str):
    def make(folder: Path, scans: int):
        from monai.data import CacheDataset, DataLoader, PersistentDataset
        from monai.transforms import CenterSpatialCropd, Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged

        keys = ["image"]
        steps = [LoadImaged(keys), EnsureChannelFirstd(keys), CenterSpatialCropd(keys, CROP), EnsureTyped(keys)]
        items = [{"image": str(path)} for path in sorted(folder.glob("*.nii.gz"))]
        if kind == "CacheDataset":
            dataset = CacheDataset(items, Compose(steps), cache_rate=1.0, num_workers=1, progress=False)
        else:
            dataset = PersistentDataset(items, Compose(steps), cache_dir=folder / "persistent")

        def batches(epoch: int):
            torch.manual_seed(epoch)
            return (batch["image"] for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True))

        return batches

    return make


def _torchio(folder: Path, scans: int):
    try:
        import torchio
    except ImportError:
        print("torchio is not installed: its row is left out\n")
        return None
    subjects = [torchio.Subject(image=torchio.ScalarImage(path)) for path in sorted(folder.glob("*.nii.gz"))]
    dataset = torchio.SubjectsDataset(subjects, transform=torchio.CropOrPad(CROP))

    def batches(epoch: int):
        torch.manual_seed(epoch)
        return (batch["image"][torchio.DATA] for batch in torchio.SubjectsLoader(dataset, batch_size=BATCH, shuffle=True))

    return batches


def _nibabel(folder: Path, scans: int):
    paths = sorted(folder.glob("*.nii.gz"))
    box = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(SHAPE, CROP))

    def batches(epoch: int):
        order = _order(scans, epoch)
        for start in range(0, scans, BATCH):
            volumes = [nib.load(paths[i]).get_fdata(dtype=np.float32)[box] for i in order[start : start + BATCH]]
            yield torch.from_numpy(np.stack(volumes))[:, None]

    return batches


METHODS = {
    "tlimb, kept in memory": _tlimb(4 * 2**30),
    "tlimb, memory-mapped": _tlimb(0),
    "MONAI CacheDataset": _monai("CacheDataset"),
    "MONAI PersistentDataset": _monai("PersistentDataset"),
    "TorchIO SubjectsDataset": _torchio,
    "nibabel every epoch": _nibabel,
}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
