"""Scans of the demo's persons, harmed on purpose: defaced, cropped, lesioned, mislabelled, under a wrong header."""

import io
from functools import cache
from unittest import mock

import nibabel as nib
import numpy as np
from scipy import ndimage

from tlimb.demo.people import people
from tlimb.demo.recipe import SITES, Site
from tlimb.demo.scan import head_pose, scan
from tlimb.preprocess.template import load_template
from tlimb.preprocess.volume import Volume
from tlimb.seeds import seed_for

CONTRASTS = {  # signal of air, skull, fluid, grey matter, white matter, fat
    "T2w": (0.0, 0.06, 1.0, 0.58, 0.40, 0.75),
    "FLAIR": (0.0, 0.06, 0.14, 0.72, 0.58, 0.90),
    "PDw": (0.0, 0.06, 0.82, 0.85, 0.66, 0.80),
}
PERSONS = 400
UNDER_THE_BRAIN = np.array([0.0, 0.8, -0.6])  # across the plane that parts a face from a brain, forward and down


def demo_scan(number: int, seed: int, contrast: str | None = None) -> tuple[nib.Nifti1Image, np.ndarray]:
    """Scan of one of the demo's persons and the pose (4, 4), template mm to scanner mm; T1-weighted by default.

    Successive numbers give persons of both cohorts, all ages and all sites.
    """
    person = dict(_persons(seed)[7 * number % PERSONS])
    key = seed_for(seed, "harmed", number)
    if contrast:
        person["site"] = "elsewhere"
    elsewhere = Site(CONTRASTS.get(contrast, CONTRASTS["T2w"]), noise=0.025, voxel=(2.1, 2.0, 2.1), bias=0.1)
    with mock.patch.dict(SITES, elsewhere=elsewhere):
        image = nib.Nifti1Image.from_stream(io.BytesIO(scan(person, key)))
    return image, head_pose(person, np.random.default_rng(key))


@cache
def _persons(seed: int) -> list[dict]:
    return people(PERSONS, seed).to_dict("records")


def template_place(image, pose) -> np.ndarray:
    """(3, X, Y, Z): the position of every voxel in template mm."""
    index = np.indices(image.shape, dtype=np.float32)
    to_template = np.linalg.inv(pose) @ image.affine
    return np.einsum("ij,jxyz->ixyz", to_template[:3, :3], index) + to_template[:3, 3].reshape(3, 1, 1, 1)


def with_data(image, data, affine=None) -> nib.Nifti1Image:
    """The image with other voxels and, where given, another affine; float32."""
    return nib.Nifti1Image(np.asarray(data, np.float32), image.affine if affine is None else affine)


def defaced(image, pose, rng) -> nib.Nifti1Image:
    """Everything 4 to 8 mm or more in front of and below the brain, beyond one plane, becomes 0, as Quickshear does."""
    brain = load_template(2.0).brain
    distance = np.tensordot(UNDER_THE_BRAIN, template_place(image, pose), 1)
    limit = (UNDER_THE_BRAIN @ brain).max() + rng.uniform(4, 8)
    return with_data(image, np.where(distance > limit, 0, image.get_fdata()))


def stripped(image, pose, rng) -> nib.Nifti1Image:
    """Everything farther from the brain than 0 to 3 mm becomes 0, as after skull stripping."""
    template = load_template(2.0)
    away = 2 * ndimage.distance_transform_edt(~template.mask)
    place = template_place(image, pose)
    index = (place - template.affine[:3, 3].reshape(3, 1, 1, 1)) / 2
    distance = ndimage.map_coordinates(away, index, order=1, mode="nearest")
    return with_data(image, np.where(distance > rng.uniform(0, 3), 0, image.get_fdata()))


def cropped(image, pose, rng, share: float, padded: bool) -> nib.Nifti1Image:
    """Planes at one end of one axis that hold `share` of the brain are cut away or, where `padded`, set to 0."""
    brain = load_template(2.0).brain
    index = np.linalg.inv(image.affine) @ pose @ np.vstack([brain, np.ones(brain.shape[1])])
    axis, far = int(rng.integers(3)), bool(rng.integers(2))
    cut = int(round(np.quantile(index[axis], 1 - share if far else share)))
    keep = [slice(None)] * 3
    keep[axis] = slice(0, cut) if far else slice(cut, None)
    if not padded:
        return image.slicer[tuple(keep)]
    data = np.zeros(image.shape, np.float32)
    data[tuple(keep)] = image.get_fdata()[tuple(keep)]
    return with_data(image, data)


def lesioned(image, pose, rng, diameter: float) -> nib.Nifti1Image:
    """A blob of about `diameter` mm in one hemisphere, all of it within the brain, takes another signal.

    Its signal is as that of fluid, of something between fluid and white matter, or brighter than white matter.
    """
    centre = _depth_at_least(0.45 * diameter, rng)
    place = template_place(image, pose) - centre.reshape(3, 1, 1, 1)
    wobble = ndimage.gaussian_filter(rng.standard_normal(image.shape), 4)
    radius = 0.5 * diameter * (1 + 0.12 * wobble / wobble.std())
    inside = np.clip((radius - np.sqrt((place**2).sum(0))) / 2 + 0.5, 0, 1)
    data = image.get_fdata()
    white = np.percentile(data[inside.astype(bool)], 95)
    signal = rng.choice([0.3, 0.45, 1.35]) * white
    texture = 0.05 * white * ndimage.gaussian_filter(rng.standard_normal(image.shape), 1)
    return with_data(image, (1 - inside) * data + inside * (signal + texture))


def _depth_at_least(mm: float, rng) -> np.ndarray:
    """A random place (3,) in template mm in the cerebrum, at least `mm` deep in the brain and 12 mm off the midline."""
    template = load_template(2.0)
    depth = 2 * ndimage.distance_transform_edt(template.mask)
    index = np.argwhere(depth >= mm)
    place = index @ template.affine[:3, :3].T + template.affine[:3, 3]
    place = place[(np.abs(place[:, 0]) > 12) & (place[:, 2] > -20)]
    return place[rng.integers(len(place))]


def with_wrong_header(image, pose, rng, kind: str) -> nib.Nifti1Image:
    """The same voxels under an affine that lies: `stretched`, `large`, `small`, `turned` or `upside down`."""
    change = np.eye(4)
    if kind == "stretched":
        change[(axis := rng.integers(3)), axis] = rng.choice([0.65, 1.5])
    elif kind in ("large", "small"):
        change[:3, :3] *= {"large": 1.6, "small": 0.6}[kind]
    elif kind == "turned":
        change[:3, :3] = np.eye(3)[rng.permutation([(1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2)])[0]]
    else:
        change[:3, :3] = np.diag(rng.permutation([(1, 1, -1), (1, -1, 1), (1, -1, -1)])[0])
    return with_data(image, image.get_fdata(), change @ image.affine)


def volume_of(image) -> Volume:
    """The image as preprocessing sees it: axes nearest to RAS, no negative values."""
    image = nib.as_closest_canonical(image)
    data = image.get_fdata(dtype=np.float32)
    return Volume(data - min(data.min(), 0), image.affine)
