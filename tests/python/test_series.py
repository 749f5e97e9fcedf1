"""fMRI time series: atlases, regions' signals, cleaning, confounds and bad input."""

import gzip
import hashlib
import os
from pathlib import Path

import nibabel as nib
import nibabel.processing
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_scans import brain_image, coarse, four_d, label_image, noise, recipe, staged, write

from tlimb.errors import InputError
from tlimb.preprocess.atlas import load_atlas
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.nifti import ScanError
from tlimb.preprocess.series import agreed_regions, cleaned, common_tr, preprocess_series, series_problem
from tlimb.preprocess.series_file import PARCELLATED
from tlimb.preprocess.series_image import header_tr, read_image

DAMAGE = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))  # where and what


@pytest.fixture(scope="module")
def blocks():
    return load_atlas("blocks")


def sha(values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()[:16]


class TestAtlas:
    def test_blocks_are_mirror_images_of_equal_volume(self, blocks):
        left, right = blocks.labels, blocks.labels[::-1]
        assert len(blocks.names) == len(blocks.numbers) == 32
        assert np.array_equal(np.where(left > 16, 0, left), np.where(right > 16, right - 16, 0))
        volumes = np.bincount(left.ravel())[1:]
        assert volumes.min() > 0.94 * volumes.mean() and volumes.max() < 1.06 * volumes.mean()
        assert blocks.names[0].replace("left", "right") == blocks.names[16]

    def test_blocks_lie_where_their_names_say(self, blocks):
        def centre(name):
            index = np.argwhere(blocks.labels == blocks.numbers[blocks.names.index(name)]).mean(0)
            return blocks.affine[:3, :3] @ index + blocks.affine[:3, 3]

        assert centre("left-4-upper-outer")[0] < centre("left-4-upper-inner")[0] < 0 < centre("right-4-upper-inner")[0]
        assert centre("left-1-upper-inner")[1] < centre("left-4-upper-inner")[1]
        assert centre("left-2-lower-inner")[2] < centre("left-2-upper-inner")[2]

    def test_an_atlas_of_ones_own_takes_its_names_from_the_table_beside_it(self, tmp_path):
        labels = np.zeros((4, 4, 4), np.int16)
        labels[0], labels[1], labels[2] = 3, 7, 20
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "mine.nii.gz")
        (tmp_path / "mine.tsv").write_text("index\tname\thex\n7\tinsula\tff\n3\tcuneus\t00\n99\tabsent\t11\n")
        mine, from_folder = load_atlas(str(tmp_path / "mine.nii.gz")), load_atlas(str(tmp_path))
        assert mine.names == ("cuneus", "insula", "label-20") and mine.numbers.tolist() == [3, 7, 20]
        assert mine == from_folder

    def test_the_digest_follows_labels_place_and_names_and_nothing_else(self, tmp_path):
        def atlas(name, affine, text, value=2):
            labels = np.zeros((3, 3, 3), np.uint8)
            labels[0], labels[1] = 1, value
            nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"{name}.nii")
            (tmp_path / f"{name}.csv").write_text(text)
            return load_atlas(str(tmp_path / f"{name}.nii")).digest

        first = atlas("a", np.eye(4), "index,name\n1,x\n2,y\n")
        assert first == atlas("b", np.eye(4), "label,region\n2,y\n1,x\n")
        elsewhere = atlas("c", np.diag([2, 2, 2, 1]), "index,name\n1,x\n2,y\n")
        renamed = atlas("d", np.eye(4), "index,name\n1,x\n2,z\n")
        assert len({first, elsewhere, renamed, atlas("e", np.eye(4), "index,name\n1,x\n3,y\n", 3)}) == 4

    def test_what_is_no_atlas_is_refused_by_name(self, tmp_path):
        def image(name, values):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
            return str(tmp_path / name)

        refused = {
            "blokcs": "did you mean 'blocks'",
            image("map.nii", np.full((3, 3, 3), 0.5)): "expected whole numbers",
            image("four.nii", np.ones((3, 3, 3, 2))): "expected a 3D label image",
            image("none.nii", np.zeros((3, 3, 3))): "no label above 0",
            str(tmp_path): "expected one label image in the folder, found 3",
        }
        for name, message in refused.items():
            with pytest.raises(InputError, match=message):
                load_atlas(name)
        path = image("twice.nii", np.arange(27.0).reshape(3, 3, 3))
        (tmp_path / "twice.csv").write_text("index,name\n1,x\n2,x\n")
        with pytest.raises(InputError, match="twice.csv: regions x: named more than once"):
            load_atlas(path)
        (tmp_path / "twice.csv").write_text("index,name\n1,x\none,y\n")
        with pytest.raises(InputError, match="twice.csv, row 3, column index: expected a whole number, found 'one'"):
            load_atlas(path)


class TestImages:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_a_regions_signal_is_the_mean_over_its_voxels(self, tmp_path, blocks, ending):
        data, affine = coarse()
        signals = read_image(four_d(tmp_path / f"scan{ending}", data, affine), blocks, 30)
        index = np.stack(np.meshgrid(*map(range, data.shape[:3]), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
        inside = np.round(index - blocks.affine[:3, 3]).astype(int)
        there = ((inside >= 0) & (inside < blocks.labels.shape)).all(-1)
        inside[~there] = 0
        labels = np.where(there, blocks.labels[tuple(np.moveaxis(inside, -1, 0))], 0)
        expected = np.stack([data[labels == number][:, :30].mean(0, dtype=np.float64) for number in blocks.numbers], 1)
        np.testing.assert_allclose(signals.values, expected, rtol=1e-6)
        assert signals.points == 40 and signals.tr == 2.0 and signals.names == blocks.names
        voxels = data[labels > 0][:, :30].astype(np.float64)
        assert signals.snr == pytest.approx(np.median(voxels.mean(1) / voxels.std(1)), rel=1e-4)

    def test_slope_intercept_and_turned_axes_make_no_difference(self, tmp_path, blocks):
        data, affine = coarse()
        image = nib.Nifti1Image(np.round(data).astype(np.int16), affine)
        turned = image.as_reoriented(nib.orientations.axcodes2ornt("PSR"))
        nib.save(image, tmp_path / "a.nii")
        turned.header.set_slope_inter(0.5, 100.0)
        halves = ((np.asarray(turned.dataobj) - 100) * 2).astype(np.int16)
        stored = nib.Nifti1Image(halves, turned.affine, turned.header)
        stored.header.set_slope_inter(1, 0)
        raw = bytearray(stored.to_bytes())
        raw[112:120] = np.array([0.5, 100.0], "<f4").tobytes()
        (tmp_path / "b.nii").write_bytes(raw)
        one, two = (read_image(tmp_path / name, blocks, 20).values for name in ("a.nii", "b.nii"))
        np.testing.assert_allclose(one, two, rtol=1e-6)

    def test_memory_is_bounded_and_the_numbers_do_not_depend_on_it(self, tmp_path, blocks, monkeypatch):
        data, affine = coarse()
        path = four_d(tmp_path / "scan.nii.gz", data, affine)
        whole = read_image(path, blocks, 40)
        monkeypatch.setattr("tlimb.preprocess.series_image.BLOCK", 4 * data[..., :7].size)
        pieces = read_image(path, blocks, 40)
        assert np.array_equal(whole.values, pieces.values) and whole.snr == pytest.approx(pieces.snr)

    def test_regions_outside_of_the_image_become_0_and_are_named(self, tmp_path, blocks):
        data, affine = coarse()
        data[:, :, :8] = 0
        path = four_d(tmp_path / "cut.nii", data, affine)
        array, quality = preprocess_series(path, None, recipe(detrend=True), blocks)
        flat = [name for name, column in zip(blocks.names, array.T) if not column.any()]
        assert flat and all("lower" in name for name in flat)
        assert f"{len(flat)} of 32 regions do not vary over time, taken as 0: {flat[0]}" in quality["warnings"]
        assert "of the template's brain has no signal" in quality["warnings"] and quality["coverage"] < 0.85

    def test_an_image_that_is_not_in_mni_space_is_flagged(self, tmp_path, blocks):
        data, affine = coarse()
        brain = nib.Nifti1Image(np.zeros(data.shape[:3]), affine)
        data *= np.asarray(nib.processing.resample_from_to(brain_image(blocks), brain, order=0).dataobj)[..., None] > 0
        moved = affine + np.array([[0, 0, 0, 10], [0, 0, 0, 20], [0, 0, 0, 20], [0, 0, 0, 0]])
        _, good = preprocess_series(four_d(tmp_path / "a.nii", data, affine), None, recipe(detrend=True), blocks)
        _, bad = preprocess_series(four_d(tmp_path / "b.nii", data, moved), None, recipe(detrend=True), blocks)
        assert good["mask_overlap"] > 0.9 and not good["warnings"]
        assert bad["mask_overlap"] < 0.8 and "is the image in MNI space?" in bad["warnings"]

    def test_values_that_are_not_finite_count_as_0_and_are_told(self, tmp_path, blocks):
        data, affine = coarse()
        data[5, 5, 5, :3] = np.nan, np.inf, -np.inf
        holed = read_image(four_d(tmp_path / "a.nii", data, affine), blocks, 40)
        data[5, 5, 5, :3] = 0
        assert np.array_equal(holed.values, read_image(four_d(tmp_path / "b.nii", data, affine), blocks, 40).values)
        assert "3 voxels are not finite, taken as 0" in holed.warnings

    def test_the_repetition_time_comes_from_the_header_in_any_unit(self):
        header = nib.Nifti1Image(np.zeros((2, 2, 2, 2)), np.eye(4)).header
        for zoom, unit, expected in ((0.72, "sec", 0.72), (720, "msec", 0.72), (0, "sec", None), (2, "hz", None)):
            header.set_xyzt_units("mm", unit)
            header.set_zooms((1, 1, 1, zoom))
            assert header_tr(header)[0] == expected
        header.set_xyzt_units("mm")
        header.set_zooms((1, 1, 1, 800))
        assert header_tr(header) == (0.8, ["the header gives no unit of time, 0.8 s between time points assumed"])


class TestTables:
    @pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".npy"])
    @pytest.mark.parametrize("named", [True, False])
    def test_every_kind_of_table_gives_the_same_array(self, tmp_path, ending, named):
        values = noise().astype(np.float32)
        names = [f"r{number}" for number in range(5)] if named and ending != ".npy" else None
        path = write(tmp_path / f"scan{ending}", values, names)
        array, quality = preprocess_series(path, None, recipe(timepoints=30, detrend=True), None)
        expected, _, _ = cleaned(values[:30].astype(np.float64), recipe(detrend=True), None, None)
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=0.02)
        assert array.dtype == np.float16 and array.shape == (30, 5) and quality["warnings"] == ""
        assert quality["snr"] == pytest.approx(np.median(values[:30].mean(0) / values[:30].std(0)), rel=1e-3)
        assert agreed_regions([path], None) == (names or [f"region-{number}" for number in range(1, 6)])
        assert series_problem(str(path)) is None

    def test_parcellated_cifti_brings_names_and_repetition_time(self, tmp_path):
        values, labels = noise(40, 3), np.zeros((2, 2, 2), np.int16)
        labels[0, 0, 0], labels[0, 0, 1], labels[0, 1, 0] = 1, 2, 3
        parcels = nib.cifti2.ParcelsAxis.from_brain_models([
            (name, nib.cifti2.BrainModelAxis.from_mask(labels == number, affine=np.eye(4), name="thalamus_left"))
            for number, name in enumerate("abc", start=1)
        ])
        axes = nib.cifti2.SeriesAxis(0, 0.72, 40), parcels
        nib.save(nib.Cifti2Image(values.astype(np.float32), axes), tmp_path / "x.ptseries.nii")
        path = tmp_path / "x.ptseries.nii"
        assert series_problem(str(path)) is None and agreed_regions([path], None) == ["a", "b", "c"]
        array, _ = preprocess_series(path, None, recipe(band_pass=[0.02, 0.2], standardise="zscore"), None)
        expected, _, _ = cleaned(values, recipe(band_pass=[0.02, 0.2], standardise="zscore"), 0.72, None)
        np.testing.assert_allclose(array, expected, rtol=1e-2, atol=2e-3)

    def test_default_headers_and_row_numbers_of_pandas_are_no_data(self, tmp_path):
        frame = pd.DataFrame(noise())
        frame.to_csv(tmp_path / "numbered.csv", index=False)
        frame.to_csv(tmp_path / "counted.csv")
        frame.to_csv(tmp_path / "bare.csv", index=False, header=False)
        paths = [tmp_path / f"{name}.csv" for name in ("numbered", "counted", "bare")]
        arrays = [preprocess_series(path, None, recipe(), None)[0] for path in paths]
        assert np.array_equal(arrays[0], arrays[1]) and np.array_equal(arrays[0], arrays[2])

    def test_columns_are_matched_by_name(self, tmp_path):
        values = noise()
        one = write(tmp_path / "a.csv", values, list("abcde"))
        two = write(tmp_path / "b.csv", values[:, ::-1], list("edcba"))
        three = write(tmp_path / "c.csv", values[:, :4], list("abcd"))
        four = write(tmp_path / "d.csv", values, list("abcdx"))
        regions = agreed_regions([three, two, one, one], None)
        assert regions == list("abcde")
        arrays = [preprocess_series(path, None, recipe(), None, regions)[0] for path in (one, two)]
        assert np.array_equal(*arrays)
        with pytest.raises(ScanError, match="holds 4 regions, most scans beside it 5"):
            preprocess_series(three, None, recipe(), None, regions)
        with pytest.raises(ScanError, match="1 regions have other names than in most scans beside it: x"):
            preprocess_series(four, None, recipe(), None, regions)

    def test_a_transposed_table_is_suspected(self, tmp_path):
        _, quality = preprocess_series(write(tmp_path / "a.npy", noise(40, 60)), None, recipe(detrend=True), None)
        assert "60 regions, more than 40 time points: is the table transposed?" in quality["warnings"]
        turned = write(tmp_path / "b.npy", noise(5, 200))
        with pytest.raises(ScanError, match="holds 5 time points, .* keeps 40; it has 200 columns: is it transposed"):
            preprocess_series(turned, None, recipe(), None)


class TestCleaning:
    def test_a_rhythm_in_the_band_stays_and_one_outside_goes(self):
        time = 2.0 * np.arange(400)[:, None]
        inside, above, below = (np.sin(2 * np.pi * hertz * time) for hertz in (0.05, 0.2, 0.004))
        values = 1000 + np.concatenate([inside, above, below, inside + above], 1)
        left, _, _ = cleaned(values, recipe(detrend=True, band_pass=[0.01, 0.1]), 2.0, None)
        middle = slice(150, 250)
        np.testing.assert_allclose(left[middle, 0], inside[middle, 0], atol=0.05)
        assert np.abs(left[middle, 1]).max() < 0.01 and np.abs(left[middle, 2]).max() < 0.1
        np.testing.assert_allclose(left[middle, 3], inside[middle, 0], atol=0.06)

    @pytest.mark.parametrize("band", [None, [0.01, 0.1]])
    def test_what_is_left_is_orthogonal_to_the_confounds(self, band):
        rng = np.random.default_rng(1)
        confounds = rng.standard_normal((100, 3)).cumsum(0)
        values = noise(100, 4) + 50 * confounds @ rng.standard_normal((3, 4))
        left, _, _ = cleaned(values, recipe(detrend=True, band_pass=band), 2.0, confounds)
        if band is None:
            line = np.stack([np.ones(100), np.arange(100)], 1)
            design = np.concatenate([line, confounds], 1)
            expected = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
            np.testing.assert_allclose(left, expected, atol=1e-6)
        seen, _, _ = cleaned(confounds, recipe(detrend=True, band_pass=band), 2.0, None)
        correlation = np.corrcoef(left.T, seen.T)[:4, 4:]
        assert np.abs(correlation).max() < 1e-6

    def test_standardisation_is_its_formula(self):
        values = noise()
        scored, _, _ = cleaned(values, recipe(standardise="zscore"), None, None)
        np.testing.assert_allclose(scored, (values - values.mean(0)) / values.std(0, ddof=1))
        for detrend in (False, True):
            change, _, _ = cleaned(values, recipe(standardise="percent_change", detrend=detrend), None, None)
            plain = cleaned(values, recipe(detrend=True), None, None)[0] if detrend else values - values.mean(0)
            np.testing.assert_allclose(change, 100 * plain / values.mean(0), atol=1e-9)

    def test_the_mean_before_cleaning_counts_for_percent_change_and_must_be_there(self):
        with pytest.raises(ScanError, match="well above 0"):
            cleaned(noise() - 1000, recipe(standardise="percent_change"), None, None)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 1000), st.floats(1, 1e4), st.floats(1e-2, 1e2))
    def test_scores_do_not_depend_on_a_scanners_scale(self, seed, offset, scale):
        values = np.random.default_rng(seed).standard_normal((40, 3))
        changed, flat, _ = cleaned(offset + scale * values, recipe(standardise="zscore", detrend=True), None, None)
        expected, _, _ = cleaned(values, recipe(standardise="zscore", detrend=True), None, None)
        np.testing.assert_allclose(changed, expected, atol=1e-5)
        assert not flat.any()

    def test_a_signal_that_the_confounds_explain_wholly_is_0_not_noise(self):
        values = noise()
        left, flat, _ = cleaned(values, recipe(standardise="zscore"), None, values[:, :1] - values[:, :1].mean())
        assert flat.tolist() == [True, False, False, False, False] and not left[:, 0].any()
        with pytest.raises(ScanError, match="no region's signal varies"):
            cleaned(np.ones((40, 3)), recipe(), None, None)

    def test_bands_that_cannot_be_are_refused_with_the_reason(self):
        values = noise(100)
        for tr, band, message in (
            (None, [0.01, 0.1], "needs the time between time points"),
            (2.0, [0.01, 0.3], "the band ends at 0.3 Hz; at 2 s .* above 0.25 Hz"),
        ):
            with pytest.raises(ScanError, match=message):
                cleaned(values, recipe(band_pass=band), tr, None)
        with pytest.raises(ScanError, match="20 time points are too few"):
            cleaned(values[:20], recipe(band_pass=[0.01, 0.1]), 2.0, None)
        cleaned(values[:34], recipe(band_pass=[0.05, 0.1]), 2.0, None)
        assert "80 s hold no whole cycle" in cleaned(values[:40], recipe(band_pass=[0.01, 0.1]), 2.0, None)[2][0]
        with pytest.raises(ScanError, match="38 confounds leave nothing of 40"):
            cleaned(values[:40], recipe(), None, np.random.default_rng(0).standard_normal((40, 38)))

    def test_the_recipes_repetition_time_counts_and_a_conflict_is_told(self, tmp_path, blocks):
        data, affine = coarse()
        path = four_d(tmp_path / "a.nii", data, affine, tr=2.0)
        asked = {"band_pass": [0.02, 0.1], "standardise": "zscore"}
        _, quiet = preprocess_series(path, None, recipe(tr=2.0, **asked), blocks)
        _, told = preprocess_series(path, None, recipe(tr=0.72, **asked), blocks)
        assert "recipe" not in quiet["warnings"]
        assert "the file gives 2 s between time points, the recipe 0.72 s, which is used" in told["warnings"]

    def test_what_16_bits_cannot_hold_is_refused_or_told(self, tmp_path):
        path = write(tmp_path / "a.npy", 10000 + 10 * np.random.default_rng(0).standard_normal((40, 3)))
        assert "rounding to 16 bits blurs" in preprocess_series(path, None, recipe(), None)[1]["warnings"]
        assert "rounding" not in preprocess_series(path, None, recipe(detrend=True), None)[1]["warnings"]
        with pytest.raises(ScanError, match="values up to .* do not fit into 16 bits"):
            preprocess_series(write(tmp_path / "b.npy", 100 * noise()), None, recipe(), None)


class TestConfounds:
    def table(self, path, **changes) -> Path:
        rng = np.random.default_rng(5)
        columns = {"csf": rng.standard_normal(40), "csf_derivative1": [np.nan, *rng.standard_normal(39)]}
        columns |= {"framewise_displacement": [np.nan, *np.full(39, 0.25)], "still": np.ones(40)} | changes
        pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")
        return path

    def test_missing_starts_become_the_mean_and_are_noted(self, tmp_path):
        image, table = write(tmp_path / "a.npy", noise()), self.table(tmp_path / "confounds.tsv")
        names = ["csf", "csf_derivative1", "still"]
        array, quality = preprocess_series(image, table, recipe(detrend=True, confounds=names), None)
        frame = pd.read_csv(table, sep="\t")
        columns = frame[names[:2]].fillna(frame[names[:2]].mean()).to_numpy()
        expected, _, _ = cleaned(noise(), recipe(detrend=True), None, columns)
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=0.02)
        assert quality["notes"] == (
            "confounds without a value at their start, taken as their mean: csf_derivative1; "
            "confounds that do not vary, left out: still"
        )
        assert quality["displacement"] == pytest.approx(0.25) and quality["warnings"] == ""

    def test_much_motion_is_a_warning(self, tmp_path):
        table = self.table(tmp_path / "confounds.tsv", framewise_displacement=np.full(40, 0.8))
        _, quality = preprocess_series(write(tmp_path / "a.npy", noise()), table, recipe(detrend=True), None)
        assert "mean framewise displacement 0.80 mm, expected at most 0.5" in quality["warnings"]

    @pytest.mark.parametrize(
        ("names", "changes", "message"),
        [
            (["cfs"], {}, "no column 'cfs', did you mean 'csf'"),
            (["csf"], {"csf": [*"a" * 40]}, "time point 1 of 'csf': expected a number, found 'a'"),
            (["csf"], {"csf": [1.0, np.nan, *range(38)]}, "'csf' has no value at time point 2"),
            (["csf"], {"csf": [np.nan] * 40}, "'csf' holds no number"),
        ],
    )
    def test_a_table_that_does_not_fit_is_a_reason(self, tmp_path, names, changes, message):
        image, table = write(tmp_path / "a.npy", noise()), self.table(tmp_path / "confounds.tsv", **changes)
        with pytest.raises(ScanError, match=message):
            preprocess_series(image, table, recipe(confounds=names), None)

    def test_a_missing_table_and_one_of_another_length_are_reasons(self, tmp_path):
        image = write(tmp_path / "a.npy", noise(50))
        with pytest.raises(ScanError, match="the samplesheet gives no table"):
            preprocess_series(image, None, recipe(confounds=["csf"]), None)
        with pytest.raises(ScanError, match="40 rows, the scan has 50 time points"):
            preprocess_series(image, self.table(tmp_path / "confounds.tsv"), recipe(), None)


class TestContent:
    def test_every_recipe_atlas_packing_and_turn_of_an_image_gives_one_content(self, tmp_path, blocks, monkeypatch):
        data, affine = coarse()
        plain = four_d(tmp_path / "a.nii", data, affine)
        turned = nib.load(plain).as_reoriented(nib.orientations.axcodes2ornt("PSR"))
        nib.save(turned, tmp_path / "b.nii.gz")
        two = load_atlas(str(label_image(tmp_path / "two.nii")))
        told = [
            preprocess_series(plain, None, recipe(), blocks),
            preprocess_series(plain, None, recipe(timepoints=8, standardise="zscore"), blocks),
            preprocess_series(plain, None, recipe(detrend=True), two),
            preprocess_series(tmp_path / "b.nii.gz", None, recipe(detrend=True), blocks),
        ]
        monkeypatch.setattr("tlimb.preprocess.series_image.BLOCK", 4 * data[..., :3].size)
        told.append(preprocess_series(plain, None, recipe(), blocks))
        raw = np.flip(data, 0).T[:8]  # to RAS, first axis fastest
        assert {quality["content"] for _, quality in told} == {sha(raw)}
        data[5, 5, 5, 7] += 1
        other = preprocess_series(four_d(tmp_path / "c.nii", data, affine), None, recipe(), blocks)[1]
        assert other["content"] != told[0][1]["content"]

    def test_every_recipe_kind_and_confounds_of_a_table_give_one_content(self, tmp_path):
        values = noise().astype(np.float32)
        table, array = write(tmp_path / "a.csv", values, list("abcde")), write(tmp_path / "b.npy", values)
        one, two = (write(tmp_path / f"{seed}.tsv", noise(40, 1, seed), ["csf"]) for seed in (1, 2))
        with_csf = recipe(detrend=True, standardise="zscore", confounds=["csf"])
        told = [
            preprocess_series(table, None, recipe(), None),
            preprocess_series(array, None, recipe(timepoints=8), None),
            preprocess_series(table, one, with_csf, None),
            preprocess_series(table, two, with_csf, None),
        ]
        assert {quality["content"] for _, quality in told} == {sha(values[:8])}
        assert not np.array_equal(told[2][0], told[3][0])
        other = preprocess_series(write(tmp_path / "c.npy", values + 1), None, recipe(), None)[1]
        assert other["content"] != told[0][1]["content"]

    def test_a_chunks_index_has_the_content_and_the_digest_of_the_files(self, tmp_path):
        files = [write(tmp_path / name, noise(40, 5, 3), list("abcde")) for name in ("a.csv", "b.csv")]
        csf = write(tmp_path / "csf.tsv", noise(40, 1), ["csf"])
        chunk = staged(tmp_path, files, [None, csf])
        rows = preprocess_chunk(chunk, recipe(), tmp_path / "images", confounds=tmp_path / "confounds")[1]
        assert rows[0]["content"] == rows[1]["content"] == sha(noise(40, 5, 3)[:8])
        raw = [files[0].read_bytes(), files[1].read_bytes() + csf.read_bytes()]
        assert [row["digest"] for row in rows] == [hashlib.sha256(part).hexdigest()[:16] for part in raw]

    def test_the_digest_of_an_image_is_of_the_whole_file_although_its_end_is_not_kept(self, tmp_path, blocks):
        data, affine = coarse()
        for name in ("a.nii", "a.nii.gz"):
            path = four_d(tmp_path / name, data, affine)
            told = preprocess_series(path, None, recipe(timepoints=8), blocks)[1]
            assert told["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class TestRepetitionTimes:
    def test_where_the_recipe_leaves_it_to_the_files_each_is_noted_and_the_odd_one_is_flagged(self, tmp_path):
        data, affine = coarse(spacing=24)
        times = (2.0, 0.72, 2.0, 0)
        files = [four_d(tmp_path / f"{number}.nii.gz", data, affine, tr=tr) for number, tr in enumerate(times)]
        chunk = staged(tmp_path, files)
        rows = preprocess_chunk(chunk, recipe(detrend=True), tmp_path / "images")[1]
        told = "0.72 s between time points, in most scans beside it 2 s"
        assert [told in row["warnings"] for row in rows] == [False, True, False, False]
        assert [row["notes"] for row in rows] == [f"{tr:g} s between time points" if tr else "" for tr in times]
        set_ = preprocess_chunk(chunk, recipe(detrend=True, tr=2.0), tmp_path / "images")[1]
        assert [("which is used" in row["warnings"], row["notes"]) for row in set_] == [
            (False, ""), (True, ""), (False, ""), (False, ""),
        ]  # fmt: skip

    def test_files_that_cannot_be_read_or_do_not_say_have_no_say(self, tmp_path):
        data, affine = coarse(points=8, spacing=24)
        os.mkfifo(tmp_path / "pipe.nii")
        (tmp_path / "torn.nii.gz").write_bytes(b"\x1f\x8b\x08 and nothing")
        odd = [tmp_path / "pipe.nii", tmp_path / "torn.nii.gz", tmp_path / "gone.nii", tmp_path / "a.dtseries.nii"]
        odd += [write(tmp_path / "a.csv", noise()), four_d(tmp_path / "none.nii", data, affine, tr=0)]
        assert common_tr(odd) is None
        times = [four_d(tmp_path / f"{tr}.nii", data, affine, tr=tr) for tr in (3.0, 0.8)]
        assert common_tr(odd + times) == 0.8 and common_tr([*odd, *times, times[0]]) == 3.0


class TestBadInput:
    def test_damage_behind_the_time_points_that_are_kept_is_a_reason(self, tmp_path, blocks):
        data, affine = coarse()
        whole = four_d(tmp_path / "whole.nii.gz", data, affine).read_bytes()
        plain = gzip.decompress(whole)
        damaged = {
            "torn": (whole[: len(whole) * 4 // 5], "truncated: the header promises .* bytes, the file holds"),
            "short": (gzip.compress(plain[:-4], 1), "truncated: the header promises .* bytes, the file holds"),
            "unsigned": (whole[:-4], "truncated: the compressed data break off before their checksum"),
            "wrong": (whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:], "damaged: incorrect data check"),
        }
        wanted = recipe(timepoints=10, detrend=True)
        preprocess_series(tmp_path / "whole.nii.gz", None, wanted, blocks)
        for name, (content, message) in damaged.items():
            path = tmp_path / f"{name}.nii.gz"
            path.write_bytes(content)
            with pytest.raises(ScanError, match=message):
                preprocess_series(path, None, wanted, blocks)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.csv", "", "empty"),
            ("a.csv", "\n\n\n", "holds no line"),
            ("a.csv", "a,b\n1,2\n3\n" + "1,2\n" * 40, "missing or infinite, the first at time point 2 of region b"),
            ("a.csv", "a,b\n1,2\n1,2,3\n", "cannot be read"),
            ("a.csv", "a,b\n" + "0,1,2\n" * 50, "the first line has 2 columns, others have more"),
            ("a.csv", "a;b\n1;2\n3;4\n", "time point 1, column 1: expected a number, found '1;2'"),
            ("a.csv", "a,b\n" + "1,2\n" * 20 + "1,two\n" * 30, "time point 21, column 2: .* found 'two'"),
            ("a.csv", "a,b\n" + "1,2\n" * 39 + "1,inf\n", "1 values are missing .* at time point 40 of region b"),
            ("a.csv", "a,a\n" + "1,2\n" * 40, "regions named more than once: a"),
            ("a.csv", "a,b\n" + "1,2\n" * 39, "holds 39 time points, the recipe keeps 40"),
            ("a.csv", "a,b\n" + "1,2\n" * 50, "no region's signal varies"),
            ("a.csv", "\udcff,b\n1,2\n", "cannot be read"),
            ("a.npy", "not numpy", "cannot be read"),
            ("a.xlsx", "x", "expected a 4D NIfTI image"),
            ("a.nii", "x" * 400, "not a readable NIfTI file"),
            ("a.nii.gz", "x" * 400, "not a readable NIfTI file|not gzip"),
            ("a.dtseries.nii", "x", "only .ptseries.nii"),
            ("a.ptseries.nii", "x" * 600, "cannot be read"),
        ],
    )
    def test_every_broken_file_is_a_reason(self, tmp_path, blocks, name, text, message):
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ScanError, match=message):
            preprocess_series(path, None, recipe(), blocks)

    def test_arrays_that_are_no_series_are_reasons(self, tmp_path):
        for values, message in (
            (np.zeros(40), "found 1 axes"),
            (np.zeros((40, 2, 2)), "found 3 axes"),
            (np.zeros((40, 0)), "an axis has length 0"),
            (np.array([["a"] * 3] * 40), "expected numbers"),
            (np.array([[None] * 3] * 40), "cannot be read"),
            (np.full((40, 2), np.nan), "80 values are missing"),
        ):
            np.save(tmp_path / "a.npy", values)
            with pytest.raises(ScanError, match=message):
                preprocess_series(tmp_path / "a.npy", None, recipe(), None)

    def test_images_that_are_no_series_are_reasons(self, tmp_path, blocks):
        data, affine = coarse()
        nib.save(nib.Nifti1Image(data[..., 0], affine), tmp_path / "flat.nii")
        short = four_d(tmp_path / "short.nii.gz", data[..., :10], affine)
        away = four_d(tmp_path / "away.nii", data, affine + np.array([[0, 0, 0, 900]] + [[0] * 4] * 3))
        torn = four_d(tmp_path / "torn.nii.gz", data, affine)
        torn.write_bytes(torn.read_bytes()[:20000])
        broken = four_d(tmp_path / "broken.nii", data, affine)
        broken.write_bytes(broken.read_bytes()[:20000])
        for path, message in (
            (tmp_path / "flat.nii", r"expected a 4D image, found 3D \(17 x 20 x 16\)"),
            (short, "holds 10 time points, the recipe keeps 40"),
            (away, "no region of the atlas lies inside"),
            (torn, "truncated"),
            (broken, "truncated"),
        ):
            with pytest.raises(ScanError, match=message):
                preprocess_series(path, None, recipe(), blocks)
        assert "4D" in series_problem(str(tmp_path / "flat.nii")) and "truncated" in series_problem(str(broken))
        with pytest.raises(ScanError, match="needs an atlas"):
            preprocess_series(short, None, recipe(), None)

    def test_paths_that_are_no_files_are_problems_and_nothing_hangs(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.csv")
        (tmp_path / "folder.npy").mkdir()
        (tmp_path / "gone.tsv").symlink_to(tmp_path / "nowhere.tsv")
        told = {"pipe.csv": "pipe", "folder.npy": "folder", "gone.tsv": "not there", "x.csv": "not found"}
        for name, message in told.items():
            assert message in series_problem(str(tmp_path / name))

    @settings(max_examples=60, deadline=None)
    @given(st.binary(min_size=1, max_size=200), st.sampled_from([".csv", ".tsv", ".txt", ".npy", ".nii", PARCELLATED]))
    def test_random_bytes_raise_nothing_but_a_reason(self, tmp_path_factory, content, ending):
        path = tmp_path_factory.getbasetemp() / f"random{ending}"
        path.write_bytes(content)
        problem = series_problem(str(path))
        assert problem is None or isinstance(problem, str)
        with pytest.raises(ScanError):
            preprocess_series(path, None, recipe(), None)

    @settings(max_examples=80, deadline=None)
    @given(st.lists(DAMAGE, min_size=1, max_size=4), st.booleans())
    def test_damaged_bytes_raise_nothing_but_a_reason(self, tmp_path_factory, blocks, damage, image):
        folder = tmp_path_factory.getbasetemp()
        whole = folder / ("whole.nii" if image else "whole.csv")
        if not whole.exists():
            data, affine = coarse(points=40, spacing=24)
            four_d(whole, data, affine) if image else write(whole, noise(), list("abcde"))
        raw, path = bytearray(whole.read_bytes()), folder / f"damaged{whole.suffix}"
        for place, value in damage:
            raw[int(place * min(len(raw), 600))] = value
        path.write_bytes(raw)
        try:
            array, quality = preprocess_series(path, None, recipe(detrend=True), blocks)
        except ScanError as error:
            assert str(error)
        else:
            assert np.isfinite(array).all() and isinstance(quality["warnings"], str)
