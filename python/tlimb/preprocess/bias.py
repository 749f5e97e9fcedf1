"""Correction of the receive field's slow change of brightness over a scan."""

import numpy as np
import SimpleITK as sitk

from tlimb.preprocess.volume import ScanError, Volume, shrink

SPACING = 8.0  # mm at which the field is estimated
ITERATIONS = [50, 50]


def correct_bias_field(scan: Volume) -> Volume:
    """The scan divided by its bias field as N4 finds it.

    v = u f with u the true image and f smooth; N4 sharpens the histogram of log v and fits B-splines to what that takes
    away (Tustison et al., IEEE Trans. Med. Imaging 29, 2010, https://doi.org/10.1109/TMI.2010.2046908). Estimated at
    8 mm on the foreground and interpolated between. Intensities must not be negative: see `lifted`.
    Raises ScanError where N4 finds no foreground or the image is flat along an axis.
    """
    small = shrink(scan, SPACING)
    factors = np.round(small.spacing / scan.spacing)
    image = _placed(small.data, factors, (factors - 1) / 2)
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(ITERATIONS)
    try:
        correction.Execute(image + 1e-6 * float(small.data.max()), sitk.OtsuThreshold(image, 0, 1))
    except RuntimeError as error:
        raise ScanError(f"bias field correction failed: {str(error).splitlines()[-1]}") from None
    full = _placed(scan.data, np.ones(3), np.zeros(3))
    resampling = sitk.ResampleImageFilter()
    resampling.SetReferenceImage(full)
    resampling.UseNearestNeighborExtrapolatorOn()
    field = resampling.Execute(correction.GetLogBiasFieldAsImage(image))
    return Volume(scan.data / np.exp(sitk.GetArrayFromImage(field).T).astype(np.float32), scan.affine)


def _placed(data: np.ndarray, spacing: np.ndarray, origin: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    return image
