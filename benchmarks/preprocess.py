"""How well and how fast preprocessing finds heads that stand in known places.

The MNI152 template, with and without a scalp, is moved by known random transforms, sampled on a scanner's grid in a
random orientation with noise, a slope of brightness and a random contrast, written to disk and preprocessed. For each
setting the table gives the median and the worst error in mm (the median over the brain of the distance between where
the true and the found transform take a point), the seconds a scan took on one core, how many scans were flagged, and
how many were off by more than 3 mm without being flagged.
Run: python benchmarks/preprocess.py [--scans 20] [--seed 0]
"""

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import click
import nibabel as nib
import numpy as np

from tlimb.preprocess.register import register
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.volume import read_volume
from tlimb.seeds import seed_for

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from heads import distance, pose, scanned  # noqa: E402

RECIPE = SimpleNamespace(
    spacing=2.0, shape=None, registration="affine", bias_field=False, mask="template", intensity="zscore"
)
SETTINGS = {
    "as in archives: 6 degrees, 6 mm, 4 %": {},
    "as in archives, skull-stripped": {"scalp": False},
    "fine voxels of 1 mm": {"voxel": 1.0, "shape": (192, 224, 192)},
    "noise of 15 %": {"noise": 0.15},
    "sizes off by 15 %": {"scale": 0.15},
    "25 degrees, 25 mm": {"degrees": 25, "mm": 25, "shape": (144, 160, 144)},
    "45 degrees, 25 mm": {"degrees": 45, "mm": 25, "shape": (144, 160, 144)},
}


@click.command(help=__doc__)
@click.option("--scans", default=20, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
def main(scans: int, seed: int):
    template = template_for(RECIPE)
    print(f"{'setting':<40} {'n':>4} {'median mm':>10} {'worst mm':>9} {'s a scan':>9} {'flagged':>8} {'missed':>8}")
    for name, options in SETTINGS.items():
        seeds = [seed_for(seed, name, number) for number in range(scans)]
        rows = [_measure(np.random.default_rng(one), template, dict(options)) for one in seeds]
        errors, seconds, flagged = map(np.array, zip(*rows))
        silent = int(((errors > 3) & ~flagged).sum())
        print(
            f"{name:<40} {scans:>4} {np.median(errors):>10.2f} {errors.max():>9.2f} {seconds.mean():>9.2f} "
            f"{flagged.sum():>8} {silent:>8}"
        )
    print(f"seed {seed}")


def _measure(rng, template, options: dict) -> tuple[float, float, bool]:
    world = pose(rng, **{key: options.pop(key) for key in ("degrees", "mm", "scale") if key in options})
    axes = "".join(rng.permutation([rng.choice(list(pair)) for pair in ("LR", "AP", "IS")]))
    image = _seen(scanned(world, rng, axes, **{"voxel": 1.6, "shape": (108, 128, 112)} | options), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(image, path)
        start = time.process_time()
        _, quality = preprocess_scan(path, None, RECIPE, template)
        seconds = time.process_time() - start
        found = register(read_volume(path)[0], template, RECIPE.registration)
    return float(np.median(distance(found.world, world, template.brain))), seconds, quality["warnings"] != ""


def _seen(image, rng):
    """The scan in another contrast and with a slope of brightness, as 16-bit integers."""
    data = (image.get_fdata() / 1000) ** rng.uniform(0.7, 1.4)
    for axis in range(3):
        slope = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, data.shape[axis])
        data = data * slope.reshape([-1 if other == axis else 1 for other in range(3)])
    return nib.Nifti1Image((1000 * data).astype(np.int16), image.affine)


if __name__ == "__main__":
    main()
