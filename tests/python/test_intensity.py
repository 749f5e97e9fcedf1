"""Intensities against their closed forms, and what holds for any values."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tlimb.preprocess.intensity import minmax, percentile, require_contrast, rescaled, stored, zscore
from tlimb.preprocess.nifti import ScanError

BRAIN = np.zeros((6, 7, 8), bool)
BRAIN[1:6, 1:6, 1:7] = True
KINDS = ("zscore", "minmax", "percentile", "none")


def recipe(intensity: str, percentiles=(1.0, 99.0)) -> SimpleNamespace:
    return SimpleNamespace(intensity=intensity, percentiles=list(percentiles))


def ramp() -> np.ndarray:
    """0 to 149 in the brain, -77 outside of it."""
    values = np.full(BRAIN.shape, -77, np.float32)
    values[BRAIN] = np.arange(BRAIN.sum())
    return values


def test_zscores_of_a_ramp():
    values, warnings = rescaled(ramp(), BRAIN, recipe("zscore"))
    expected = (np.arange(150) - 74.5) / np.sqrt((150**2 - 1) / 12)
    np.testing.assert_allclose(values[BRAIN], expected, rtol=2**-11)
    assert warnings == [] and (values[~BRAIN] == 0).all() and values.dtype == np.float16


def test_minmax_of_a_ramp():
    values, _ = rescaled(ramp(), BRAIN, recipe("minmax"))
    np.testing.assert_allclose(values[BRAIN], np.arange(150) / 149, rtol=2**-11)


def test_percentiles_of_a_ramp_cut_its_ends():
    values, _ = rescaled(ramp(), BRAIN, recipe("percentile", (10, 80)))
    low, high = 14.9, 119.2
    np.testing.assert_allclose(values[BRAIN], np.clip((np.arange(150) - low) / (high - low), 0, 1), atol=2**-11)
    assert (values[BRAIN][:15] == 0).all() and (values[BRAIN][120:] == 1).all()


def test_none_keeps_the_values():
    values, _ = rescaled(ramp(), BRAIN, recipe("none"))
    np.testing.assert_array_equal(values[BRAIN], np.arange(150))


def test_the_whole_range_as_percentiles_is_minmax():
    np.testing.assert_allclose(percentile(ramp(), BRAIN, 0, 100)[BRAIN], minmax(ramp(), BRAIN)[BRAIN], atol=1e-6)


VALUES = arrays(np.float32, BRAIN.shape, elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False))


@settings(max_examples=150, deadline=None)
@given(values=VALUES, kind=st.sampled_from(KINDS))
def test_any_values_become_finite_numbers_of_the_scale_or_a_reason(values, kind):
    values[1, 1, 1], values[1, 1, 2] = 1, 2
    try:
        require_contrast(values, BRAIN)
        found, _ = rescaled(values, BRAIN, recipe(kind))
    except ScanError as error:
        assert kind in ("none", "percentile") and str(error)
        return
    inside = found[BRAIN].astype(float)
    assert np.isfinite(found).all() and (found[~BRAIN] == 0).all()
    if kind == "zscore":
        assert abs(inside.mean()) < 0.02 and inside.std() == pytest.approx(1, abs=0.02)
    elif kind != "none":
        assert inside.min() >= 0 and inside.max() <= 1
    if kind == "minmax":
        assert inside.min() == 0 and inside.max() == 1


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float32, BRAIN.shape, elements=st.integers(0, 4000)),
    scale=st.floats(0.01, 50),
    shift=st.floats(-2000, 2000),
    kind=st.sampled_from(["zscore", "minmax", "percentile"]),
)
def test_scale_and_offset_of_a_scan_do_not_matter(values, scale, shift, kind):
    values[1, 1, 1:7] = [0, 1, 2, 3, 4, 4000]
    try:
        one, _ = rescaled(values, BRAIN, recipe(kind, (5, 95)))
    except ScanError:
        return
    other, _ = rescaled((values * scale + shift).astype(np.float32), BRAIN, recipe(kind, (5, 95)))
    spread = float(np.ptp(np.percentile(values[BRAIN], [5, 95])))
    np.testing.assert_allclose(one, other, atol=0.01 if spread > 20 else 1)


@settings(max_examples=60, deadline=None)
@given(values=VALUES, kind=st.sampled_from(KINDS), outside=st.floats(-1e6, 1e6, width=32))
def test_what_lies_outside_of_the_brain_does_not_matter(values, kind, outside):
    values[1, 1, 1], values[1, 1, 2] = 1, 2
    other = np.where(BRAIN, values, np.float32(outside))
    try:
        one, _ = rescaled(values, BRAIN, recipe(kind))
    except ScanError:
        return
    np.testing.assert_array_equal(one, rescaled(other, BRAIN, recipe(kind))[0])


def test_a_constant_brain_and_one_outside_of_the_image_are_refused():
    with pytest.raises(ScanError, match="same value"):
        require_contrast(np.full(BRAIN.shape, 5, np.float32), BRAIN)
    with pytest.raises(ScanError, match="only 99 voxels"):
        require_contrast(ramp(), BRAIN & (np.cumsum(BRAIN).reshape(BRAIN.shape) <= 99))
    with pytest.raises(ScanError, match="same value"):
        zscore(np.full(BRAIN.shape, 5, np.float32), BRAIN)
    mostly = np.full(BRAIN.shape, 5, np.float32)
    mostly[2, 2, 2] = 9
    with pytest.raises(ScanError, match="no range: 5 to 5"):
        percentile(mostly, BRAIN, 1, 99)


def test_values_that_float16_cannot_hold_are_cut_or_refused():
    brain = np.ones((12, 12, 12), bool)
    values = np.full(brain.shape, 1000, np.float32)
    values[0, 0, 0] = 1e6
    found, warnings = stored(values, brain)
    assert found[0, 0, 0] == 65504 and warnings == ["1 voxels beyond 65504 were cut to it"]
    with pytest.raises(ScanError, match=r"values up to 1e\+09 are more than a store holds"):
        stored(values * 1000, brain)
    with pytest.raises(ScanError, match="too small"):
        stored(values * np.float32(1e-12), brain)
