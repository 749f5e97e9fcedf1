"""The steps from a scan to an array, each against an oracle, and chunks as they are written."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from heads import pose, scanned
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tlimb.config import Recipe, SeriesRecipe
from tlimb.errors import InputError
from tlimb.preprocess.bias import correct_bias_field
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.grid import centred
from tlimb.preprocess.mask import EXTRACTOR, learned_mask
from tlimb.preprocess.quality import COLUMNS, dice
from tlimb.preprocess.recipe import KEYS, fingerprint, read_recipe
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.template import grid_shape, load_template
from tlimb.preprocess.volume import ScanError, Volume, read_volume, resample, sample, shrink
from tlimb.store import Store, write_shard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def template():
    return load_template(2.0)


@pytest.fixture
def volume():
    affine = np.array([[-1.5, 0.1, 0, 9], [0.1, 2, 0.2, -4], [0, -0.2, 1.2, 3], [0, 0, 0, 1]])
    return Volume(np.random.default_rng(0).random((9, 11, 10), np.float32), affine)


def recipe(**changes):
    return SimpleNamespace(**Recipe(**changes).model_dump())


def saved(image, path) -> Path:
    nib.save(image, path)
    return path


def scan_file(folder, seed, axes="RAS", kind="affine", **options):
    rng = np.random.default_rng(seed)
    world = pose(rng, kind=kind, **{key: options.pop(key) for key in ("degrees", "mm", "scale") if key in options})
    return saved(scanned(world, rng, axes, **options), folder / f"{seed}-{axes}.nii"), world


# Volumes


def test_shrinking_averages_whole_blocks_and_keeps_their_place(volume):
    small = shrink(volume, 4.1)
    assert small.data.shape == (3, 5, 3)
    np.testing.assert_allclose(small.data[2, 1, 0], volume.data[6:9, 2:4, 0:3].mean(), rtol=1e-6)
    np.testing.assert_allclose(small.affine @ [2, 1, 0, 1], volume.affine @ [7, 2.5, 1, 1])


def test_sampling_agrees_with_scipy(volume):
    index = np.random.default_rng(1).uniform(0, 8.9, (3, 500))
    values, inside = sample(volume, volume.affine[:3, :3] @ index + volume.affine[:3, 3:])
    expected = ndimage.map_coordinates(volume.data, index, order=1)
    np.testing.assert_allclose(values[inside], expected[inside], atol=1e-5)
    np.testing.assert_array_equal(inside, (index[0] < 8) & (index[1] < 10) & (index[2] < 9))


def test_resampling_agrees_with_scipy_and_is_nan_outside(volume):
    world = pose(np.random.default_rng(2), mm=1)
    grid = np.diag([1.0, 1.3, 0.9, 1])
    grid[:3, 3] = volume.affine[:3] @ [4.5, 5.5, 5, 1] - [4, 5, 4]
    found = resample(volume, world, grid, (9, 8, 10))
    index = np.linalg.inv(volume.affine) @ world @ grid
    expected = ndimage.affine_transform(volume.data, index[:3, :3], index[:3, 3], (9, 8, 10), order=1, cval=np.nan)
    there = np.isfinite(expected)
    assert there.any() and np.isnan(resample(volume, world, np.diag([99.0, 99, 99, 1]), (3, 3, 3))[2, 2, 2])
    np.testing.assert_allclose(found[there], expected[there], atol=1e-5)


@pytest.mark.parametrize(("kind", "order"), [("nearest", 0), ("linear", 1), ("bspline", 3)])
def test_each_interpolation_agrees_with_scipy(kind, order):
    smooth = ndimage.gaussian_filter(np.random.default_rng(3).random((30, 32, 28)), 1.0).astype(np.float32)
    shift = np.eye(4)
    shift[:3, 3] = [8.3, 7.8, 6.4]
    found = resample(Volume(smooth, np.eye(4)), shift, np.diag([0.9, 0.9, 0.9, 1]), (14, 16, 14), kind)
    index = 0.9 * np.indices((14, 16, 14)) + shift[:3, 3, None, None, None]
    expected = ndimage.map_coordinates(smooth, index, order=order, mode="mirror")
    np.testing.assert_allclose(found, expected, atol=1e-5 if order < 3 else 2e-3 * np.ptp(smooth))


def test_cubic_interpolation_does_not_overshoot():
    step = np.zeros((12, 12, 12), np.float32)
    step[6:] = 1
    found = resample(Volume(step, np.eye(4)), np.eye(4), np.diag([0.5, 1, 1, 1]), (22, 12, 12), "bspline")
    assert found.min() == 0 and found.max() == 1


@settings(max_examples=100, deadline=None)
@given(have=st.tuples(*[st.integers(1, 9)] * 3), want=st.tuples(*[st.integers(1, 9)] * 3))
def test_cropping_and_padding_keep_every_voxel_in_its_place(have, want):
    numbers = 1 + np.arange(np.prod(have), dtype=np.float32).reshape(have)
    affine = np.array([[2, 0.1, 0, -7], [0, 3, 0, 5], [0, 0.2, 1, 9], [0, 0, 0, 1]])
    found, inside = centred(Volume(numbers, affine), want)
    assert found.data.shape == want == inside.shape
    assert inside.sum() == np.prod(np.minimum(have, want)) and ((found.data > 0) == inside).all()
    for index in np.argwhere(inside):
        place = np.linalg.inv(affine) @ found.affine @ [*index, 1]
        assert found.data[tuple(index)] == numbers[tuple(np.round(place[:3]).astype(int))]
    gaps = np.abs(np.subtract(have, want))
    cropped_at, padded_at = np.linalg.solve(affine, found.affine[:, 3])[:3], np.argwhere(inside).min(0)
    starts = np.where(np.greater(have, want), cropped_at, padded_at)
    np.testing.assert_allclose(starts, gaps // 2, atol=1e-6)


@pytest.mark.parametrize("axes", ["LPS", "ASR", "SLP"])
def test_any_orientation_is_read_as_the_same_volume(tmp_path, volume, axes):
    plain = nib.Nifti1Image(volume.data, np.diag([2.0, 2, 2, 1]))
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(axes))
    read, warnings = read_volume(saved(plain.as_reoriented(turn), tmp_path / "x.nii"))
    np.testing.assert_array_equal(read.data, volume.data)
    np.testing.assert_allclose(read.affine, plain.affine)
    assert warnings == []


def test_scaled_integers_trailing_axes_and_nan_are_read(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    image = nib.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    read, _ = read_volume(saved(image, tmp_path / "x.nii.gz"))
    np.testing.assert_allclose(read.data, data[..., 0] * 0.5 - 3)
    values = np.ones((2, 3, 4), np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, 7
    read, warnings = read_volume(saved(nib.Nifti1Image(values, np.eye(4)), tmp_path / "y.nii"))
    assert read.data[0, 0, 0] == 0 and warnings == ["1 voxels are not finite, taken as 0"]


# The template


def test_the_grid_holds_the_brain_is_divisible_by_eight_and_centred_on_the_midline(template):
    assert template.shape == (80, 96, 80) == grid_shape(recipe())
    np.testing.assert_allclose((template.affine @ [39.5, 0, 0, 1])[0], 0)
    border = template.mask.copy()
    border[1:-1, 1:-1, 1:-1] = False
    assert not border.any()
    assert dice(template.mask, template.mask[::-1]) > 0.99
    assert 1.8e6 < template.mask.sum() * 8 < 2.0e6
    assert grid_shape(recipe(shape=[64, 72, 64])) == load_template(2.0, (64, 72, 64)).mask.shape == (64, 72, 64)


# One scan


def test_a_scan_becomes_float16_z_scores_in_the_brain_and_zero_outside(tmp_path, template):
    path, _ = scan_file(tmp_path, 10)
    array, quality, _ = preprocess_scan(path, None, recipe(), template)
    assert array.shape == template.shape and array.dtype == np.float16
    values = array[template.mask].astype(float)
    assert values.mean() == pytest.approx(0, abs=1e-3) and values.std() == pytest.approx(1, abs=1e-3)
    assert (array[~template.mask] == 0).all()
    assert quality["mask_overlap"] > 0.9 and quality["warnings"] == "" and 5 < quality["snr"] < 40


def test_left_stays_left(tmp_path, template):
    path, world = scan_file(tmp_path, 11, "LAS")
    image = nib.load(path)
    data = np.array(image.get_fdata(dtype=np.float32))
    spot = np.linalg.inv(image.affine) @ world @ [-40, -20, 20, 1]
    i, j, k = np.round(spot[:3]).astype(int)
    data[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] = 2500
    array, _, _ = preprocess_scan(saved(nib.Nifti1Image(data, image.affine), path), None, recipe(), template)
    brightest = template.affine @ [*np.unravel_index(np.argmax(array), array.shape), 1]
    assert np.linalg.norm(brightest[:3] - [-40, -20, 20]) < 8


def test_a_part_outside_of_the_image_is_zero_and_reported(tmp_path, template):
    path, _ = scan_file(tmp_path, 12, degrees=2, mm=2)
    image = nib.load(path)
    cut = image.slicer[:, :, 40:]
    array, quality, _ = preprocess_scan(saved(cut, tmp_path / "cut.nii"), None, recipe(), template)
    assert "of the brain lies outside of the image" in quality["warnings"]
    assert (array[:, :, :8] == 0).all() and array[:, :, 60].any()


def test_a_field_of_view_too_small_for_a_brain_is_refused(tmp_path):
    image = scanned(np.eye(4), np.random.default_rng(16)).slicer[:, :, 40:50]
    with pytest.raises(ScanError, match="192 x 224 x 20 mm is too small"):
        preprocess_scan(saved(image, tmp_path / "slab.nii"), None, recipe(), template_for(recipe()))


def test_the_scans_own_mask_and_no_mask(tmp_path, template):
    path, world = scan_file(tmp_path, 13)
    image = nib.load(path)
    index = np.indices(image.shape).reshape(3, -1)
    place = np.linalg.inv(world)[:3] @ image.affine @ np.vstack([index, np.ones(index.shape[1])])
    ball = (np.linalg.norm(place - [[0], [-20], [10]], axis=0) < 40).reshape(image.shape)
    mask = saved(nib.Nifti1Image(ball.astype(np.uint8), image.affine), tmp_path / "mask.nii")
    array, _, _ = preprocess_scan(path, mask, recipe(mask="own"), template)
    index = np.indices(template.shape).reshape(3, -1)
    grid = template.affine[:3, :3] @ index + template.affine[:3, 3:]
    expected = (np.linalg.norm(grid - [[0], [-20], [10]], axis=0) < 40).reshape(template.shape)
    assert dice(array != 0, expected) > 0.95
    with pytest.raises(ScanError, match="own mask"):
        preprocess_scan(path, None, recipe(mask="own"), template)
    whole, _, _ = preprocess_scan(path, None, recipe(mask="none"), template)
    assert (whole[~template.mask] != 0).mean() > 0.9


def test_without_registration_a_scan_keeps_its_place(tmp_path, template):
    image = scanned(np.eye(4), np.random.default_rng(14), noise=0.0)
    path = saved(image, tmp_path / "x.nii")
    array, quality, _ = preprocess_scan(path, None, recipe(registration="none"), template)
    index = np.linalg.inv(image.affine) @ template.affine
    expected = ndimage.affine_transform(image.get_fdata(), index[:3, :3], index[:3, 3], template.shape, order=1)
    values = expected[template.mask]
    np.testing.assert_allclose(array[template.mask], (values - values.mean()) / values.std(), atol=0.01)
    assert quality["displacement"] == 0


def test_the_bias_field_is_taken_out(tmp_path):
    image = scanned(np.eye(4), np.random.default_rng(15), scalp=False)
    slope = np.linspace(-0.35, 0.35, image.shape[1])[None, :, None]
    clean = Volume(image.get_fdata(dtype=np.float32), image.affine)
    seen = Volume((clean.data * (1 + slope)).astype(np.float32), image.affine)
    white = clean.data > 650

    def trend(data):
        gain = (data / clean.data)[white]
        return np.polyfit(np.nonzero(white)[1] / image.shape[1], gain / gain.mean(), 1)[0]

    assert abs(trend(correct_bias_field(seen).data)) < 0.4 * abs(trend(seen.data))


def other_anatomy(path, change) -> Path:
    image = nib.load(path)
    data = change(image.get_fdata(dtype=np.float32)).astype(np.float32)
    return saved(nib.Nifti1Image(data, image.affine), path.with_name("changed.nii"))


def test_an_offset_below_zero_changes_neither_the_scores_nor_what_stays_as_it_is(tmp_path, template):
    path, _ = scan_file(tmp_path, 30)
    lower = other_anatomy(path, lambda data: data - 1024)
    plain, quality, _ = preprocess_scan(path, None, recipe(), template)
    shifted, quality_below, _ = preprocess_scan(lower, None, recipe(), template)
    np.testing.assert_allclose(plain, shifted, atol=0.01)
    assert quality_below["metric"] == pytest.approx(quality["metric"], abs=1e-3)
    assert quality_below["snr"] == pytest.approx(quality["snr"], rel=0.01)
    for intensity, expected in (("minmax", plain), ("percentile", plain)):
        below, _, _ = preprocess_scan(lower, None, recipe(intensity=intensity), template)
        assert np.corrcoef(below[template.mask], expected[template.mask])[0, 1] > 0.98
    kept, _, _ = preprocess_scan(lower, None, recipe(intensity="none"), template)
    raw, _, _ = preprocess_scan(path, None, recipe(intensity="none"), template)
    inside = template.mask & (raw > 0)
    np.testing.assert_allclose(kept[inside], raw[inside].astype(float) - 1024, atol=1.5)


@pytest.mark.parametrize("resampling", ["linear", "bspline", "nearest"])
@pytest.mark.parametrize("registration", ["affine", "affine9", "similarity", "rigid", "none"])
def test_every_step_of_a_recipe_can_be_chosen(tmp_path, resampling, registration):
    chosen = {"resampling": resampling, "registration": registration, "intensity": "minmax"}
    steps = recipe(spacing=4.0, shape=[40, 48, 44], **chosen)
    image = saved(scanned(np.eye(4), np.random.default_rng(31), noise=0.01), tmp_path / "x.nii")
    array, quality, _ = preprocess_scan(image, None, steps, template_for(steps))
    assert array.shape == (40, 48, 44) and array.min() == 0 and array.max() == 1
    expected = load_template(4.0, (40, 48, 44))
    there = resample(read_volume(image)[0], np.eye(4), expected.affine, expected.shape)
    likeness = np.corrcoef(array[expected.mask], there[expected.mask])[0, 1]
    assert likeness > (0.8 if resampling == "nearest" else 0.95)
    assert set(COLUMNS) <= set(quality)


def test_a_mask_on_any_grid_is_placed_by_its_header(tmp_path, template):
    path, world = scan_file(tmp_path, 32, "LPS")
    image = nib.load(path)

    def ball(shape, affine):
        index = np.indices(shape).reshape(3, -1)
        place = np.linalg.inv(world)[:3] @ affine @ np.vstack([index, np.ones(index.shape[1])])
        inside = (np.linalg.norm(place - [[5], [-20], [10]], axis=0) < 42).reshape(shape)
        return nib.Nifti1Image(inside.astype(np.uint8), affine)

    coarse = np.array([[0, 3.0, 0, -100], [3, 0, 0, -120], [0, 0, 3.0, -90], [0, 0, 0, 1]])
    arrays = []
    for name, mask in (("own", ball(image.shape, image.affine)), ("other", ball((80, 70, 64), coarse))):
        array, quality, _ = preprocess_scan(path, saved(mask, tmp_path / f"{name}.nii"), recipe(mask="own"), template)
        arrays.append(array != 0)
        assert "mask" not in quality["warnings"]
    assert dice(*arrays) > 0.94
    away = ball(image.shape, image.affine)
    shifted = image.affine.copy()
    shifted[0, 3] += 9
    moved = saved(nib.Nifti1Image(away.dataobj, shifted), tmp_path / "a.nii")
    _, quality, _ = preprocess_scan(path, moved, recipe(mask="own"), template)
    assert "mask: as many voxels as the scan, but 9 mm away by its header" in quality["warnings"]


def test_the_digest_is_of_scan_and_mask_and_the_content_of_the_scan(tmp_path, template):
    path, _ = scan_file(tmp_path, 33)
    mask = other_anatomy(path, lambda data: data > 100)
    plain = preprocess_scan(path, None, recipe(), template)[1]
    zipped = saved(nib.load(path).as_reoriented([[1, -1], [0, 1], [2, 1]]), tmp_path / "z.nii.gz")
    again = preprocess_scan(zipped, None, recipe(), template)[1]
    masked = preprocess_scan(path, mask, recipe(mask="own"), template)[1]
    assert plain["digest"] != again["digest"] and plain["digest"] != masked["digest"]
    assert plain["content"] == again["content"] == masked["content"]


# Prepared scans

UNTOUCHED = {"resampling": "none", "registration": "none", "mask": "none", "intensity": "none"}


def prepared(folder, shape=(30, 36, 28), spacing=2.0, axes="RAS") -> tuple[Path, np.ndarray]:
    data = np.random.default_rng(40).normal(0, 1, shape).astype(np.float32)
    affine = np.diag([spacing, 2.0, 2.0, 1])
    image = nib.Nifti1Image(data, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    return saved(image.as_reoriented(turn), folder / "x.nii.gz"), data


def test_prepared_scans_pass_through_exactly(tmp_path):
    path, data = prepared(tmp_path, axes="LSP")
    array, quality, _ = preprocess_scan(path, None, recipe(shape=[30, 36, 28], **UNTOUCHED), None)
    np.testing.assert_array_equal(array, data.astype(np.float16))
    assert quality["metric"] is quality["mask_overlap"] is quality["displacement"] is None
    as_stored, _, _ = preprocess_scan(path, None, recipe(shape=[30, 28, 36], orientation=False, **UNTOUCHED), None)
    np.testing.assert_array_equal(as_stored, nib.load(path).get_fdata().astype(np.float16))


def test_prepared_scans_are_cropped_and_padded_about_their_centre(tmp_path):
    path, data = prepared(tmp_path)
    array, _, _ = preprocess_scan(path, None, recipe(shape=[20, 40, 28], **UNTOUCHED), None)
    expected = np.zeros((20, 40, 28), np.float16)
    expected[:, 2:38] = data[5:25]
    np.testing.assert_array_equal(array, expected)


def test_prepared_scans_take_the_steps_that_are_asked_for(tmp_path):
    path, data = prepared(tmp_path)
    mask = np.zeros(data.shape, np.uint8)
    mask[4:20, 3:30, 5:25] = 1
    own = saved(nib.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])), tmp_path / "mask.nii")
    steps = recipe(shape=[30, 36, 28], **UNTOUCHED | {"mask": "own", "intensity": "zscore"})
    array, _, _ = preprocess_scan(path, own, steps, None)
    values = data[mask > 0].astype(float)
    np.testing.assert_allclose(array[mask > 0], (values - values.mean()) / values.std(), atol=2e-3)
    assert (array[mask == 0] == 0).all()


def test_prepared_scans_of_other_voxels_are_refused(tmp_path):
    steps = recipe(shape=[30, 36, 28], **UNTOUCHED)
    path, _ = prepared(tmp_path, spacing=2.1)
    with pytest.raises(ScanError, match="voxels of 2.1 x 2 x 2 mm; .* must be those of the recipe, 2 mm"):
        preprocess_scan(path, None, steps, None)
    path, _ = prepared(tmp_path, spacing=2.03)
    assert preprocess_scan(path, None, steps, None)[0].any()


# The learned extractor


def test_a_learned_mask_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, EXTRACTOR, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    steps = recipe(mask="learned")
    with pytest.raises(InputError, match=r"'learned' needs the package deepbet.*pip install 'tlimb\[learned-mask\]'"):
        preprocess_chunk({"chunk": "all", "scans": []}, steps, tmp_path)


@pytest.mark.long
def test_the_learned_mask_is_the_brain(tmp_path, template):
    pytest.importorskip(EXTRACTOR)
    path, world = scan_file(tmp_path, 34, "LSA")
    found = learned_mask(read_volume(path)[0])
    placed = resample(found, world, template.affine, template.shape, "nearest") > 0.5
    assert dice(placed, template.mask) > 0.95
    array, quality, _ = preprocess_scan(path, None, recipe(mask="learned"), template)
    assert dice(array != 0, template.mask) > 0.95 and quality["warnings"] == ""
    with pytest.raises(ScanError, match="found no brain"):
        learned_mask(Volume(np.zeros((40, 40, 40), np.float32), np.diag([4.0, 4, 4, 1])))


# A chunk


@pytest.fixture
def chunk(tmp_path):
    scans = []
    masks = count(1)
    for number in range(1, 6):
        folder = tmp_path / "images" / str(number)
        folder.mkdir(parents=True)
        if number == 2:
            (folder / "broken.nii.gz").write_bytes(b"\x1f\x8b nonsense")
        elif number == 4:
            saved(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), folder / "empty.nii")
        else:
            path, _ = scan_file(folder, 20 + number, shape=(80, 96, 80), voxel=2.4)
            place = tmp_path / "masks" / str(next(masks))
            place.mkdir(parents=True)
            whole = nib.load(path)
            bright = (whole.get_fdata() > 100 * number).astype(np.uint8)
            saved(nib.Nifti1Image(bright, whole.affine), place / "mask.nii")
        scan = {"scan_id": f"c/s{9 - number}/1/T1w", "modality": "T1w", "image": "/somewhere", "confounds": None}
        scans.append(scan | {"mask": None if number in (2, 4) else "/mask"})
    return {"chunk": "all", "scans": scans}


def test_failing_scans_are_recorded_and_threads_do_not_matter(tmp_path, chunk):
    array, index, header, montages = preprocess_chunk(chunk, recipe(), tmp_path / "images")
    again, index_again, _, montages_again = preprocess_chunk(chunk, recipe(), tmp_path / "images", threads=2)
    np.testing.assert_array_equal(array, again)
    assert index == index_again and montages == montages_again
    assert [row["scan_id"] for row in index] == sorted(row["scan_id"] for row in index)
    assert [row["row"] for row in index] == [0, -1, 1, -1, 2]
    assert "damaged" in index[3]["reason"] and index[1]["reason"] == "empty image: every voxel is 0"
    assert header["n"] == 3 == len(array)
    assert [montage["scan_id"] for montage in montages] == ["c/s4/1/T1w", "c/s6/1/T1w", "c/s8/1/T1w"]
    last = next((tmp_path / "images" / "5").iterdir())
    single, quality, picture = preprocess_scan(last, None, recipe(), template_for(recipe()))
    np.testing.assert_array_equal(array[0], single)
    assert index[0]["metric"] == quality["metric"] and montages[0]["image"] == picture


def test_masks_are_counted_among_the_scans_that_have_one(tmp_path, chunk):
    array, _, _, _ = preprocess_chunk(chunk, recipe(mask="own"), tmp_path / "images", masks=tmp_path / "masks")
    for row, number in enumerate((5, 3, 1)):
        image = next((tmp_path / "images" / str(number)).iterdir())
        mask = saved(nib.load(tmp_path / "masks" / str((number + 1) // 2) / "mask.nii"), tmp_path / "own.nii")
        single, _, _ = preprocess_scan(image, mask, recipe(mask="own"), template_for(recipe()))
        np.testing.assert_array_equal(array[row], single)


def test_the_array_of_a_chunk_is_on_disk(tmp_path, chunk):
    steps = recipe(spacing=8.0)
    array, index, header, montages = preprocess_chunk(chunk, steps, tmp_path / "images", scratch=tmp_path)
    assert isinstance(array, np.memmap) and array.dtype == np.float16
    write_shard(tmp_path / "store", "all", array, index, header, montages)
    kept = np.array(array)
    del array
    np.testing.assert_array_equal(np.load(tmp_path / "store" / "shard-all.npy"), kept)
    scans = [row["scan_id"] for row in index if row["status"] == "ok"]
    np.testing.assert_array_equal(Store(tmp_path / "store").gather(scans[::-1]), kept[::-1])
    table = pd.read_parquet(tmp_path / "store" / "shard-all.montage.parquet")
    assert table["scan_id"].tolist() == scans and all(image.startswith(b"\x89PNG") for image in table["image"])


def test_the_command_writes_a_shard_as_the_contract_says(tmp_path, chunk):
    (tmp_path / "chunk.json").write_text(json.dumps(chunk))
    (tmp_path / "recipe.json").write_text(Recipe(spacing=4.0).model_dump_json())
    command = [sys.executable, ROOT / "bin" / "tlimb_preprocess.py", "--chunk", tmp_path / "chunk.json"]
    command += ["--recipe", tmp_path / "recipe.json", "--images", tmp_path / "images", "--masks", tmp_path / "masks"]
    command += ["--threads", "2", "--out", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, check=True
    )
    assert "c/s7/1/T1w: damaged" in done.stderr
    check_table("shard", pd.read_parquet(tmp_path / "out" / "shard-all.parquet"))
    check_json("shard", json.loads((tmp_path / "out" / "shard-all.json").read_text()))
    assert np.load(tmp_path / "out" / "shard-all.npy", mmap_mode="r").shape == (3, 40, 48, 40)
    names = [f"shard-all.{suffix}" for suffix in ("json", "montage.parquet", "npy", "parquet")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


# Recipes


def series(**changes) -> SimpleNamespace:
    return SimpleNamespace(**SeriesRecipe(kind="series", **changes).model_dump())


def test_the_fingerprint_changes_with_every_setting_and_with_nothing_else():
    changes = [{}, {"spacing": 1.0}, {"shape": [80, 96, 88]}, {"bias_field": True}, {"registration": "rigid"}]
    changes += [{"resampling": "nearest"}, {"mask": "none"}, {"intensity": "none"}, {"percentiles": [2.0, 99.0]}]
    changes += [UNTOUCHED | {"shape": [8, 8, 8]}, UNTOUCHED | {"shape": [8, 8, 8], "orientation": False}]
    assert len({fingerprint(recipe(**change)) for change in changes}) == len(changes)
    same = vars(recipe()) | {"spacing": 2, "percentiles": (1, 99), "shape": None}
    assert fingerprint(SimpleNamespace(**same)) == fingerprint(Recipe())


def test_the_fingerprint_of_series_holds_the_atlas_and_not_its_path():
    assert fingerprint(series(atlas="/here/a.nii"), "0f") == fingerprint(series(atlas="/there/a.nii"), "0f")
    changes = [{}, {"timepoints": 50}, {"tr": 2.0}, {"detrend": False}, {"band_pass": [0.01, 0.1]}]
    changes += [{"confounds": ["csf"]}, {"standardise": "none"}]
    prints = {fingerprint(series(**change), digest) for change in changes for digest in ("0f", "1e")}
    assert len(prints) == 2 * len(changes)


def test_the_settings_are_those_of_a_sweep(tmp_path):
    path = tmp_path / "recipe.json"
    for settings_of_a_sweep in (Recipe(), SeriesRecipe(kind="series")):
        assert KEYS[settings_of_a_sweep.kind] == tuple(type(settings_of_a_sweep).model_fields)
        path.write_text(settings_of_a_sweep.model_dump_json())
        assert vars(read_recipe(path)) == settings_of_a_sweep.model_dump()


def test_a_recipe_that_lacks_a_setting_or_has_an_unknown_one_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(Recipe().model_dump(exclude={"mask"}) | {"spacin": 2}))
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert len(error.value.problems) == 2 and "did you mean 'spacing'" in str(error.value)
    path.write_text(json.dumps({"kind": "movie"}))
    with pytest.raises(InputError, match="kind: expected volume or series, found 'movie'"):
        read_recipe(path)
