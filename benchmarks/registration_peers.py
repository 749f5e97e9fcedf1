"""The registrations that benchmarks/registration.py puts beside tlimb's: SimpleITK, ANTsPy and dipy.

Each is prepared with the template and gives a function from a file to what registration is given (loading is not
timed) and the registration itself, which returns (4, 4), template mm to scan mm.
"""

import tempfile
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tlimb.preprocess.template import template_path
from tlimb.preprocess.volume import Volume, read_volume, shrink

SPACING = 2.0  # mm, of the template that is given to all
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # between RAS and the LPS of ITK


def simpleitk(template):
    """Plain SimpleITK: from the images' moments, Mattes' mutual information in the brain, three levels."""
    fixed, mask = _fixed()
    fixed, mask = _itk(fixed), _itk(mask) > 0

    def prepare(path):
        return _itk(shrink(read_volume(path)[0], SPACING)), partial(_simpleitk, fixed, mask)

    return prepare


def _simpleitk(fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image) -> np.ndarray:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel((1.0, 0.2, 0.05), 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel((4, 2, 1))
    method.SetSmoothingSigmasPerLevel((2, 1, 0))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 0.01, 100, 0.7)
    method.SetOptimizerScalesFromPhysicalShift()
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    method.SetInitialTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), moments))
    found = method.Execute(fixed, moving)
    return _world(found.TransformPoint)


def antspy(template, masked: bool = False):
    """ANTsPy's `Affine` (Mattes' mutual information), with its own settings; `masked` to the brain and 4 mm around."""
    import ants

    fixed, mask = (_ants(ants, volume) for volume in _fixed())

    def run(moving) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            limits = {"mask": mask} if masked else {}
            done = ants.registration(fixed, moving, "Affine", outprefix=f"{folder}/found", random_seed=1, **limits)
            found = ants.read_transform(done["fwdtransforms"][0])
        return FLIP @ _world(lambda point: found.apply_to_point(tuple(point))) @ FLIP

    return lambda path: (ants.image_read(str(path)), run)


def dipy(template):
    """dipy's affine: centres of mass, then shift, rigid and affine by mutual information, with its own settings."""
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric, transform_centers_of_mass
    from dipy.align.transforms import AffineTransform3D, RigidTransform3D, TranslationTransform3D

    fixed, _ = _fixed()

    def run(moving: Volume) -> np.ndarray:
        pair = (fixed.data, moving.data)
        grids = (fixed.affine, moving.affine)
        found = transform_centers_of_mass(fixed.data, fixed.affine, moving.data, moving.affine).affine
        for kind in (TranslationTransform3D, RigidTransform3D, AffineTransform3D):
            method = AffineRegistration(metric=MutualInformationMetric(nbins=32), verbosity=0)
            found = method.optimize(*pair, kind(), None, *grids, starting_affine=found).affine
        return found

    return lambda path: (shrink(read_volume(path)[0], SPACING), run)


PEERS = {"SimpleITK": simpleitk, "ANTsPy": antspy, "ANTsPy, masked": partial(antspy, masked=True), "dipy": dipy}


def _fixed() -> tuple[Volume, Volume]:
    """The template at SPACING, and its brain with 4 mm around it."""
    head, _ = read_volume(template_path())
    brain = shrink(Volume((head.data > 0).astype(np.float32), head.affine), SPACING)
    near = ndimage.binary_dilation(brain.data > 0.3, iterations=round(4 / SPACING))
    return shrink(head, SPACING), Volume(near.astype(np.float32), brain.affine)


def _itk(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    image.SetSpacing(volume.spacing.tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((volume.affine[:3, :3] / volume.spacing).ravel().tolist())
    return image


def _ants(ants, volume: Volume):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fixed.nii"
        nib.save(nib.Nifti1Image(volume.data, volume.affine), path)
        return ants.image_read(str(path))


def _world(transform) -> np.ndarray:
    origin, *corners = (np.array(transform(point)) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist())
    world = np.eye(4)
    world[:3] = np.column_stack([(np.array(corners) - origin).T, origin])
    return world
