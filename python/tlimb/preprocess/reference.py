"""The template as quality control sees it: at 4 mm, with its tissues and the places where a head should be."""

from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.template import template_path
from tlimb.preprocess.volume import Volume, resample, shrink

SPACING = 4.0  # mm
SHAPE = (40, 50, 44)  # holds the brain with a margin of 8 mm; the first axis is centred on the midline
CENTRE = (0.0, -17.0, 4.0)  # mm
WHITE, GREY, FLUID = 0.83, (0.58, 0.70), 0.40  # the template's intensities in pure tissue
FLAT = 0.03  # of the template's range a mm: below it no border of tissues is near
DEEP = {"white": 6.0, "fluid": 15.0}  # mm from the brain's border
FORWARD_DOWN = np.array([0.0, 0.8, -0.6])  # across the plane that parts a face from a brain


@dataclass(frozen=True)
class Reference:
    """The template's brain on a grid of 4 mm that is symmetric about the midline, and places around it.

    affine: (4, 4), of a grid of SHAPE.  brain, white, grey, fluid: SHAPE, bool; the tissues away from their borders.
    values: (N,) intensities 0..1 in the brain.  slopes: (N,) their change a mm.
    basis: (N, 13), the images whose sum models a scan: powers of the intensity, and it times a quadratic in space.
    head, front, face: (3, M) mm, places in the scalp above the brain, in what lies before and below the frontal lobes
    8 to 13 mm from the brain, and in the face.
    """

    affine: np.ndarray
    brain: np.ndarray
    white: np.ndarray
    grey: np.ndarray
    fluid: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    basis: np.ndarray
    head: np.ndarray
    front: np.ndarray
    face: np.ndarray


@lru_cache(maxsize=1)
def reference() -> Reference:
    """Build the reference from the template's file (about half a second, once a process)."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = np.array(CENTRE) - SPACING * (np.array(SHAPE) - 1) / 2
    image, share = _template_on(affine)
    brain = share > 0.9
    slope = np.sqrt(sum(step**2 for step in np.gradient(image, SPACING)))
    away = _distance(share > 0.5)
    flat = brain & (slope < FLAT)
    values = image[brain]
    return Reference(
        affine=affine,
        brain=brain,
        white=brain & (image > WHITE) & (away < -DEEP["white"]),
        grey=flat & (image > GREY[0]) & (image < GREY[1]),
        fluid=brain & (image < FLUID) & (away < -DEEP["fluid"]),
        values=values,
        slopes=slope[brain],
        basis=_basis(values, affine, brain),
        **_places(affine, share > 0.5),
    )


def on_reference(volume: Volume) -> np.ndarray:
    """A volume in template space on the reference's grid, SHAPE float32, NaN outside of its field of view."""
    return resample(shrink(volume, SPACING / 2), np.eye(4), reference().affine, SHAPE)


def _template_on(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensity in 0..1 and share of the brain on the reference's grid."""
    image = nib.load(template_path())
    head = image.get_fdata(dtype=np.float32) / np.float32(255)
    volumes = (Volume(data, np.asarray(image.affine, float)) for data in (head, (head > 0).astype(np.float32)))
    return tuple(
        np.nan_to_num(resample(shrink(volume, SPACING / 2), np.eye(4), affine, SHAPE)) for volume in volumes
    )


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance in mm to the border of a mask, negative inside of it."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    outward = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False)
    return SPACING * sitk.GetArrayFromImage(outward)


def _basis(values: np.ndarray, affine: np.ndarray, brain: np.ndarray) -> np.ndarray:
    place = np.argwhere(brain) @ affine[:3, :3].T / 50
    place = place - place.mean(0)
    squares = [place[:, i] * place[:, j] for i in range(3) for j in range(i, 3)]
    powers = [values**power for power in range(4)]
    return np.stack([*powers, *(values * space for space in (*place.T, *squares))], 1).astype(np.float32)


def _places(affine: np.ndarray, brain: np.ndarray) -> dict[str, np.ndarray]:
    """Where tissue should be outside of the brain, on the same lattice with 60 mm more around it."""
    margin = 15
    wide = np.pad(brain, margin).astype(np.uint8)
    closed = sitk.GetArrayFromImage(sitk.BinaryMorphologicalClosing(sitk.GetImageFromArray(wide), [3, 3, 3])) > 0
    distance = _distance(closed).ravel()
    place = affine[:3, :3] @ (np.indices(wide.shape).reshape(3, -1) - margin) + affine[:3, 3:]
    forward_down = FORWARD_DOWN @ place
    forward_down -= forward_down[distance <= 0].max()
    scalp, central = (distance > 8) & (distance < 13), np.abs(place[0]) < 40
    face = central & (forward_down > 20) & (forward_down < 45) & (place[1] > 20) & (place[2] < 0) & (distance > 12)
    places = {"head": scalp & (place[2] > 0), "front": scalp & (forward_down > 9) & central, "face": face}
    return {name: place[:, there] for name, there in places.items()}
