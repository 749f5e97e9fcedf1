"""Quality control: numbers and warnings of single scans, outliers among many, and the pictures of heads."""

import io

import harmed
import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlimb.config import Recipe
from tlimb.preprocess.contrast import contrast_doubts, looks_like
from tlimb.preprocess.montage import montage
from tlimb.preprocess.quality import (
    COLUMNS,
    LARGEST_LESION,
    LEAST_COVERAGE,
    assess,
    header_doubts,
    lesion_volume,
    mask_overlap,
    otsu,
    pose_numbers,
)
from tlimb.preprocess.reference import SHAPE, SPACING, on_reference, reference
from tlimb.preprocess.register import Registration
from tlimb.preprocess.scan import preprocess_scan, template_for
from tlimb.preprocess.template import load_template, template_path
from tlimb.preprocess.volume import Volume, resample, shrink
from tlimb.ranking.montages import pictures
from tlimb.ranking.quality import by_group, modified_z, outliers, read_sites, summary, to_look_at

TEMPLATE = load_template(2.0)


def looked_at(folder, image, modality="T1w", **settings) -> dict:
    """The quality that preprocessing records of an image."""
    recipe = Recipe(**settings)
    nib.save(image, folder / "scan.nii")
    return preprocess_scan(folder / "scan.nii", None, recipe, template_for(recipe), modality)[1]


def registered_template() -> np.ndarray:
    image = nib.load(template_path())
    head = Volume(image.get_fdata(dtype=np.float32) / np.float32(255), image.affine)
    return np.nan_to_num(resample(shrink(head, 1.0), np.eye(4), TEMPLATE.affine, TEMPLATE.shape))


# Scans as they should be


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_of_a_good_scan_nothing_is_said_and_every_number_is_known(tmp_path, number):
    quality = looked_at(tmp_path, harmed.demo_scan(number, 3)[0])
    assert quality["warnings"] == "" and quality["notes"] == ""
    numbers = {name: quality[name] for name, kind in COLUMNS.items() if kind == "float64"}
    assert all(isinstance(number, float) and np.isfinite(number) for number in numbers.values())
    assert quality["mask_overlap"] > 0.9 and quality["coverage"] > 0.98 and quality["lesion"] < 0.5
    assert quality["fluid_white"] < quality["grey_white"] < 0.9 and quality["front"] > 0.5
    assert 1 < quality["head"] < 4 and 0.85 < quality["size"] < 1.15 and quality["stretch"] < 1.2


def test_the_columns_have_arrow_types_and_warnings_come_last(tmp_path):
    assert [pa.type_for_alias(kind) for kind in COLUMNS.values()] and list(COLUMNS)[-1] == "warnings"
    assert list(COLUMNS)[:4] == ["mask_overlap", "metric", "snr", "displacement"]
    assert set(COLUMNS) <= set(looked_at(tmp_path, harmed.demo_scan(1, 3)[0]))


def test_of_a_prepared_scan_the_numbers_that_need_the_template_are_unknown(tmp_path):
    settings = {"resampling": "none", "registration": "none", "mask": "none", "shape": [64, 64, 64]}
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.random((64, 64, 64), dtype=np.float32), np.diag([2, 2, 2, 1]))
    quality = looked_at(tmp_path, image, **settings)
    unknown = {name for name in COLUMNS if quality[name] is None}
    assert unknown == set(COLUMNS) - {"snr", "head", "notes", "warnings"} and quality["warnings"] == ""
    small = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([0.9, 0.9, 0.9, 1]))
    assert "expected 0.3 to 8.0" in looked_at(tmp_path, small, **settings, spacing=0.9)["warnings"]


# Scans that were harmed


def test_a_scan_without_a_face_is_noted_and_not_warned_of(tmp_path):
    image, pose = harmed.demo_scan(0, 4)
    quality = looked_at(tmp_path, harmed.defaced(image, pose, np.random.default_rng(0)))
    assert quality["notes"].startswith("defaced") and quality["warnings"] == ""


def test_a_stripped_scan_is_not_called_defaced(tmp_path):
    image, pose = harmed.demo_scan(1, 4)
    quality = looked_at(tmp_path, harmed.stripped(image, pose, np.random.default_rng(0)))
    assert quality["notes"].startswith("skull-stripped") and quality["warnings"] == ""


@pytest.mark.parametrize("padded", [False, True])
def test_a_brain_that_is_cut_is_warned_of_even_where_zeros_fill_the_gap(tmp_path, padded):
    image, pose = harmed.demo_scan(2, 4)
    quality = looked_at(tmp_path, harmed.cropped(image, pose, np.random.default_rng(1), 0.1, padded))
    assert quality["coverage"] == pytest.approx(0.9, abs=0.02)
    assert "10% of the brain lies outside of the image or is blank" in quality["warnings"]


def test_a_lesion_is_measured_and_a_larger_one_is_larger(tmp_path):
    image, pose = harmed.demo_scan(3, 4)
    found = [
        looked_at(tmp_path, harmed.lesioned(image, pose, np.random.default_rng(2), diameter)) for diameter in (26, 38)
    ]
    assert LARGEST_LESION < found[0]["lesion"] < found[1]["lesion"] < 40
    assert all("a lesion?" in quality["warnings"] for quality in found)


@pytest.mark.parametrize("kind", ["stretched", "small", "turned"])
def test_an_affine_that_lies_is_warned_of(tmp_path, kind):
    image, pose = harmed.demo_scan(5, 4)
    quality = looked_at(tmp_path, harmed.with_wrong_header(image, pose, np.random.default_rng(3), kind))
    assert "the header's" in quality["warnings"] or "registration doubtful" in quality["warnings"]


def test_a_t2_weighted_scan_called_t1_is_named_and_one_called_t2_is_not(tmp_path):
    image, _ = harmed.demo_scan(6, 4, "T2w")
    assert "not the contrast of T1w" in looked_at(tmp_path, image)["warnings"]
    assert "contrast" not in looked_at(tmp_path, image, "T2w")["warnings"]


# The numbers against closed forms


@given(st.lists(st.integers(0, 127), min_size=1, max_size=200))
def test_the_threshold_is_where_two_classes_differ_most(values):
    values = np.array([0, 127, *values], float)

    def between(threshold) -> float:
        above = values > threshold
        return above.mean() * (~above).mean() * (values[above].mean() - values[~above].mean()) ** 2

    assert between(otsu(values)) >= 0.98 * max(between(value) for value in values[values < values.max()])


def test_the_threshold_is_simpleitks_within_a_bin():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.3, 4000), rng.normal(4, 0.5, 3000)]).astype(np.float32)
    finder = sitk.OtsuThresholdImageFilter()
    finder.Execute(sitk.GetImageFromArray(values.reshape(1, 1, -1)))
    assert otsu(values) == pytest.approx(finder.GetThreshold(), abs=1.5 * float(np.ptp(values)) / 128)
    assert otsu(np.zeros(5)) == 0


def test_overlap_is_one_for_the_mask_itself_whatever_the_fluid():
    head = np.where(TEMPLATE.mask, np.float32(0.5), np.float32(0.05))
    assert mask_overlap(head, TEMPLATE) == 1
    head[40:44, 40:44, 40:44] = 3.0
    assert mask_overlap(head, TEMPLATE) == 1
    part = np.where(np.arange(TEMPLATE.shape[0])[:, None, None] < 55, head, np.float32(0.05))
    kept = (TEMPLATE.mask & (part > 0.1)).sum()
    assert mask_overlap(part, TEMPLATE) == pytest.approx(2 * kept / (kept + TEMPLATE.mask.sum()))


@given(st.floats(0, 170), st.floats(0.7, 1.4), st.floats(1.0, 1.5), st.integers(0, 1000))
def test_size_stretch_and_turn_are_those_of_the_transform(degrees, size, stretch, seed):
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    basis = Rotation.random(random_state=seed).as_matrix()
    world = np.eye(4)
    world[:3, :3] = turn @ basis @ np.diag(size * np.array([stretch ** (2 / 3), *[stretch ** (-1 / 3)] * 2])) @ basis.T
    numbers = pose_numbers(world, "affine")
    assert numbers["size"] == pytest.approx(size) and numbers["stretch"] == pytest.approx(stretch)
    assert numbers["turn"] == pytest.approx(degrees, abs=1e-4)
    assert pose_numbers(world, "similarity") == numbers | {"stretch": None}
    assert pose_numbers(world, "rigid") == numbers | {"stretch": None, "size": None}
    assert set(pose_numbers(world, "none").values()) == {None}


def test_coverage_counts_voxels_outside_of_the_image_and_blanks():
    head, recipe = registered_template() + np.float32(0.2), Recipe(registration="none")
    inside = np.ones(TEMPLATE.shape, bool)
    inside[:, :20] = False
    head[:, :, 60:] = 0
    scan, found = Volume(head, TEMPLATE.affine), Registration(np.eye(4), -1.0, 0.0)
    quality = assess(scan, found, np.where(inside, head, 0), inside, TEMPLATE.mask, TEMPLATE, recipe, "T1w")
    seen = TEMPLATE.mask & inside & (head > 0)
    assert quality["coverage"] == seen.sum() / TEMPLATE.mask.sum() < LEAST_COVERAGE
    assert f"{1 - quality['coverage']:.0%} of the brain lies outside" in quality["warnings"][0]


def brain_with(spots, field: bool = False) -> float:
    """The lesion volume of the template with cubes of 5 voxels, (centre mm, signal), and a smooth receive field."""
    about = reference()
    image = nib.load(template_path())
    head = Volume(image.get_fdata(dtype=np.float32) / np.float32(255), image.affine)
    values = np.nan_to_num(on_reference(head))
    values += 0.03 * np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    for centre, signal in spots:
        at = np.round(np.linalg.inv(about.affine) @ [*centre, 1])[:3].astype(int)
        values[tuple(slice(i - 2, i + 3) for i in at)] = signal
    if field:
        x, y = np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1])
        values *= 1 + 0.2 * (x[:, None] + y**2)[:, :, None]
    return lesion_volume(values, np.ones(SHAPE, bool), about)


def test_a_lesion_has_about_the_volume_that_was_planted():
    volume = 5**3 * SPACING**3 / 1000
    assert brain_with([]) == 0 and brain_with([], field=True) == 0
    assert 0.5 * volume < brain_with([((30, -10, 30), 0.3)]) < 2.5 * volume
    assert 0.5 * volume < brain_with([((-30, -40, 30), 1.4)], field=True) < 2.5 * volume


def test_what_both_hemispheres_share_is_no_lesion():
    assert brain_with([((30, -10, 30), 0.3), ((-30, -10, 30), 0.3)]) < 0.5


@pytest.mark.parametrize(
    "grey, fluid, seen, wrong",
    [
        (0.74, 0.4, ("T1w",), {"T2w", "PDw", "FLAIR"}),
        (1.2, 1.6, ("T2w", "PDw"), {"T1w", "FLAIR"}),
        (1.1, 0.4, ("FLAIR",), {"T1w", "T2w", "PDw"}),
        (0.98, 0.6, None, set()),
    ],
)
def test_the_contrast_is_that_of_its_order_of_tissues(grey, fluid, seen, wrong):
    assert looks_like(grey, fluid) == seen
    assert {name for name in ("T1w", "T2w", "PDw", "FLAIR", "T2starw") if contrast_doubts(grey, fluid, name)} == wrong
    assert contrast_doubts(None, fluid, "T1w") == []


def test_a_head_of_impossible_volume_or_pose_speaks_against_its_header():
    good = {"head": 3.0, "size": 1.0, "stretch": 1.05, "turn": 8.0}
    assert header_doubts(good, True) == []
    for change in ({"head": 0.4}, {"head": 12.0}, {"size": 0.7}, {"size": 1.4}, {"stretch": 1.5}, {"turn": 90.0}):
        assert len(header_doubts(good | change, True)) == 1
    assert header_doubts(good | {"size": 0.7, "stretch": 2.0, "turn": 90.0}, False) == []


# Outliers among many scans


@given(st.lists(st.integers(-1000, 1000), min_size=10, max_size=60))
def test_the_outlier_rule_is_that_of_iglewicz_and_hoaglin(values):
    values = np.array(values, float)
    deviation = np.median(np.abs(values - np.median(values)))
    found = modified_z(values)
    if deviation == 0:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, 0.6745 * (values - np.median(values)) / deviation, rtol=1e-4)


def index_of(n: int, cohort="a", recipe="r", **columns) -> pd.DataFrame:
    rng = np.random.default_rng(n)
    table = pd.DataFrame({"scan_id": [f"{cohort}/s{i:02d}/1/T1w" for i in range(n)], "recipe": recipe, "status": "ok"})
    for name, middle in {"mask_overlap": 0.95, "metric": -1.1, "snr": 20.0, "displacement": 8.0}.items():
        table[name] = middle * (1 + 0.02 * rng.uniform(-1, 1, n))
    return table.assign(warnings="", notes="", **columns)


def test_an_outlier_is_named_with_its_number_in_the_bad_direction_alone():
    scans = index_of(30)
    scans.loc[3, "snr"], scans.loc[4, "snr"] = 5.0, 60.0
    (row,) = outliers(scans)
    z = modified_z(scans["snr"])
    assert row["scan_id"] == "a/s03/1/T1w" and row["number"] == "signal to noise" and row["value"] == 5.0
    assert row["deviations"] == pytest.approx(-z[3]) and row["median"] == scans["snr"].median()


def test_outliers_are_sought_within_a_cohort_and_not_among_fewer_than_ten():
    far = index_of(30, "b")
    far["snr"] *= 4
    assert outliers(pd.concat([index_of(30), far])) == []
    few = index_of(9)
    few.loc[0, "snr"] = 0.1
    assert outliers(few) == []


def test_failed_scans_and_unknown_numbers_are_no_outliers():
    scans = index_of(20).assign(size=None, stretch=np.nan)
    scans.loc[2, ["status", "snr", "metric"]] = ["failed", 0.0, 5.0]
    assert outliers(scans) == [] and to_look_at(scans) == []


def test_scans_to_look_at_stand_worst_first():
    scans = index_of(30)
    scans.loc[5, "warnings"] = "one; two"
    scans.loc[[6, 7], "warnings"] = "one"
    scans.loc[7, "snr"] = 1.0
    scans.loc[8, ["snr", "mask_overlap"]] = [1.0, 0.2]
    scans.loc[[9, 10], "snr"] = [2.0, 0.5]
    found = to_look_at(scans)
    assert [row["scan_id"][2:5] for row in found] == ["s05", "s07", "s06", "s08", "s10", "s09"]
    assert found[0]["warnings"] == ["one", "two"] and len(found[3]["outliers"]) == 2


def test_scans_are_counted_by_cohort_and_site(tmp_path):
    scans = pd.concat([index_of(12), index_of(4, "b")], ignore_index=True)
    scans.loc[1, "warnings"], scans.loc[2, "status"], scans.loc[3, "snr"] = "one", "failed", 0.1
    rows = by_group(scans)
    assert [(row["cohort"], row["n"], row["failed"], row["warned"], row["outliers"]) for row in rows] == [
        ("a", 12, 1, 1, 1), ("b", 4, 0, 0, 0)
    ]  # fmt: skip
    table = pd.DataFrame({"scan_id": scans["scan_id"], "site": ["east", "west"] * 7 + [None] * 2})
    table.to_parquet(tmp_path / "cohort.parquet")
    sites = read_sites(tmp_path / "cohort.parquet")
    assert len(sites) == 14 and read_sites(None) == {}
    rows = by_group(scans, sites)
    assert [(row["cohort"], row["site"], row["n"]) for row in rows] == [
        ("a", "east", 6), ("a", "west", 6), ("b", "", 2), ("b", "east", 1), ("b", "west", 1)
    ]  # fmt: skip
    assert summary(scans)[0]["ok"] == 15 and summary(scans)[0]["warned"] == 1


# Pictures


def test_a_montage_is_a_small_grey_png_with_the_brains_border_in_white():
    head = registered_template()
    picture = Image.open(io.BytesIO(montage(head, TEMPLATE)))
    assert picture.format == "PNG" and picture.mode == "L" and picture.size == (80 + 80 + 96, 2 * 96)
    pixels = np.asarray(picture)
    x, y, z = TEMPLATE.shape
    axial = TEMPLATE.mask[:, :, int(0.40 * z)]
    border = np.rot90(axial & ~ndimage.binary_erosion(axial))
    np.testing.assert_array_equal(pixels[:y, :x] == 255, border)
    sagittal = TEMPLATE.mask[int(0.62 * x)]
    border = np.rot90(sagittal & ~ndimage.binary_erosion(sagittal))
    np.testing.assert_array_equal(pixels[y + 8 : y + 8 + z, -y:] == 255, border)
    assert np.asarray(Image.open(io.BytesIO(montage(head, None)))).max() < 255


def test_in_a_montage_left_is_left_and_up_is_up():
    head = np.zeros(TEMPLATE.shape, np.float32)
    head[:30, 60:, :] = 1.0  # left and in front
    pixels = np.asarray(Image.open(io.BytesIO(montage(head, None)))).astype(int)
    axial = pixels[:96, :80]
    assert axial[:48, :40].sum() > 0.95 * axial.sum() > 0


def test_a_montage_of_a_noisy_scan_stays_small_at_any_resolution(tmp_path):
    rng = np.random.default_rng(0)
    head = registered_template()
    noisy = np.hypot(head + 0.03 * rng.standard_normal(head.shape), 0.03 * rng.standard_normal(head.shape))
    assert len(montage(noisy.astype(np.float32), TEMPLATE)) < 13_000
    fine = load_template(1.0)
    assert Image.open(io.BytesIO(montage(np.zeros(fine.shape, np.float32), fine))).size[1] <= 2 * 96


def test_only_wanted_pictures_are_read(tmp_path):
    for recipe, scans in {"r": ["a/1/1/T1w", "a/2/1/T1w"], "q": ["a/1/1/T1w"]}.items():
        (tmp_path / recipe).mkdir()
        table = pa.table({"scan_id": scans, "image": [f"{recipe} {scan}".encode() for scan in scans]})
        pq.write_table(table, tmp_path / recipe / "shard-0.montage.parquet")
    found = pictures(tmp_path, [("r", "a/2/1/T1w"), ("q", "a/9/1/T1w")])
    assert list(found) == [("r", "a/2/1/T1w")] and found["r", "a/2/1/T1w"].startswith("data:image/png;base64,")
    assert pictures(None, [("r", "a/2/1/T1w")]) == {}
