"""How well and how fast preprocessing finds heads that stand in known places, beside SimpleITK's own registration.

The MNI152 template, with and without a scalp, is moved by known random transforms, sampled on a scanner's grid in a
random orientation with noise, a slope of brightness and a random contrast, and written to disk. Every method is given
the same scans: tlimb, SimpleITK from the images' moments in a fast and a thorough setting, and `register` with
SimpleITK in the place of its own iterations. The first table gives the median and the worst error in mm (the median
over the brain of the distance between where the true and the found transform take a point) and the seconds that
registration took on one core; the second what whole scans took from disk to array, how many were flagged, and how many
were off by more than 3 mm without being flagged.
Run: python benchmarks/preprocess.py [--scans 10] [--seed 0]
"""

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import click
import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tlimb.preprocess import register as registration
from tlimb.preprocess.register import register
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.template import Template, template_path
from tlimb.preprocess.volume import Volume, read_volume, shrink
from tlimb.seeds import seed_for

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from heads import distance, pose, scanned  # noqa: E402

RECIPE = SimpleNamespace(
    spacing=2.0, shape=None, registration="affine", bias_field=False, mask="template", intensity="zscore"
)
WIDE = {"mm": 25, "shape": (144, 160, 144)}
SETTINGS = {
    "6 degrees, 6 mm, 4 %, as in archives": {},
    "the same, skull-stripped": {"scalp": False},
    "the same, voxels of 1 mm": {"voxel": 1.0, "shape": (192, 224, 192)},
    "the same, noise of 15 %": {"noise": 0.15},
    "sizes off by 15 %": {"scale": 0.15},
    "heads of 85 %": {"size": 0.85},
    "25 degrees, 25 mm": {"degrees": 25} | WIDE,
    "45 degrees, 25 mm": {"degrees": 45} | WIDE,
}
OURS, FAST, THOROUGH, MIXED = "tlimb", "SimpleITK, fast", "SimpleITK, thorough", "tlimb's starts, SimpleITK, fast"
METHODS = (OURS, FAST, THOROUGH, MIXED)
SIMPLEITK = {  # mm a voxel; for each level its divisor, smoothing in voxels and share of the points; the climb
    FAST: {"spacing": 4.0, "levels": ((2, 0.5, 1.0), (1, 0, 0.2)), "rate": 2.0, "steps": 30, "relaxation": 0.5},
    THOROUGH: {
        "spacing": 2.0,
        "levels": ((4, 2, 1.0), (2, 1, 0.2), (1, 0, 0.05)),
        "rate": 4.0,
        "steps": 100,
        "relaxation": 0.7,
    },
}


@click.command(help=__doc__)
@click.option("--scans", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
def main(scans: int, seed: int):
    template = template_for(RECIPE)
    fixed = {name: _fixed(settings["spacing"]) for name, settings in SIMPLEITK.items()}
    print("| setting |", " | ".join(METHODS), "|\n" + "|---" * (1 + len(METHODS)) + "|")
    whole = []
    for name, options in SETTINGS.items():
        rngs = [np.random.default_rng(seed_for(seed, name, number)) for number in range(scans)]
        rows = [_measure(rng, template, fixed, dict(options)) for rng in rngs]
        print(f"| {name} |", " | ".join(_cell([row[method] for row in rows]) for method in METHODS), "|", flush=True)
        whole.append(_whole(name, rows))
    print("\n| setting | s a scan | flagged | missed |\n|---|---|---|---|", *whole, sep="\n")
    print(f"\nn = {scans} a setting, seed {seed}; median mm / worst mm / seconds")


def _cell(found: list[tuple[float, float]]) -> str:
    errors, seconds = np.array(found).T
    return f"{np.median(errors):.2f} / {errors.max():.2f} / {seconds.mean():.2f}"


def _whole(name: str, rows: list[dict]) -> str:
    flagged = np.array([row["flagged"] for row in rows])
    missed = ~flagged & [row[OURS][0] > 3 for row in rows]
    return f"| {name} | {np.mean([row['seconds'] for row in rows]):.2f} | {flagged.sum()} | {missed.sum()} |"


def _measure(rng, template, fixed: dict, options: dict) -> dict:
    """What each method made of one scan, (error in mm, seconds), and what the whole of preprocessing did."""
    size = options.pop("size", 1.0)
    world = pose(rng, **{key: options.pop(key) for key in ("degrees", "mm", "scale") if key in options})
    world = world @ np.diag([size, size, size, 1])
    axes = "".join(rng.permutation([rng.choice(list(pair)) for pair in ("LR", "AP", "IS")]))
    image = _seen(scanned(world, rng, axes, **{"voxel": 1.6, "shape": (108, 128, 112)} | options), rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(image, path)
        (_, quality), seconds = _timed(preprocess_scan, path, None, RECIPE, template)
        scan, _ = read_volume(path)
    found = {OURS: _timed(lambda: register(scan, template, RECIPE.registration).world)}
    found |= {name: _timed(_from_moments, scan, *fixed[name], settings) for name, settings in SIMPLEITK.items()}
    found[MIXED] = _timed(_from_our_starts, scan, template, *fixed[FAST], SIMPLEITK[FAST])
    rows = {name: (np.median(distance(one, world, template.brain)), took) for name, (one, took) in found.items()}
    return rows | {"seconds": seconds, "flagged": quality["warnings"] != ""}


def _timed(work, *arguments) -> tuple:
    start = time.process_time()
    return work(*arguments), time.process_time() - start


def _seen(image, rng):
    """The scan in another contrast and with a slope of brightness, as 16-bit integers."""
    data = (image.get_fdata() / 1000) ** rng.uniform(0.7, 1.4)
    for axis in range(3):
        slope = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, data.shape[axis])
        data = data * slope.reshape([-1 if other == axis else 1 for other in range(3)])
    return nib.Nifti1Image((1000 * data).astype(np.int16), image.affine)


def _from_moments(scan: Volume, fixed: sitk.Image, mask: sitk.Image, settings: dict) -> np.ndarray:
    moving = _image(shrink(scan, settings["spacing"]))
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), moments)
    return _simpleitk(moving, fixed, mask, settings, start)


def _from_our_starts(scan: Volume, template: Template, fixed: sitk.Image, mask: sitk.Image, settings: dict):
    """What `register` finds where SimpleITK stands in for its Gauss-Newton iterations."""

    def refined(scans, levels, world, kind):
        about = template.centre
        shift = world[:3, :3] @ about + world[:3, 3] - about
        start = sitk.AffineTransform(world[:3, :3].ravel().tolist(), shift.tolist(), about.tolist())
        return _simpleitk(_image(scans[settings["spacing"]]), fixed, mask, settings, start)

    with mock.patch.object(registration, "_refined", refined):
        return register(scan, template, RECIPE.registration).world


def _simpleitk(moving, fixed, mask, settings: dict, start) -> np.ndarray:
    """(4, 4), template mm to scan mm, where climbing Mattes' mutual information from `start` ends."""
    divisors, smoothing, shares = zip(*settings["levels"])
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(mask)
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(shares, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(divisors)
    method.SetSmoothingSigmasPerLevel(smoothing)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetOptimizerAsRegularStepGradientDescent(settings["rate"], 0.01, settings["steps"], settings["relaxation"])
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start)
    found = method.Execute(fixed, moving)
    origin, *corners = (found.TransformPoint(point) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist())
    world = np.eye(4)
    world[:3] = np.column_stack([(np.array(corners) - origin).T, origin])
    return world


def _fixed(spacing: float) -> tuple[sitk.Image, sitk.Image]:
    """The template, and its brain with 4 mm around it, at `spacing` mm."""
    head, _ = read_volume(template_path())
    brain = shrink(Volume((head.data > 0).astype(np.float32), head.affine), spacing)
    return _image(shrink(head, spacing)), sitk.BinaryDilate(_image(brain) > 0.3, [round(4 / spacing)] * 3)


def _image(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((volume.affine[:3, :3] / volume.spacing).ravel().tolist())
    return image


if __name__ == "__main__":
    main()
