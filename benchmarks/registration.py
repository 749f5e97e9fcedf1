"""How well and how fast scans in known places are registered, beside SimpleITK, ANTsPy and dipy.

Persons of the demo (ages 20 to 85, anatomy that differs from the template's as their traits say) are moved by known
transforms and seen by the demo's scanners: voxels of about 2 mm, noise, a receive field, axes in a random order. Every
method is given the same file, one method after the other, so that all of them see the same load of the machine. The
truth is the affine transform nearest (least squares over the brain) to where the person's tissue really went; `floor`
is what it leaves. A scan's error is the median over the brain of the distance between where the true and the found
transform take a point. The tables give the median and the worst scan's error, the worst point of any scan, and seconds
a scan: processor time and, in brackets, time that passed. `flagged` scans carry a warning of preprocessing; `missed`
ones are more than 3 mm off without one, and must be none.
Run: python benchmarks/registration.py [--scans 20] [--seed 0] [--setting far] [--method tlimb]
ANTsPy and dipy come with the extra `bench`; a method that is not installed is left out with a message.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from registration_peers import PEERS
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlimb.config import Recipe
from tlimb.demo.anatomy import SPACING, anatomy, grid
from tlimb.demo.people import people
from tlimb.demo.recipe import KNOTS, MODE_NAMES, ORIENTATIONS, SITES
from tlimb.demo.scan import displacement, render, weights_of
from tlimb.preprocess.register import register
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.volume import read_volume
from tlimb.seeds import seed_for

METHODS = ("tlimb", "SimpleITK", "ANTsPy", "ANTsPy, masked")
WRONG = 3.0  # mm
CENTRE = np.array([0.0, -17.0, 8.0])
T2 = (0.0, 0.05, 1.0, 0.62, 0.42, 0.7)  # signal of air, skull, fluid, grey matter, white matter, fat


@dataclass(frozen=True)
class Setting:
    """How persons are moved and seen.

    degrees, mm: standard deviations of turns and shifts, or limits of a uniform draw where `far`. scale: limits of the
    three sizes. size: of all heads. field: of view in mm. voxel: mm, the site's where absent. noise: of the signal of
    fat, the site's where absent. levels: signals of the tissues, the site's where absent. individual: with smooth
    deformations of 2 mm. head: an artificial change. header: -1 for each axis that the header reverses.
    """

    degrees: float = 6.0
    mm: float = 6.0
    scale: float = 0.04
    far: bool = False
    size: float = 1.0
    field: tuple[float, float, float] = (182.0, 220.0, 190.0)
    voxel: float | None = None
    noise: float | None = None
    levels: tuple[float, ...] | None = None
    individual: bool = False
    head: str = ""
    header: tuple[float, float, float] = (1.0, 1.0, 1.0)


WIDE = (300.0, 330.0, 300.0)
SETTINGS = {
    "as in archives": Setting(),
    "individual anatomy": Setting(individual=True),
    "voxels of 1 mm": Setting(voxel=1.0),
    "noise of 15 %": Setting(noise=0.15),
    "T2-like contrast": Setting(levels=T2),
    "skull-stripped": Setting(head="stripped"),
    "lesion of 50 mm": Setting(head="lesion"),
    "defaced": Setting(head="defaced"),
    "40 mm cut off": Setting(head="cropped"),
    "heads of 85 %": Setting(size=0.85),
    "scalp brighter than the brain": Setting(head="scalp"),
    "the same, heads of 85 %": Setting(head="scalp", size=0.85),
    "tilted by 25 degrees": Setting(degrees=25, mm=25, far=True, field=WIDE),
    "far: 40 degrees, 50 mm": Setting(degrees=40, mm=50, far=True, field=WIDE),
    "upside down": Setting(header=(1, -1, -1)),
    "back to front": Setting(header=(-1, -1, 1)),
    "one axis reversed": Setting(header=(1, 1, -1)),
}


@dataclass(frozen=True)
class Case:
    """A scan in a file, the true transform (4, 4) from template mm to scan mm, and the floor of the error in mm."""

    path: Path
    world: np.ndarray
    floor: float


@click.command(help=__doc__)
@click.option("--scans", default=20, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--setting", "names", multiple=True, help="Settings whose names contain this; by default all.")
@click.option("--method", "methods", multiple=True, help="tlimb or a name in PEERS; by default all but dipy.")
def main(scans: int, seed: int, names: tuple[str, ...], methods: tuple[str, ...]):
    template = template_for(Recipe())
    work = _methods(methods or METHODS, template)
    print("| setting | floor |", " | ".join(work), "| flagged | missed |\n|" + "---|" * (4 + len(work)))
    for name, setting in SETTINGS.items():
        if not names or any(part in name for part in names):
            rows = [_measured(setting, seed, number, work, template) for number in range(scans)]
            print(_line(name, rows, list(work)), flush=True)
    print(f"\nn = {scans} a setting, seed {seed}; mm: median / worst scan / worst point; s: processor (passed)")


def _methods(names, template) -> dict:
    work = {}
    for name in names:
        if name == "tlimb":
            work[name] = lambda path: (read_volume(path)[0], lambda scan: register(scan, template, "affine").world)
            continue
        try:
            work[name] = PEERS[name](template)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return work


def _measured(setting: Setting, seed: int, number: int, work: dict, template) -> dict:
    """What each method made of one scan: errors (median, worst) in mm, seconds; and whether it was flagged."""
    with tempfile.TemporaryDirectory() as folder:
        case = make(setting, seed, number, template, Path(folder))
        row = {"floor": case.floor}
        for name, prepare in work.items():
            image, run = prepare(case.path)
            cpu, wall = time.process_time(), time.perf_counter()
            world = run(image)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            away = distance(world, case.world, template.brain)
            row[name] = (np.median(away), away.max(), cpu, wall)
        modality = "T2w" if setting.levels == T2 else "T1w"
        row["flagged"] = bool(preprocess_scan(case.path, None, Recipe(), template, modality)[1]["warnings"])
    return row


def _line(name: str, rows: list[dict], methods: list[str]) -> str:
    cells = [f"{np.median([row['floor'] for row in rows]):.2f}"]
    for method in methods:
        error, point, cpu, wall = np.array([row[method] for row in rows]).T
        cells.append(
            f"{np.median(error):.2f} / {error.max():.2f} / {point.max():.2f}; {cpu.mean():.2f} ({wall.mean():.2f}) s"
        )
    flagged = np.array([row["flagged"] for row in rows])
    wrong = np.array([row["tlimb"][0] > WRONG for row in rows]) if "tlimb" in methods else np.zeros(len(rows), bool)
    return f"| {name} | " + " | ".join([*cells, str(flagged.sum()), str((wrong & ~flagged).sum())]) + " |"


def distance(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance in mm (N,) between where two transforms take points (3, N)."""
    return np.linalg.norm((one - other)[:3, :3] @ points + (one - other)[:3, 3:], axis=0)


def make(setting: Setting, seed: int, number: int, template, folder: Path) -> Case:
    """Write the scan of one person in a setting."""
    rng = np.random.default_rng(seed_for(seed, "registration", number))
    person = people(60, seed).iloc[number % 36]
    weights = weights_of(person)
    if not setting.individual:
        weights[-len(MODE_NAMES) :] = 0
    world = _pose(setting, rng)
    image = _seen(setting, SITES[person["site"]], weights, world, rng)
    middle = np.append(world[:3, :3] @ CENTRE + world[:3, 3], 1)
    wrong = np.diag([*setting.header, 1.0])
    wrong[:3, 3] = (middle - wrong @ middle)[:3]
    path = folder / "scan.nii"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), wrong @ image.affine), path)
    world, floor = _truth(wrong @ world, weights, template.brain)
    # The template is its own mirror image, so a mirrored head is matched best with left and right exchanged.
    mirrored = np.linalg.det(world[:3, :3]) < 0
    return Case(path, world @ np.diag([-1.0, 1, 1, 1]) if mirrored else world, floor)


def _pose(setting: Setting, rng) -> np.ndarray:
    turns, shift = (rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)) if setting.far else rng.standard_normal((2, 3))
    world = np.eye(4)
    turn = Rotation.from_euler("xyz", setting.degrees * turns, degrees=True).as_matrix()
    world[:3, :3] = turn @ np.diag(setting.size * (1 + rng.uniform(-setting.scale, setting.scale, 3)))
    world[:3, 3] = CENTRE + setting.mm * shift - world[:3, :3] @ CENTRE
    return world


def _truth(world: np.ndarray, weights: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, float]:
    place = brain.copy()
    for _ in range(10):
        place = brain - displacement(weights, place)
    gone = world[:3, :3] @ place + world[:3, 3:]
    design = np.vstack([brain, np.ones(brain.shape[1])]).T
    fitted = np.eye(4)
    fitted[:3] = np.linalg.lstsq(design, gone.T, rcond=None)[0].T
    return fitted, float(np.median(np.linalg.norm(fitted[:3] @ design.T - gone, axis=0)))


def _seen(setting: Setting, site, weights: np.ndarray, world: np.ndarray, rng) -> nib.Nifti1Image:
    """The scan as 16-bit integers with its axes in a random order."""
    voxel = (setting.voxel or np.asarray(site.voxel)) * rng.uniform(0.95, 1.05, 3)
    shape = tuple(int(n) for n in np.round(np.array(setting.field) / voxel))
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = CENTRE - voxel * (np.array(shape) - 1) / 2
    signal = render(weights, shape, affine, world)
    if setting.head not in ("", "cropped"):
        signal = _changed(signal, setting.head, np.linalg.inv(world) @ affine, rng)
    signal = np.interp(signal.ravel(), [*KNOTS, 2.0], [*(setting.levels or site.levels), 2.0]).reshape(shape)
    noise = site.noise if setting.noise is None else setting.noise
    real, imaginary = noise * rng.standard_normal((2, *shape))
    image = np.hypot(signal * _receive_field(shape, site.bias, rng) + real, imaginary)
    image = nib.Nifti1Image((1000 * image).astype(np.int16), affine)
    if setting.head == "cropped":
        cut = round(40 / voxel[2])
        image = image.slicer[:, :, : shape[2] - cut] if rng.integers(2) else image.slicer[:, :, cut:]
    axes = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes)))


def _receive_field(shape, bias: float, rng) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * x, y * y, z * z, x * y, y * z, x * z)
    field = sum(weight * term for weight, term in zip(rng.standard_normal(len(terms)), terms))
    return 1 + bias * field / np.abs(field).max()


def _changed(signal: np.ndarray, change: str, to_template: np.ndarray, rng) -> np.ndarray:
    """The head (X, Y, Z; air 0 to fat 1) with an artificial change, `to_template` (4, 4) from index to template mm."""
    place = np.tensordot(to_template[:3, :3], np.indices(signal.shape), 1) + to_template[:3, 3, None, None, None]
    away = _away(place)
    if change == "stripped":
        return np.where(away <= 0, signal, 0)
    if change == "scalp":
        head = np.where(away > 3, 0.1, signal) * (away < 10)
        return np.where((away > 4) & (away < 10), 1.3, head)
    if change == "lesion":
        centre = np.array([rng.choice([-35, 35]), rng.uniform(-60, 20), rng.uniform(5, 40)])
        inside = np.linalg.norm(place - centre[:, None, None, None], axis=0) < 25
        return np.where(inside & (away <= 0), rng.choice([0.27, 1.2]), signal)
    return np.where(place[1] - place[2] > 75, 0, signal)


def _away(place: np.ndarray) -> np.ndarray:
    """mm from the template's brain at `place` (3, X, Y, Z) in template mm; 0 inside."""
    brain = np.pad(anatomy().brain, 20)
    away = ndimage.distance_transform_edt(~brain, sampling=SPACING)
    index = (place - grid(SPACING)[1][:3, 3, None, None, None]) / SPACING + 20
    return ndimage.map_coordinates(away.astype(np.float32), index, order=1, mode="nearest")


if __name__ == "__main__":
    main()
