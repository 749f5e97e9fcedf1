"""The demo cohorts: who is in them, what their anatomy shows, what is on disk, and what the oracle reaches."""

import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import ndimage

from tlimb.demo import demo_cohort_command
from tlimb.demo.anatomy import FIELD_SPACING, SPACING, anatomy, coordinates, grid
from tlimb.demo.cohorts import demo_cohort
from tlimb.demo.oracle import oracle
from tlimb.demo.people import clinic_size, people
from tlimb.demo.recipe import FACTOR_NAMES, FACTORS, KNOTS, MODES, REFERENCE_AGE, SITES
from tlimb.demo.scan import head_pose, render, scan, weights_of
from tlimb.seeds import seed_for

SEED = 3
GRID = grid(2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo_cohort(out, 16, SEED, workers=2)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    demo_cohort(out, 10, SEED, workers=1)
    return out


@pytest.fixture(scope="module")
def sheet(folder):
    return pd.read_csv(folder / "cohorts.csv")


def typical(age=REFERENCE_AGE, severity=0.0, female=False):
    """The weights of a person in whom nothing but age, disease and sex is at work."""
    expected = [f.age_slope * (age - REFERENCE_AGE) + f.patient * severity + f.female * female for f in FACTORS]
    return np.array(expected + [0.0] * MODES, dtype=np.float32)


def displacements(weights):
    return np.einsum("k,k...->...", weights, anatomy().fields)


def coarse_brain():
    return anatomy().brain[::3, ::3, ::3]


def on_template(person, path_or_bytes):
    """A stored scan on the template's grid at 3 mm, undoing the pose that the person was given."""
    image = nibabel.load(path_or_bytes)
    pose = head_pose(person, np.random.default_rng(seed_for(SEED, "demo", "scan", person["subject"])))
    shape, affine = grid(2 * SPACING)
    to_stored = np.linalg.inv(image.affine) @ pose @ affine
    return ndimage.affine_transform(image.get_fdata(), to_stored[:3, :3], to_stored[:3, 3], shape, order=1)


def test_a_larger_cohort_begins_with_the_smaller_one():
    small, large = people(40, SEED), people(400, SEED)
    for cohort in ("lifespan", "clinic"):
        first = small[small.cohort == cohort].reset_index(drop=True)
        pd.testing.assert_frame_equal(first, large[large.cohort == cohort].head(len(first)).reset_index(drop=True))


def test_another_seed_gives_other_people():
    assert not np.isclose(people(40, 0)[list(FACTOR_NAMES)], people(40, 1)[list(FACTOR_NAMES)]).any()


def test_every_second_person_of_the_clinic_is_a_patient_of_the_same_age_sex_and_site():
    clinic = people(600, SEED).query("cohort == 'clinic'").reset_index(drop=True)
    assert len(clinic) == clinic_size(600) == 240
    first, second = clinic.iloc[::2].reset_index(), clinic.iloc[1::2].reset_index()
    assert (first.diagnosis != second.diagnosis).all()
    assert (first.sex == second.sex).all() and (first.site == second.site).all()
    assert (first.age - second.age).abs().max() <= 1.05
    assert 0.3 < (first.diagnosis == "patient").mean() < 0.7


def test_null_labels_are_a_permutation_that_agrees_with_the_truth_in_half_of_the_persons():
    clinic = people(600, SEED).query("cohort == 'clinic'")
    assert sorted(clinic.diagnosis_null) == sorted(clinic.diagnosis)
    assert (clinic.diagnosis_null == clinic.diagnosis).mean() == 0.5
    patients = clinic[clinic.diagnosis == "patient"]
    assert (patients.diagnosis_null == "patient").mean() == 0.5


def test_the_larger_cohort_has_ages_over_the_whole_life_and_no_diagnosis():
    lifespan = people(1000, SEED).query("cohort == 'lifespan'")
    assert lifespan.age.min() < 22 and lifespan.age.max() > 83
    assert lifespan.diagnosis.isna().all() and lifespan.diagnosis_null.isna().all()


def test_the_oracle_scores_within_its_stated_bounds():
    scores = oracle(12000, SEED, draws=50).set_index("target").value
    assert 4.0 < scores["age"] < 5.0
    assert 0.83 < scores["sex"] < 0.88
    assert 0.83 < scores["diagnosis"] < 0.88
    assert 0.47 < scores["diagnosis_null"] < 0.53


def test_the_oracle_reaches_what_the_factors_distribution_allows():
    """Best linear balanced accuracy: Phi(d / 2), d the Mahalanobis distance of the group means (Fisher 1936)."""
    from statistics import NormalDist

    slope, shift = np.array([f.age_slope for f in FACTORS]), np.array([f.patient for f in FACTORS])
    age_variance, severity_variance = 29**2 / 12, 1 / 12
    within = np.eye(len(FACTORS)) + age_variance * np.outer(slope, slope)
    within += severity_variance / 2 * np.outer(shift, shift)
    distance = np.sqrt(shift @ np.linalg.solve(within, shift))
    scores = oracle(20000, SEED, draws=50).set_index("target").value
    assert scores["diagnosis"] == pytest.approx(NormalDist().cdf(distance / 2), abs=0.015)


def test_ventricles_grow_with_age_in_every_step():
    ventricles = ndimage.binary_dilation(anatomy().ventricles, iterations=4)
    shape, affine = grid(SPACING)
    images = [render(typical(age), shape, affine) for age in (20, 40, 60, 80)]
    fluid = [(image[ventricles] < 0.5).sum() * SPACING**3 / 1000 for image in images]
    assert all(np.diff(fluid) > 1.0), fluid
    assert fluid[-1] > 1.3 * fluid[0]


def test_cortex_thins_with_age():
    shell = anatomy().brain & ~ndimage.binary_erosion(anatomy().brain, iterations=10)
    shape, affine = grid(SPACING)
    bright = [(render(typical(age), shape, affine)[shell] > 0.55).mean() for age in (20, 40, 60, 80)]
    assert all(np.diff(bright) < -0.005), bright


@pytest.mark.parametrize("name", ["forehead", "parietal_width"])
def test_shape_of_the_sexes_differs_by_more_than_an_affine_map(name):
    brain = coarse_brain()
    field = displacements(typical(female=True) * [n == name for n in (*FACTOR_NAMES, *[""] * MODES)])[:, brain]
    design = np.column_stack([*coordinates(FIELD_SPACING)[:, brain], np.ones(brain.sum())])
    residual = field.T - design @ np.linalg.lstsq(design, field.T, rcond=None)[0]
    assert np.sqrt((residual**2).sum(1)).max() > 1.0
    assert (residual**2).sum() > 0.9 * (field**2).sum()


def test_a_diagnosis_shows_in_the_central_slices_and_outside_them():
    shape, affine = GRID
    change = (render(typical(70, severity=1), shape, affine) - render(typical(70), shape, affine)) ** 2
    height = affine[2, 3] + affine[2, 2] * np.arange(shape[2])
    central = change[:, :, (0 <= height) & (height <= 20)].sum() / change.sum()
    assert 0.2 < central < 0.8


def test_a_diagnosis_is_not_mere_ageing():
    """Of the change that a diagnosis makes, a good part is not along the change that 15 years make, and a part is."""
    base = render(typical(70), *GRID)
    disease, ageing = (render(w, *GRID).ravel() - base.ravel() for w in (typical(70, severity=1), typical(85)))
    cosine = disease @ ageing / np.sqrt((disease @ disease) * (ageing @ ageing))
    assert 0.2 < cosine < 0.9


def test_no_person_is_folded():
    table = people(1000, SEED)
    extreme = table.loc[table[list(FACTOR_NAMES[:4])].sum(axis=1).sort_values().index[[0, 1, *range(-6, 0)]]]
    for person in extreme.to_dict("records"):
        field = displacements(weights_of(person))
        slopes = np.stack([np.stack(np.gradient(axis, FIELD_SPACING)) for axis in field])
        assert np.linalg.det(np.eye(3) + np.moveaxis(slopes, (0, 1), (-2, -1))).min() > 0
        assert 1 < np.sqrt((field**2).sum(0)).max() < 12


def test_render_is_the_template_where_nothing_is_planted():
    shape, affine = grid(SPACING)
    image = render(np.zeros(len(FACTORS) + MODES, dtype=np.float32), shape, affine)
    np.testing.assert_allclose(image, anatomy().image, atol=1e-4)


def test_sites_differ_by_more_than_gain_and_offset():
    design = np.column_stack([KNOTS, np.ones(len(KNOTS))])
    for site in SITES.values():
        for other in SITES.values():
            design[:, 0] = other.levels
            left = site.levels - design @ np.linalg.lstsq(design, np.array(site.levels), rcond=None)[0]
            assert site is other or np.abs(left).max() > 0.01


def test_files_are_the_same_whatever_the_number_of_workers_and_scans(folder, sheet, small):
    fewer = pd.read_csv(small / "cohorts.csv")
    assert set(fewer.image) < set(sheet.image)
    for image in fewer.image:
        assert (small / image).read_bytes() == (folder / image).read_bytes()


def test_samplesheet_and_participants_hold_the_same_labels(folder, sheet):
    assert list(sheet.columns) == ["cohort", "subject", "image", "age", "sex", "site", "diagnosis", "diagnosis_null"]
    assert sheet.subject.is_unique and all((folder / image).is_file() for image in sheet.image)
    for cohort, rows in sheet.groupby("cohort"):
        participants = pd.read_csv(folder / cohort / "participants.tsv", sep="\t")
        known = [label for label in sheet.columns[3:] if rows[label].notna().any()]
        assert known == {"lifespan": ["age", "site"], "clinic": list(sheet.columns[3:])}[cohort]
        pd.testing.assert_frame_equal(participants[known], rows[known].reset_index(drop=True))
        assert list(participants.participant_id) == list(rows.subject)


def test_planted_truth_stands_beside_the_samplesheet(folder, sheet):
    truth = pd.read_csv(folder / "truth.csv")
    assert list(truth.subject) == list(sheet.subject)
    assert set(FACTOR_NAMES) | {"severity"} <= set(truth.columns)
    assert not (set(FACTOR_NAMES) | {"severity", "size"}) & set(sheet.columns)


def test_volumes_lie_where_their_affine_says_and_left_is_left(folder, sheet):
    persons = {person["subject"]: person for person in people(16, SEED).to_dict("records")}
    brain = anatomy().brain[::2, ::2, ::2]
    for row in sheet.itertuples():
        person = persons[row.subject]
        seen = on_template(person, folder / row.image)
        meant = render(weights_of(person), *grid(2 * SPACING))
        inside = brain & (seen > 0)
        assert inside.sum() > 0.97 * brain.sum()
        agreement = np.corrcoef(seen[inside], meant[inside])[0, 1]
        assert agreement > 0.93
        assert agreement > np.corrcoef(seen[inside], meant[::-1][inside])[0, 1] + 0.02


def test_orientation_type_scaling_and_voxels_vary(folder, sheet):
    images = [nibabel.load(folder / image) for image in sheet.image]
    assert len({nibabel.aff2axcodes(image.affine) for image in images}) >= 3
    assert len({str(image.get_data_dtype()) for image in images}) >= 3
    assert len({(image.dataobj.slope, image.dataobj.inter) for image in images}) >= 3
    assert {image.ndim for image in images} == {3}
    zooms = np.array([image.header.get_zooms() for image in images])
    assert zooms.min() > 1.7 and zooms.max() < 2.6
    assert all(np.allclose(image.get_qform(), image.get_sform(), atol=1e-4) for image in images)


def test_noise_in_air_is_rayleigh():
    """Mean over standard deviation of a Rayleigh variable is sqrt(pi / (4 - pi)) = 1.913."""
    person = next(p for p in people(40, SEED).to_dict("records") if p["site"] == "north")
    data = nibabel.Nifti1Image.from_bytes(scan(person, 1)).get_fdata()
    ends = (slice(0, 6), slice(-6, None))
    corners = np.concatenate([data[x, y, z].ravel() for x in ends for y in ends for z in ends])
    air = corners[corners < np.percentile(corners, 50) * 4]
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)


def test_a_second_call_touches_nothing_and_another_seed_replaces_all(small, tmp_path):
    shutil.copytree(small, tmp_path / "copy")
    out = tmp_path / "copy"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "demo.json"}
    contents = {path: path.read_bytes() for path in times}
    demo_cohort(out, 10, SEED)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    demo_cohort(out, 10, SEED + 1)
    for image in pd.read_csv(out / "cohorts.csv").image:
        assert contents.get(out / image) != (out / image).read_bytes()


def test_the_command_says_how_many_scans_a_test_part_of_100_needs(small):
    result = CliRunner().invoke(demo_cohort_command, [str(small), "--scans", "10", "--seed", str(SEED)])
    assert result.exit_code == 0, result.output
    assert "6 scans in lifespan, 4 in clinic" in result.output and "--scans 500" in result.output
    assert clinic_size(500) == 200 and clinic_size(499) // 2 >= 100 > clinic_size(480) // 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(demo_cohort_command, [str(tmp_path / "file" / "demo"), "--scans", "10"])
    assert result.exit_code == 1
    assert str(tmp_path / "file" / "demo") in result.output and "cannot be written" in result.output


def test_too_few_scans_are_refused(tmp_path):
    assert CliRunner().invoke(demo_cohort_command, [str(tmp_path), "--scans", "9"]).exit_code == 2
    with pytest.raises(ValueError, match="at least 10"):
        people(9, 0)


def test_importing_the_demo_imports_nothing_heavy():
    code = "import sys, tlimb.demo; print({'numpy', 'pandas', 'scipy', 'nibabel', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
