"""What can be found in the demo cohorts: the oracle on the planted factors, and ridge regression on aligned voxels.

Usage: python benchmarks/oracle.py [--persons 50000] [--scans 600] [--seed 0]
"""

from concurrent.futures import ThreadPoolExecutor

import click
import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.linear_model import RidgeCV

from tlimb.demo.anatomy import SPACING, anatomy, grid
from tlimb.demo.oracle import TARGETS, coded, oracle, scored
from tlimb.demo.people import people
from tlimb.demo.scan import head_pose, scan
from tlimb.seeds import seed_for

# The slices that a 2D network is given, mm above the anterior commissure.
CENTRAL = (0.0, 20.0)


def aligned(person: dict, seed: int) -> np.ndarray:
    """The person's scan at 4 mm, aligned by the very pose it was given, z-scored in the brain: (voxels,)."""
    scan_seed = seed_for(seed, "demo", "scan", person["subject"])
    image = nibabel.Nifti1Image.from_bytes(scan(person, scan_seed))
    pose = head_pose(person, np.random.default_rng(scan_seed))
    shape, affine = grid(2.0)
    to_stored = np.linalg.inv(image.affine) @ pose @ affine
    fine = ndimage.affine_transform(image.get_fdata(), to_stored[:3, :3], to_stored[:3, 3], shape, order=1)
    values = ndimage.uniform_filter(fine, 2)[1::2, 1::2, 1::2][brain_mask()]
    return (values - values.mean()) / values.std()


def brain_mask() -> np.ndarray:
    """The template's brain on the 4 mm grid of `aligned`."""
    shape, _ = grid(2.0)
    brain = ndimage.affine_transform(anatomy().brain.astype(np.float32), [2.0 / SPACING] * 3, 0, shape, order=1)
    return brain[1::2, 1::2, 1::2] > 0.5


def voxel_scores(scans: int, seed: int) -> pd.DataFrame:
    """Ridge on voxels, fitted on the first half of each cohort (penalty by leave-one-out), tested on the other."""
    table = people(scans, seed)
    with ThreadPoolExecutor(2) as pool:
        voxels = np.stack(list(pool.map(lambda person: aligned(person, seed), table.to_dict("records"))))
    height = grid(2.0)[1][2, 3] + 2.0 * (2 * np.argwhere(brain_mask())[:, 2] + 0.5)
    parts = {"whole brain": height > -np.inf, "central slices": (CENTRAL[0] <= height) & (height <= CENTRAL[1])}
    rows = []
    for target, cohort in TARGETS.items():
        chosen = (table.cohort == cohort).to_numpy()
        truth = coded(table[target][chosen], target)
        half = len(truth) // 2
        for part, inside in parts.items():
            seen = voxels[chosen][:, inside]
            model = RidgeCV(np.logspace(1, 7, 13)).fit(seen[:half], truth[:half])
            rows.append({"input": part} | scored(truth[half:], model.predict(seen[half:]), target, half, seed))
    return pd.DataFrame(rows)


@click.command()
@click.option("--persons", default=50000, help="Persons for the oracle.")
@click.option("--scans", default=600, help="Scans for the voxels, and persons of the small oracle.")
@click.option("--seed", default=0)
def main(persons: int, scans: int, seed: int) -> None:
    """Print the three tables."""
    with pd.option_context("display.width", 200, "display.float_format", "{:.3f}".format):
        for count in (persons, scans):
            click.echo(f"\nOracle on the planted factors, {count} persons, seed {seed}")
            click.echo(oracle(count, seed).to_string(index=False))
        click.echo(f"\nRidge on voxels at 4 mm, ideally aligned, {scans} scans, seed {seed}")
        click.echo(voxel_scores(scans, seed).to_string(index=False))


if __name__ == "__main__":
    main()
