"""Intensities on one scale: against the formulas written out in NumPy, fitted on training scans alone."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlimb.data.normalise import DatasetZScore, HistogramStandardisation, build_normaliser, fit_normaliser, landmarks
from tlimb.errors import InputError

DECILES = [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]


def scans(n: int, seed: int = 0) -> np.ndarray:
    """Images (n, 1, 8, 9, 10) of different brightness and contrast, a third of each background."""
    random = np.random.default_rng(seed)
    contrast, brightness = random.uniform(0.5, 2, (n, 1, 1, 1, 1)), random.uniform(-1, 0, (n, 1, 1, 1, 1))
    images = random.gamma(2.0, size=(n, 1, 8, 9, 10)) * contrast + brightness
    images[:, :, :3] = 0
    return images.astype("float16")


def foreground(image) -> np.ndarray:
    return image[image != 0].astype("float64")


@given(st.lists(st.floats(-1000, 1000, width=16), min_size=1, max_size=60))
def test_landmarks_by_counting_are_numpys_percentiles(values):
    image = np.array(values, dtype="float16")
    known = foreground(image)
    if len(known) == 0:
        assert landmarks(image, DECILES) is None
    else:
        np.testing.assert_allclose(landmarks(image, DECILES), np.percentile(known, DECILES), rtol=1e-12, atol=1e-9)


def standard_of(images) -> np.ndarray:
    """Nyul and Udupa's standard landmarks on the scale 0 to 1, one image at a time."""
    mapped = []
    for image in images:
        marks = np.percentile(foreground(image), DECILES)
        mapped.append([(mark - marks[0]) / (marks[-1] - marks[0]) for mark in marks])
    return np.mean(mapped, axis=0)


def mapped_by_hand(image, standard) -> np.ndarray:
    """The piecewise linear map, one foreground voxel at a time."""
    marks = np.percentile(foreground(image), DECILES)
    values = []
    for voxel in foreground(image):
        piece = min(max(sum(voxel >= mark for mark in marks) - 1, 0), len(marks) - 2)
        slope = (standard[piece + 1] - standard[piece]) / (marks[piece + 1] - marks[piece])
        values.append(standard[piece] + slope * (voxel - marks[piece]))
    return np.array(values)


def test_histogram_standardisation_is_the_papers():
    images = scans(5)
    normaliser = HistogramStandardisation()
    normaliser.fit([images[:3], images[3:]])
    np.testing.assert_allclose(normaliser.fitted["landmarks"], standard_of(images), rtol=1e-12)
    for image, found in zip(scans(2, seed=9), normaliser(scans(2, seed=9))):
        np.testing.assert_allclose(found[image != 0], mapped_by_hand(image, standard_of(images)), rtol=1e-4, atol=1e-5)
        assert not found[image == 0].any()


def test_a_standardised_image_has_the_standard_landmarks_whatever_its_brightness():
    images = scans(6)
    normaliser = HistogramStandardisation(scale=[0, 100])
    normaliser.fit([images])
    for image in normaliser(scans(3, seed=4)):
        found = np.percentile(foreground(image), DECILES)
        np.testing.assert_allclose(found, normaliser.fitted["landmarks"], rtol=0.02, atol=0.3)


def test_standardising_undoes_a_linear_change_of_intensities():
    image = np.arange(1, 513, dtype="float16").reshape(1, 1, 8, 8, 8)
    normaliser = HistogramStandardisation()
    normaliser.fit([image])
    np.testing.assert_allclose(normaliser(image * 2), normaliser(image), rtol=1e-6)


def test_images_without_contrast_stay_finite():
    normaliser = HistogramStandardisation()
    normaliser.fit([scans(2), np.zeros((1, 1, 8, 9, 10), "float16")])
    flat = np.stack([np.zeros((1, 4, 4)), np.full((1, 4, 4), 3.0)]).astype("float16")
    found = normaliser(flat)
    assert np.isfinite(found).all() and not found[0].any()
    with pytest.raises(InputError, match="no training scan has landmarks that differ"):
        HistogramStandardisation().fit([flat])


def test_the_dataset_z_score_is_that_of_all_training_voxels():
    images = scans(4)
    normaliser = DatasetZScore()
    normaliser.fit([images[:1], images[1:]])
    known = foreground(images)
    assert normaliser.fitted == {"mean": pytest.approx(known.mean()), "sd": pytest.approx(known.std())}
    other = scans(1, seed=3)
    expected = np.where(other == 0, 0, (other.astype("float64") - known.mean()) / known.std())
    np.testing.assert_allclose(normaliser(other), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="no two different intensities"):
        DatasetZScore().fit([np.ones((2, 1, 3, 3), "float16")])


def test_what_was_fitted_comes_back_from_json():
    spec = {"class_path": "HistogramStandardisation", "init_args": {"percentiles": [2.0, 98.0]}}
    saved = json.loads(json.dumps(fit_normaliser(spec, None, lambda: [scans(3)])))
    assert len(saved["fitted"]["landmarks"]) == 11
    fresh = HistogramStandardisation(percentiles=[2.0, 98.0])
    fresh.fit([scans(3)])
    assert np.array_equal(build_normaliser(saved)(scans(1, seed=2)), fresh(scans(1, seed=2)))


def test_the_encoders_scale_is_kept_unless_asked_otherwise():
    spec = {"class_path": "DatasetZScore", "init_args": {}}
    path = {"class_path": "tlimb.data.normalise.DatasetZScore", "init_args": {}, "fitted": {"mean": 1.0, "sd": 2.0}}
    other = {"class_path": "HistogramStandardisation", "init_args": {}, "fitted": {"landmarks": []}}
    refit = spec | {"init_args": {"refit": True}}
    pairs = [(spec, path), (spec, other), (refit, path)]
    found = [fit_normaliser(*pair, lambda: [scans(2)])["fitted"] for pair in pairs]
    own = fit_normaliser(spec, None, lambda: [scans(2)])["fitted"]
    assert found == [path["fitted"], own, own]


@pytest.mark.parametrize(
    "arguments", [{"percentiles": [99.0, 1.0]}, {"percentiles": [-1.0, 50.0]}, {"scale": [1.0, 0.0]}]
)
def test_impossible_scales_are_refused(arguments):
    with pytest.raises(InputError):
        HistogramStandardisation(**arguments)
