"""Pictures of what each augmentation does to a scan, as they stand in docs/augmentation.md.

Run: python -m tlimb.data.augment.pictures store/default/shard-all.npy docs/augmentation
"""

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from tlimb import registry
from tlimb.seeds import seed_for

DRAWS = 3
SCALE = 2  # pixels a voxel
DARKEST, BRIGHTEST = -3.0, 2.5  # standard deviations around the mean of the brain
GREYS = 48
SHOWN_WITH = {"MixUp": {"alpha": 1.0}}  # with its default most images are nearly one of the two


@click.command(help=__doc__)
@click.argument("shard", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=5, show_default=True)
def main(shard: Path, out: Path, seed: int):
    """Write <name>.png for each."""
    scans = torch.tensor(np.load(shard, mmap_mode="r")[:DRAWS], dtype=torch.float32)[:, None]
    out.mkdir(parents=True, exist_ok=True)
    for name in registry.SHORT_NAMES["augment"]:
        augment = registry.load("augment", name)(probability=1.0, **SHOWN_WITH.get(name, {}))
        torch.manual_seed(seed_for(seed, "picture", name))
        batch = scans if name == "MixUp" else scans[:1].expand(DRAWS, -1, -1, -1, -1)
        drawn, _ = augment(batch, [])
        columns = [section(volume[0].numpy()) for volume in (scans[0], *drawn)]
        Image.fromarray(np.hstack(columns)).save(out / f"{name}.png", optimize=True)


def section(volume: np.ndarray) -> np.ndarray:
    """The middle axial slice of a volume (X, Y, Z) above its middle sagittal one: pixels (height, width), uint8."""
    axial, sagittal = volume[:, :, volume.shape[2] // 2], volume[volume.shape[0] * 9 // 20]
    slices = [np.where(plane == 0, DARKEST, plane).T[::-1] for plane in (axial, sagittal)]
    width = max(plane.shape[1] for plane in slices)
    grey = np.vstack([_widened(plane, width) for plane in slices])
    grey = np.clip((grey - DARKEST) / (BRIGHTEST - DARKEST), 0, 1)
    pixels = (np.round(grey * (GREYS - 1)) * 255 / (GREYS - 1)).astype(np.uint8)
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def _widened(plane: np.ndarray, width: int) -> np.ndarray:
    before = (width - plane.shape[1]) // 2
    return np.pad(plane, ((0, 0), (before, width - plane.shape[1] - before)), constant_values=DARKEST)


if __name__ == "__main__":
    main()
