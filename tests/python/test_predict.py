"""`tlimb predict`: new scans through a trained model's own preprocessing, against what EVALUATE says of the same."""

import math
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from predict_world import make_run, prepare, write_scan
from series_scans import noise, write
from series_scans import recipe as series_recipe
from training_jobs import make_people, pack_job, roles, stage, trial_line

from tlimb.architectures.forward import batch_size
from tlimb.cli import main
from tlimb.errors import InputError
from tlimb.evaluation.calibration import rescaled
from tlimb.files import read_json, write_json
from tlimb.predict import prepare as preparing
from tlimb.predict.predictions import Familiar
from tlimb.predict.run import Options, asked, predicted
from tlimb.predict.scans import find_scans
from tlimb.predict.table import warnings_of
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sheet(run):
    """A samplesheet of the people who were tested on, last first."""
    return write_sheet(run.folder / "new.csv", run.people.tail(5)[::-1])


@pytest.fixture(scope="module")
def whole(run, sheet):
    """The table of these people by the model of every kind of target."""
    return table_of(run.models.every, sheet)


def write_sheet(path, people, **changes):
    subjects = people["person"].str.split("/").str[1]
    frame = pd.DataFrame({"cohort": "clinic", "subject": subjects, "image": people["image"].map(str)})
    frame.assign(**changes).to_csv(path, index=False)
    return path


def table_of(*paths, **options):
    models, scans, _ = asked(paths, Options(device="cpu", **options))
    return predicted(models, scans, Options(device="cpu", **options))[0]


def evaluated(run, name, part="test"):
    """What EVALUATE wrote of a model, by target and scan."""
    table = pd.read_parquet(run.folder / "scores" / run.models.__dict__[name].name / f"predictions-{part}.parquet")
    return table.set_index(["target", "scan_id"])


def fitted(run, name):
    return read_json(run.folder / "scores" / run.models.__dict__[name].name / "fitted.json")["targets"]


def probabilities(rows, classes):
    return rows[[f"probability_{name}" for name in classes]].to_numpy(float)


# Numbers


@pytest.mark.parametrize("name", ["every", "first", "linear", "slices"])
def test_numbers_are_those_of_evaluate_bit_for_bit(run, sheet, name):
    facts, there = read_json(run.models.__dict__[name] / "model.json")["targets"], fitted(run, name)
    table, known = table_of(run.models.__dict__[name], sheet), evaluated(run, name)
    assert (table["status"] == "ok").all() and set(table["target"]) == set(facts)
    for target, rows in table.groupby("target"):
        own = known.loc[target].loc[rows["scan"]]
        if facts[target]["classes"]:
            assert rows["prediction"].tolist() == own["prediction_label"].tolist()
            raw, temperature = np.stack(own["probabilities"]), there[target]["temperature"]
            shown = raw if temperature is None else rescaled(raw, temperature, facts[target]["kind"])
            assert np.array_equal(probabilities(rows, facts[target]["classes"]), shown)
        else:
            assert np.array_equal(rows["prediction"].to_numpy(float), own["prediction"])


def test_a_scan_alone_has_the_numbers_that_it_has_among_others(run, whole):
    alone = table_of(run.models.every, run.people["image"].iloc[-1])
    among = whole[whole["scan"] == run.people["scan_id"].iloc[-1]].reset_index(drop=True)
    said = ["scan", "person", "warnings"]
    pd.testing.assert_frame_equal(alone.drop(columns=said), among[alone.columns].drop(columns=said))


def test_intervals_and_sets_are_the_conformal_ones_of_validation(run, sheet):
    table, known = table_of(run.models.every, sheet, coverage=0.8), evaluated(run, "every", "validation")
    place = math.ceil(13 * 0.8)  # of 12 validation scans
    age, own = table[table["target"] == "age"], known.loc["age"]
    reach = np.sort(np.abs(own["truth"] - own["prediction"]))[place - 1]
    prediction = age["prediction"].astype(float)
    np.testing.assert_allclose(age["high"] - prediction, reach)
    np.testing.assert_allclose(prediction - age["low"], reach)
    own = known.loc["diagnosis"]
    misfit = 1 - np.stack(own["probabilities"])[np.arange(12), own["truth"].astype(int)]
    test = evaluated(run, "every").loc["diagnosis"]
    for _, row in table[table["target"] == "diagnosis"].iterrows():
        inside = 1 - test.loc[row["scan"], "probabilities"] <= np.sort(misfit)[place - 1]
        assert row["set"] == (";".join(np.array(["control", "patient"])[inside]) or ";")


def test_without_an_option_coverage_is_the_fitted_one(run, whole):
    age, there = whole[whole["target"] == "age"], fitted(run, "every")["age"]["conformal"]
    assert there["coverage"] == 0.9
    np.testing.assert_allclose(age["high"] - age["low"], 2 * there["quantile"])


def test_several_models_are_averaged_and_their_mean_is_calibrated_anew(run, sheet):
    table = table_of(run.models.first, run.models.second, sheet, coverage=0.8)
    both = [evaluated(run, name).loc["diagnosis"].loc[table["scan"]] for name in ("first", "second")]
    each = np.stack([np.stack(one["probabilities"]) for one in both])
    mean = each.mean(axis=0)
    said = mean.argmax(axis=1)
    assert table["prediction"].tolist() == [["control", "patient"][one] for one in said]
    np.testing.assert_allclose(table["spread"], each.std(axis=0)[np.arange(5), said])
    assert np.array_equal(probabilities(table, ["control", "patient"]).argmax(axis=1), said)
    seen = [evaluated(run, name, "validation").loc["diagnosis"] for name in ("first", "second")]
    average = np.mean([np.stack(one["probabilities"]) for one in seen], axis=0)
    misfit = 1 - average[np.arange(12), seen[0]["truth"].astype(int)]
    inside = 1 - mean <= np.sort(misfit)[math.ceil(13 * 0.8) - 1]
    assert table["set"].tolist() == [";".join(np.array(["control", "patient"])[row]) or ";" for row in inside]


def test_dropout_tells_a_spread_that_repeats(run, sheet):
    first, again = (table_of(run.models.first, sheet, dropout=8) for _ in range(2))
    assert (first["dropout_sd"] > 0).all() and first["dropout_sd"].equals(again["dropout_sd"])
    assert first.drop(columns="dropout_sd").equals(table_of(run.models.first, sheet))
    models, scans, _ = asked([run.models.every, run.people["image"].iloc[-1]], Options())
    table, notes = predicted(models, scans, Options(dropout=2, device="cpu"))
    assert "dropout_sd" not in table and any("no dropout layer" in note for note in notes)


def test_parts_of_many_scans_give_the_table_of_all_at_once(run, sheet, whole, monkeypatch, tmp_path):
    monkeypatch.setattr(preparing, "PART", 2)
    assert whole.equals(table_of(run.models.every, sheet, keep=tmp_path / "kept", threads=2))
    kept = Store(tmp_path / "kept")
    assert kept.shards == ["00000", "00001", "00002"] and set(kept.index["scan_id"]) == set(whole["scan"])
    with pytest.raises(InputError, match="holds prepared scans already"):
        table_of(run.models.every, sheet, keep=tmp_path / "kept")


def test_the_threshold_of_the_run_is_what_a_case_is_called_at(run, sheet, whole, tmp_path):
    model = shutil.copytree(run.models.every, tmp_path / "model")
    facts = read_json(run.folder / "scores" / run.ids.every / "fitted.json")
    raw = np.stack(evaluated(run, "every").loc["diagnosis"]["probabilities"])[:, 1]
    facts["targets"]["diagnosis"]["threshold"] = float(np.sort(raw)[2])
    write_json(model / "fitted.json", facts)
    rows = table_of(model, sheet).query("target == 'diagnosis'").sort_values("scan")
    assert rows["called"].tolist() == [["control", "patient"][int(p > np.sort(raw)[2])] for p in raw]
    assert "called" not in whole


# What is said of a scan


def test_people_of_training_and_looks_unlike_validation_are_warned_of(run, tmp_path):
    image = nib.load(run.people["image"].iloc[-1])
    data = np.random.default_rng(0).normal(500, 200, image.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, image.affine), tmp_path / "noise.nii.gz")
    new = write_scan(tmp_path / "new.nii.gz", 999)
    images, persons = [tmp_path / "noise.nii.gz", new], ["clinic/sub-000", "clinic/new"]
    people = run.people.iloc[[0, 0]].assign(image=images, person=persons)
    table = table_of(run.models.first, write_sheet(tmp_path / "new.csv", people)).set_index("scan")
    strange, plain = table.loc["clinic/sub-000/1/T1w"], table.loc["clinic/new/1/T1w"]
    assert "trained, chosen or tested on" in strange["warnings"] and "looks unlike" in strange["warnings"]
    assert "validated on (against 12 validation scans)" in strange["warnings"]
    assert strange["familiarity"] == 1 / 13 < plain["familiarity"]
    assert "tested on" not in plain["warnings"] and "looks unlike" not in plain["warnings"]
    assert "overlaps little with the brain" in strange["warnings"]  # of quality control


def test_a_doubt_says_how_many_scans_stand_behind_it_where_models_had_different_numbers():
    scan = SimpleNamespace(modality="T1w", person="")
    index = pd.DataFrame({"warnings": ["", ""], "status": ["failed", "ok"]})
    familiar = Familiar(np.array([0.01]), np.array([True]), (30, 12, 12))
    said = warnings_of([scan, scan], index, familiar, set(), [])
    assert said == ["", "looks unlike the scans that the model was validated on (against 12 to 30 validation scans)"]


def test_a_scan_of_another_modality_than_trainings_is_warned_of(run, tmp_path):
    model = shutil.copytree(run.models.linear, tmp_path / "model")
    facts = read_json(model / "model.json")
    facts["spec"]["stages"][-1]["data"]["labelled"]["modality"] = ["T2w"]
    write_json(model / "model.json", facts)
    image = shutil.copy(run.people["image"].iloc[-1], tmp_path / "sub-1_T1w.nii.gz")
    other = shutil.copy(image, tmp_path / "other.nii.gz")
    warnings = table_of(model, image, other).drop_duplicates("scan")["warnings"].tolist()
    assert "is of modality T1w, and the model was trained on T2w" in warnings[0] and "trained on" not in warnings[1]
    with pytest.raises(InputError, match="no GPU answers") if not torch.cuda.is_available() else nullcontext():
        predicted(*asked([model, image], Options())[:2], Options(device="cuda"))


def test_a_scan_that_cannot_be_prepared_keeps_its_rows_with_the_reason(run, tmp_path):
    image = nib.load(run.people["image"].iloc[-1])
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.float32), image.affine), tmp_path / "blank.nii.gz")
    arguments = ["predict", run.models.every, tmp_path / "blank.nii.gz", "--out", tmp_path / "out.csv"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu", str(run.people["image"].iloc[-1])])
    table = pd.read_csv(tmp_path / "out.csv")
    assert done.exit_code == 0 and "1 of 2 scans predicted" in done.stdout and "empty image" in done.stderr
    assert table["status"].tolist() == ["failed"] * 5 + ["ok"] * 5
    assert table["reason"][:5].str.contains("empty image").all() and table["prediction"][:5].isna().all()
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 1 and len(pd.read_csv(tmp_path / "out.csv")) == 5


def test_without_fitted_json_it_is_said_and_probabilities_stay_as_they_are(run, sheet, tmp_path):
    model = shutil.copytree(run.models.every, tmp_path / "model")
    models, scans, _ = asked([model, sheet], Options())
    table, notes = predicted(models, scans, Options(device="cpu"))
    assert "without sets and intervals" in notes[0] and not {"low", "set", "familiarity"} & set(table)
    rows = table[table["target"] == "diagnosis"]
    own = evaluated(run, "every").loc["diagnosis"].loc[rows["scan"]]
    assert np.array_equal(probabilities(rows, ["control", "patient"]), np.stack(own["probabilities"]))
    with pytest.raises(InputError, match="--confidence: cannot be had"):
        predicted(models, scans, Options(device="cpu", coverage=0.8))


def test_slices_pass_sixteen_at_a_time_and_large_volumes_fewer():
    sizes = {(1, 80, 96): 16, (1, 40, 48, 40): 16, (1, 80, 96, 80): 4, (1, 160, 192, 160): 1, (200, 100): 16}
    assert {shape: batch_size(shape) for shape in sizes} == sizes


# What is named


def test_everything_wrong_with_models_and_scans_is_told_at_once(run, tmp_path):
    four = np.zeros((4, 4, 4, 3), np.float32)
    nib.save(nib.Nifti1Image(four, np.eye(4)), tmp_path / "four.nii.gz")
    (tmp_path / "new.csv").write_text("imgae,sesion\nx.nii,1\n")
    scans = [tmp_path / name for name in ("absent.nii.gz", "four.nii.gz", "new.csv")]
    with pytest.raises(InputError) as raised:
        asked([run.models.failed, run.models.every, *scans], Options())
    wrong = ["its training failed", "absent.nii.gz: file not found", "found 4D", "'image' is missing"]
    for text in (*wrong, "did you mean 'session'?"):
        assert text in str(raised.value)
    assert len(raised.value.problems) == 5


def test_models_that_do_not_go_together_or_were_made_otherwise_are_refused(run, sheet, tmp_path):
    with pytest.raises(InputError, match="predicts age .*the first model diagnosis"):
        asked([run.models.first, run.models.slices, sheet], Options())
    model = shutil.copytree(run.models.every, tmp_path / "model")
    write_json(model / "model.json", read_json(model / "model.json") | {"fingerprint": "0" * 12})
    with pytest.raises(InputError, match="prepared otherwise .*it was made with tlimb"):
        asked([model, sheet], Options())
    with pytest.raises(InputError, match="no model is among these"):
        asked([sheet], Options())
    with pytest.raises(InputError, match="none was named"):
        asked([run.models.every], Options())


def test_the_folder_of_results_stands_for_the_models_ranked_best(run, sheet, tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("every", "first", "second"):
        (tmp_path / "models" / run.models.__dict__[name].name).symlink_to(run.models.__dict__[name])
    trials = [{"id": run.models.__dict__[name].name, "status": "ok"} for name in ("first", "second")]
    rows = [{"candidate": "b", "name": "small", "trials": [*trials, {"id": "gone", "status": "failed"}]}]
    write_json(tmp_path / "ranking" / "ranking.json", {"best": "b", "candidates": rows})
    models, _, notes = asked([tmp_path, sheet], Options())
    assert models.folders == [tmp_path / "models" / trial["id"] for trial in trials]
    assert "small: 2 models, averaged" in notes[0]


def test_a_run_that_is_not_ranked_yet_is_told_from_a_folder_of_scans(run, sheet, tmp_path):
    results = tmp_path / "results"
    write_json(results / "cohort" / "cohort.json", {})
    with pytest.raises(InputError) as caught:
        asked([results, sheet], Options())
    (problem,) = caught.value.problems
    assert problem.where == str(results) and "no ranking/ranking.json is there, and no trained model" in problem.message
    assert f"tlimb watch {results}" in problem.hint and "-resume" in problem.hint
    shutil.copytree(run.models.every, results / "models" / run.models.every.name)
    failed = CliRunner().invoke(main, ["predict", str(results), str(sheet), "--out", str(tmp_path / "out.csv")])
    assert failed.exit_code == 1 and f"1 trained model in {results / 'models'}" in failed.output
    assert "or name one of its models" in failed.output and not (tmp_path / "out.csv").exists()


def test_a_plain_folder_gives_its_images_in_order_and_leaves_masks_out(run, tmp_path):
    for name in ("scan-10.nii.gz", "scan-2.nii.gz", "scan-2_mask.nii.gz", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    scans, notes = find_scans([tmp_path], "volume", ())
    assert [scan.image for scan in scans] == [str(tmp_path / name) for name in ("scan-2.nii.gz", "scan-10.nii.gz")]
    assert "scan-2_mask.nii.gz" in notes[0]


def test_a_bids_folder_gives_one_modality_with_names_and_persons(run, tmp_path):
    for modality in ("T1w", "FLAIR"):
        (tmp_path / "sub-01" / "anat").mkdir(parents=True, exist_ok=True)
        shutil.copy(run.people["image"].iloc[0], tmp_path / "sub-01" / "anat" / f"sub-01_{modality}.nii.gz")
    with pytest.raises(InputError, match="several modalities: FLAIR, T1w"):
        find_scans([tmp_path], "volume", ())
    with pytest.raises(InputError, match="no scan of modality T2w .there are FLAIR, T1w"):
        find_scans([tmp_path], "volume", ["T2w"])
    with pytest.raises(InputError, match="holds no scan that the model takes"):
        find_scans([tmp_path], "series", ())
    (scan,), _ = find_scans([tmp_path], "volume", ["FLAIR"])
    name = tmp_path.name
    assert (scan.name, scan.person, scan.modality) == (f"{name}/sub-01/1/FLAIR", f"{name}/sub-01", "FLAIR")


def test_a_samplesheet_needs_images_alone_and_is_checked_by_row(run, tmp_path):
    image = run.people["image"].iloc[0]
    (tmp_path / "new.tsv").write_text(f"image\tage\n{image}\t50\n")
    (scan,), _ = find_scans([tmp_path / "new.tsv"], "volume", ())
    assert (scan.name, scan.person, scan.modality) == (str(image), "", "T1w")
    rows = f"{image},T1w\n,T1w\n{image}x,T1w\n{image}y,bold\n"
    (tmp_path / "bad.csv").write_text(f"image,modality\n{rows}")
    with pytest.raises(InputError, match="row 2 .line 3., column image: empty"):
        find_scans([tmp_path / "bad.csv"], "volume", ())
    (tmp_path / "bad.csv").write_text(f"image,modality\n{rows.replace(',T1w' + chr(10) + ',T1w', ',T1w')}")
    with pytest.raises(InputError, match="is of modality bold, and the model takes 3D images"):
        find_scans([tmp_path / "bad.csv"], "volume", ())
    with pytest.raises(InputError, match="stands 2 times"):
        find_scans([image, image], "volume", ())


def test_nothing_heavy_is_imported_before_the_input_is_known_to_be_right(run):
    code = (
        "import sys; from tlimb.cli import main\n"
        f"try: main({['predict', str(run.models.every), 'absent.nii.gz']!r})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False"] and "absent.nii.gz: file not found" in done.stderr


# Time series


def test_series_are_predicted_with_their_regions_in_the_order_of_the_model(tmp_path):
    names = ["a", "b", "c", "d", "e"]
    people = make_people("parcels", 24, seed=3)
    (tmp_path / "scans").mkdir()
    people["image"] = [write(tmp_path / "scans" / f"{n}.csv", noise(seed=n), names) for n in range(24)]
    prepare(tmp_path / "store", people, tmp_path / "images", series_recipe(standardise="zscore"), "bold")
    module = {"class_path": "SeriesDataModule", "init_args": {}}
    network = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 1, "width": 0.125}}
    learned = stage("finetune", "diagnosis", module=module, strategy="scratch", epochs=1)
    trial = trial_line(learned, architecture=network)
    pack_job(tmp_path / "job", roles(people.drop(columns="image"), 6, 6), [trial])
    finetune(tmp_path / "job", tmp_path / "store", None, tmp_path / "models", Settings(torch.device("cpu")))
    model = tmp_path / "models" / trial["id"]
    write_json(model / "model.json", read_json(model / "model.json") | {"regions": names})
    turned = write(tmp_path / "turned.csv", noise(seed=23)[:, ::-1], names[::-1])
    table = table_of(model, people["image"].iloc[-1], turned)
    first, second = table.to_dict("records")
    assert first["probability_patient"] == second["probability_patient"]
    other = write(tmp_path / "other.csv", noise(seed=23), ["v", "w", "x", "y", "z"])
    table = table_of(model, people["image"].iloc[-1], other)
    assert table["status"].tolist() == ["ok", "failed"] and "other names" in table["reason"].iloc[1]
