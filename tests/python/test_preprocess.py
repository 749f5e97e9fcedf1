import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from heads import distance, pose, scanned
from scipy import ndimage

from tlimb.config import Recipe
from tlimb.errors import InputError
from tlimb.preprocess.bias import correct_bias_field
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.quality import dice, signal_to_noise
from tlimb.preprocess.recipe import KEYS, fingerprint, read_recipe
from tlimb.preprocess.register import mutual_information, register
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.template import grid_shape, load_template
from tlimb.preprocess.volume import ScanError, Volume, read_volume, resample, sample, shrink

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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.full((4, 4, 4), 7.0), "every voxel is 7"),
        (np.full((4, 4, 4), np.nan), "no voxel is finite"),
        (np.ones((4, 4, 4, 2)), "not a 3D image"),
    ],
)
def test_an_image_without_content_is_refused_with_the_reason(tmp_path, data, reason):
    with pytest.raises(ScanError, match=reason):
        read_volume(saved(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / "x.nii"))


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


def test_the_jacobian_of_a_level_is_the_change_of_the_image_with_each_parameter(template):
    level = template.levels[1]
    low = level.points.min(1, keepdims=True) - level.spacing
    place = np.round((level.points - low) / level.spacing).astype(int)
    image, known = np.zeros(place.max(1) + 2, np.float32), np.zeros(place.max(1) + 2, bool)
    image[tuple(place)], known[tuple(place)] = level.values, True
    surrounded = ndimage.binary_erosion(known)[tuple(place)]
    affine = np.diag([level.spacing, level.spacing, level.spacing, 1.0])
    affine[:3, 3:] = low
    points, centred = level.points[:, surrounded], (level.points - level.centre)[:, surrounded]
    for parameter in range(12):
        step = 0.5 * (np.arange(12) == parameter)
        shift = step[:9].reshape(3, 3) / 50 @ centred + step[9:, None]
        above, below = (sample(Volume(image, affine), points + side)[0] for side in (shift, -shift))
        np.testing.assert_allclose(above - below, level.jacobian[surrounded, parameter], atol=1e-4)


# Registration


@pytest.mark.parametrize(("seed", "axes"), [(0, "RAS"), (1, "LPS"), (2, "ASL"), (3, "IRP")])
def test_a_known_affine_is_recovered(tmp_path, template, seed, axes):
    path, world = scan_file(tmp_path, seed, axes, scalp=seed % 2 == 0)
    found = register(read_volume(path)[0], template, "affine")
    errors = distance(found.world, world, template.brain)
    assert np.median(errors) < 0.6 and errors.max() < 1.5
    assert found.metric < -0.9


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_a_transform_of_fewer_parameters_is_recovered_and_stays_of_its_kind(tmp_path, template, kind):
    path, world = scan_file(tmp_path, 4, "RPS", kind=kind)
    found = register(read_volume(path)[0], template, kind)
    assert np.median(distance(found.world, world, template.brain)) < 0.6
    gram = found.world[:3, :3].T @ found.world[:3, :3]
    np.testing.assert_allclose(gram / (1 if kind == "rigid" else gram[0, 0]), np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("contrast", "limit"),
    [(lambda v: v**0.5, 0.6), (lambda v: v**2, 0.6), (lambda v: np.where(v > 0.1, 1.5 - v, 0), 2.0)],
    ids=["brightened", "darkened", "reversed"],
)
def test_contrast_does_not_matter_much(tmp_path, template, contrast, limit):
    path, world = scan_file(tmp_path, 5, noise=0.01)
    image = nib.load(path)
    changed = Volume(contrast(image.get_fdata() / 1000).astype(np.float32), image.affine)
    assert np.median(distance(register(changed, template, "affine").world, world, template.brain)) < limit


def test_a_tilted_head_far_from_the_centre_is_still_found(tmp_path, template):
    path, world = scan_file(tmp_path, 6, degrees=25, mm=25, shape=(128, 128, 128))
    assert np.median(distance(register(read_volume(path)[0], template, "affine").world, world, template.brain)) < 0.6


@pytest.mark.parametrize(("kind", "size"), [("affine", 0.9), ("affine", 0.82), ("similarity", 0.86)])
def test_a_small_head_is_not_stretched_until_its_scalp_lies_on_the_brain(template, kind, size):
    rng = np.random.default_rng(17)
    world = pose(rng, scale=0) @ np.diag([size, size, size, 1])
    image = scanned(world, rng)
    scan = Volume(image.get_fdata(dtype=np.float32), image.affine)
    assert np.median(distance(register(scan, template, kind).world, world, template.brain)) < 0.6


def test_registration_from_a_pose_out_of_reach_is_flagged(tmp_path, template):
    world = np.diag([-1.0, -1, 1, 1])
    world[:3, :3] = world[:3, :3] @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    rng = np.random.default_rng(7)
    path = saved(scanned(world, rng, shape=(120, 120, 120)), tmp_path / "x.nii")
    _, quality = preprocess_scan(path, None, recipe(), template)
    assert "registration doubtful" in quality["warnings"]


def test_displacement_is_what_registration_adds_to_aligning_the_centres(tmp_path, template):
    shifted, _ = scan_file(tmp_path, 8, degrees=0, mm=10, scale=0, scalp=False)
    turned, world = scan_file(tmp_path, 9, degrees=12, mm=0, scale=0, scalp=False)
    assert register(read_volume(shifted)[0], template, "affine").displacement < 2
    expected = distance(world, np.eye(4), template.brain).mean()
    assert register(read_volume(turned)[0], template, "affine").displacement == pytest.approx(expected, abs=2)


def test_mutual_information_is_the_sum_of_entropies_less_the_joint_entropy():
    rng = np.random.default_rng(0)
    a = rng.random(4000)
    b = np.clip(a + 0.1 * rng.standard_normal(4000), 0, 1)

    def entropy(*variables):
        counts = np.unique(np.stack([np.floor(v * 7 + 0.5) for v in variables]), axis=1, return_counts=True)[1] / 4000
        return -(counts * np.log(counts)).sum()

    assert mutual_information(a, b, bins=8) == pytest.approx(entropy(a) + entropy(b) - entropy(a, b))
    assert mutual_information(a, rng.random(4000), bins=8) < 0.02


# One scan


def test_a_scan_becomes_float16_z_scores_in_the_brain_and_zero_outside(tmp_path, template):
    path, _ = scan_file(tmp_path, 10)
    array, quality = preprocess_scan(path, None, recipe(), template)
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
    array, _ = preprocess_scan(saved(nib.Nifti1Image(data, image.affine), path), None, recipe(), template)
    brightest = template.affine @ [*np.unravel_index(np.argmax(array), array.shape), 1]
    assert np.linalg.norm(brightest[:3] - [-40, -20, 20]) < 8


def test_a_part_outside_of_the_image_is_zero_and_reported(tmp_path, template):
    path, _ = scan_file(tmp_path, 12, degrees=2, mm=2)
    image = nib.load(path)
    cut = image.slicer[:, :, 40:]
    array, quality = preprocess_scan(saved(cut, tmp_path / "cut.nii"), None, recipe(), template)
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
    array, _ = preprocess_scan(path, mask, recipe(mask="own"), template)
    index = np.indices(template.shape).reshape(3, -1)
    grid = template.affine[:3, :3] @ index + template.affine[:3, 3:]
    expected = (np.linalg.norm(grid - [[0], [-20], [10]], axis=0) < 40).reshape(template.shape)
    assert dice(array != 0, expected) > 0.95
    with pytest.raises(ScanError, match="own mask"):
        preprocess_scan(path, None, recipe(mask="own"), template)
    whole, _ = preprocess_scan(path, None, recipe(mask="none"), template)
    assert (whole[~template.mask] != 0).mean() > 0.9


def test_without_registration_a_scan_keeps_its_place(tmp_path, template):
    image = scanned(np.eye(4), np.random.default_rng(14), noise=0.0)
    path = saved(image, tmp_path / "x.nii")
    array, quality = preprocess_scan(path, None, recipe(registration="none"), template)
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


def test_background_gives_the_signal_to_noise_ratio():
    data = np.random.default_rng(0).normal(0, 5, (40, 40, 40)).astype(np.float32)
    data[10:30, 10:30, 10:30] = 100
    assert signal_to_noise(Volume(data, np.eye(4)), 100.0) == pytest.approx(20, rel=0.2)
    assert signal_to_noise(Volume(np.where(data == 100, data, 0), np.eye(4)), 100.0) is None


# A chunk


@pytest.fixture
def chunk(tmp_path):
    scans = []
    for number in range(1, 6):
        folder = tmp_path / "images" / str(number)
        folder.mkdir(parents=True)
        if number == 2:
            (folder / "broken.nii.gz").write_bytes(b"\x1f\x8b nonsense")
        elif number == 4:
            saved(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), folder / "empty.nii")
        else:
            scan_file(folder, 20 + number, shape=(80, 96, 80), voxel=2.4)
        scans.append({"scan_id": f"c/s{9 - number}/1/T1w", "image": "/somewhere", "mask": None})
    return {"chunk": "all", "scans": scans}


def test_failing_scans_are_recorded_and_threads_do_not_matter(tmp_path, chunk):
    array, index, header = preprocess_chunk(chunk, recipe(), tmp_path / "images", None, 1)
    again, index_again, _ = preprocess_chunk(chunk, recipe(), tmp_path / "images", None, 2)
    np.testing.assert_array_equal(array, again)
    assert index == index_again
    assert [row["scan_id"] for row in index] == sorted(row["scan_id"] for row in index)
    assert [row["row"] for row in index] == [0, -1, 1, -1, 2]
    assert "cannot be read" in index[3]["reason"] and index[1]["reason"] == "empty image: every voxel is 0"
    assert header["n"] == 3 == len(array)
    last = next((tmp_path / "images" / "5").iterdir())
    single, quality = preprocess_scan(last, None, recipe(), template_for(recipe()))
    np.testing.assert_array_equal(array[0], single)
    assert index[0]["metric"] == quality["metric"]


def test_the_command_writes_a_shard_as_the_contract_says(tmp_path, chunk):
    (tmp_path / "chunk.json").write_text(json.dumps(chunk))
    (tmp_path / "recipe.json").write_text(Recipe(spacing=4.0).model_dump_json())
    command = [sys.executable, ROOT / "bin" / "tlimb_preprocess.py", "--chunk", tmp_path / "chunk.json"]
    command += ["--recipe", tmp_path / "recipe.json", "--images", tmp_path / "images"]
    command += ["--threads", "2", "--out", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, check=True
    )
    assert "c/s7/1/T1w: cannot be read" in done.stderr
    check_table("shard", pd.read_parquet(tmp_path / "out" / "shard-all.parquet"))
    check_json("shard", json.loads((tmp_path / "out" / "shard-all.json").read_text()))
    assert np.load(tmp_path / "out" / "shard-all.npy", mmap_mode="r").shape == (3, 40, 48, 40)


# Recipes


def test_the_fingerprint_changes_with_every_setting_and_with_nothing_else():
    changes = [{}, {"spacing": 1.0}, {"shape": [80, 96, 88]}, {"registration": "rigid"}]
    changes += [{"bias_field": True}, {"mask": "none"}]
    assert len({fingerprint(recipe(**change)) for change in changes}) == len(changes)
    assert fingerprint(SimpleNamespace(**vars(recipe()) | {"spacing": 2})) == fingerprint(Recipe())
    assert set(KEYS) == set(Recipe.model_fields)


def test_a_recipe_that_lacks_a_setting_or_has_an_unknown_one_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(Recipe().model_dump(exclude={"mask"}) | {"spacin": 2}))
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert len(error.value.problems) == 2 and "did you mean 'spacing'" in str(error.value)
