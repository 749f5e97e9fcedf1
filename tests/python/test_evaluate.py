"""Predictions and scores of saved models."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json, check_table
from training_jobs import make_people, make_store, pack_job, roles, stage, trial_line

import tlimb.evaluation.predict
from tlimb.data.dataset import ScanDataset
from tlimb.data.images import Images
from tlimb.data.modules import CropCenterDataModule
from tlimb.data.view import View
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate, OperatingPoint
from tlimb.evaluation.dropout import dropout_layers
from tlimb.evaluation.fitted import read_fitted
from tlimb.evaluation.predict import evaluate, predict, read_model
from tlimb.files import read_json, write_json
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.store import Store

CPU = torch.device("cpu")
QUICK = Evaluate(bootstrap=100)
TRIALS = [
    trial_line(stage("finetune", "diagnosis", strategy="scratch")),
    trial_line(
        stage("finetune", "diagnosis", strategy="scratch", optimizer={"class_path": "SGD", "init_args": {"lr": 1e30}})
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pack of one finished and one failed trial, with an external cohort, trained and evaluated."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("world")
    clinic, elsewhere = make_people("clinic", 20, seed=1), make_people("elsewhere", 6, seed=2)
    table = pd.concat(
        [roles(clinic, 5, 5), roles(elsewhere, 0, 6).assign(role="external:elsewhere")], ignore_index=True
    )
    make_store(folder / "store", table)
    pack_job(folder / "job", table, TRIALS)
    finetune(folder / "job", folder / "store", None, folder / "models", Settings(CPU))
    evaluate(folder / "job", folder / "store", folder / "models", folder / "scores", QUICK, CPU)
    return folder


@pytest.mark.parametrize(("part", "n"), [("validation", 5), ("test", 5), ("external-elsewhere", 6)])
def test_each_part_has_predictions_and_scores_of_the_contract(world, part, n):
    folder = world / "scores" / TRIALS[0]["id"]
    table, scores = pd.read_parquet(folder / f"predictions-{part}.parquet"), read_json(folder / f"scores-{part}.json")
    check_table("predictions", table)
    check_json("scores", scores)
    assert scores["n"] == {"scans": n, "persons": n} and scores["set"] == part
    assert scores["budget"] == read_json(world / "models" / TRIALS[0]["id"] / "model.json")["budget"]
    truth = np.where(table["truth_label"] == "patient", 1.0, 0.0)
    assert np.array_equal(table["truth"], truth) and table["scan_id"].is_monotonic_increasing
    probabilities = np.stack(table["probabilities"])
    assert np.array_equal(probabilities.argmax(axis=1), table["prediction"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    accuracy = scores["targets"]["diagnosis"]["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx((table["truth"] == table["prediction"]).mean())


def test_a_saved_model_predicts_what_the_history_says_of_its_best_epoch(world):
    trial = TRIALS[0]["id"]
    best = read_json(world / "models" / trial / "model.json")["best_epoch"]
    history = pd.read_csv(world / "models" / trial / "history.csv").set_index("epoch")
    scores = read_json(world / "scores" / trial / "scores-validation.json")["targets"]["diagnosis"]["metrics"]
    assert scores["balanced_accuracy"]["value"] == history.loc[best, "validation_balanced_accuracy"]
    assert scores["log_loss"]["value"] == pytest.approx(history.loc[best, "validation_loss"], rel=1e-4)


def test_a_failed_trial_has_scores_that_say_why_and_no_predictions(world):
    folder = world / "scores" / TRIALS[1]["id"]
    parts = ["external-elsewhere", "test", "validation"]
    assert sorted(path.name for path in folder.iterdir()) == ["fitted.json", *(f"scores-{part}.json" for part in parts)]
    assert read_json(folder / "fitted.json")["status"] == "failed" and read_fitted(folder) is None
    for part in parts:
        scores = read_json(folder / f"scores-{part}.json")
        check_json("scores", scores)
        assert scores["status"] == "failed" and "diverged" in scores["reason"] and scores["targets"] == {}
        assert scores["budget"] == TRIALS[1]["budget"]


def test_test_labels_change_the_truth_and_nothing_else(world, tmp_path):
    held_out = pd.read_parquet(world / "job" / "table-test.parquet")
    flipped = held_out.assign(diagnosis=held_out["diagnosis"].map({"control": "patient", "patient": "control"}))
    for name in ("job.json", "table-validation.parquet"):
        (tmp_path / name).write_bytes((world / "job" / name).read_bytes())
    flipped.to_parquet(tmp_path / "table-test.parquet")
    evaluate(tmp_path, world / "store", world / "models", tmp_path / "scores", QUICK, CPU)
    before, after = (
        pd.read_parquet(folder / "scores" / TRIALS[0]["id"] / "predictions-test.parquet")
        for folder in (world, tmp_path)
    )
    assert (before["truth"] == 1 - after["truth"]).all()
    assert before["probabilities"].map(list).equals(after["probabilities"].map(list))


def test_test_labels_change_nothing_that_is_fitted(world, tmp_path):
    held_out = pd.read_parquet(world / "job" / "table-test.parquet")
    for name in ("job.json", "table-validation.parquet"):
        (tmp_path / name).write_bytes((world / "job" / name).read_bytes())
    held_out.assign(diagnosis="patient").to_parquet(tmp_path / "table-test.parquet")
    evaluate(tmp_path, world / "store", world / "models", tmp_path / "scores", QUICK, CPU)
    for name in ("fitted.json", "scores-validation.json", "predictions-validation.parquet"):
        before, after = (folder / "scores" / TRIALS[0]["id"] / name for folder in (world, tmp_path))
        assert before.read_bytes() == after.read_bytes(), name


def test_what_is_fitted_is_written_before_any_other_part_is_predicted(world, tmp_path, monkeypatch):
    order = []
    for name in ("write_fitted", "write_parquet"):
        real = getattr(tlimb.evaluation.predict, name)
        told = lambda path, value, real=real: (order.append(Path(path).name), real(path, value))  # noqa: E731
        monkeypatch.setattr(tlimb.evaluation.predict, name, told)
    evaluate(world / "job", world / "store", world / "models", tmp_path, QUICK, CPU)
    parts = ["validation", "external-elsewhere", "test"]
    finished = [TRIALS[0]["id"], *(f"predictions-{part}.parquet" for part in parts)]
    assert order in ([*finished, TRIALS[1]["id"]], [TRIALS[1]["id"], *finished])


def test_every_part_is_called_at_the_point_that_validation_chose(world, tmp_path):
    asked = Evaluate(bootstrap=100, operating_point=OperatingPoint(sensitivity=1 - 1e-9), coverage=0.6)
    evaluate(world / "job", world / "store", world / "models", tmp_path, asked, CPU)
    folder = tmp_path / TRIALS[0]["id"]
    fitted = read_fitted(folder)["targets"]["diagnosis"]
    for part in ("validation", "test", "external-elsewhere"):
        table = pd.read_parquet(folder / f"predictions-{part}.parquet")
        assert (table["called"] == (np.stack(table["probabilities"])[:, 1] > fitted["threshold"])).all()
        scores = read_json(folder / f"scores-{part}.json")["targets"]["diagnosis"]
        cases = table[table["truth"] == 1]
        assert scores["metrics"]["sensitivity"]["value"] == cases["called"].mean()
        assert scores["conformal"]["coverage"] == 0.6 and fitted["conformal"]["n"] == 5
    validation = read_json(folder / "scores-validation.json")["targets"]["diagnosis"]["metrics"]
    assert validation["sensitivity"]["value"] == 1


def test_several_external_cohorts_are_sets_of_their_own(world, tmp_path):
    held_out = pd.read_parquet(world / "job" / "table-test.parquet")
    for name in ("job.json", "table-validation.parquet"):
        (tmp_path / name).write_bytes((world / "job" / name).read_bytes())
    outside = held_out["role"] == "external:elsewhere"
    few = held_out[outside].index[:3]
    held_out.loc[few, "role"] = "external:abroad"
    held_out.to_parquet(tmp_path / "table-test.parquet")
    evaluate(tmp_path, world / "store", world / "models", tmp_path / "scores", QUICK, CPU)
    folder = tmp_path / "scores" / TRIALS[0]["id"]
    parts = [read_json(folder / f"scores-external-{name}.json") for name in ("abroad", "elsewhere")]
    assert [part["n"]["persons"] for part in parts] == [3, 3]
    whole = pd.read_parquet(world / "scores" / TRIALS[0]["id"] / "predictions-external-elsewhere.parquet")
    split = [pd.read_parquet(folder / f"predictions-external-{name}.parquet") for name in ("abroad", "elsewhere")]
    both = pd.concat(split).sort_values("scan_id")
    np.testing.assert_allclose(np.stack(both["probabilities"]), np.stack(whole["probabilities"]), rtol=1e-6)


def test_without_a_layer_for_it_dropout_is_skipped_and_that_is_said(world, tmp_path):
    evaluate(world / "job", world / "store", world / "models", tmp_path, Evaluate(bootstrap=100, dropout=3), CPU)
    scores = read_json(tmp_path / TRIALS[0]["id"] / "scores-test.json")["targets"]["diagnosis"]
    assert scores["dropout"] is None and any("no such layer" in note for note in scores["notes"])
    assert pd.read_parquet(tmp_path / TRIALS[0]["id"] / "predictions-test.parquet")["dropout_sd"].isna().all()


@pytest.fixture(scope="module")
def dropping(world, tmp_path_factory):
    """Two targets of a network with dropout, evaluated with 3 passes."""
    folder = tmp_path_factory.mktemp("dropping")
    head = {"class_path": "MLPHead", "init_args": {"hidden": 8, "dropout": 0.5}}
    heads = {name: head | {"bins": None} for name in ("age", "diagnosis")}
    trial = trial_line(stage("finetune", "age", strategy="scratch", epochs=1, heads=heads))
    trial["spec"]["stages"][-1]["targets"] = ["age", "diagnosis"]
    table = roles(make_people("clinic", 60, seed=1), 20, 20)
    make_store(folder / "store", table)
    pack_job(folder / "job", table, [trial])
    finetune(folder / "job", folder / "store", None, folder / "models", Settings(CPU))
    settings = Evaluate(bootstrap=100, dropout=3)
    evaluate(folder / "job", folder / "store", folder / "models", folder / "scores", settings, CPU)
    return folder, trial["id"], settings


def test_passes_with_dropout_differ_and_repeat_exactly(dropping, tmp_path):
    folder, trial, settings = dropping
    evaluate(folder / "job", folder / "store", folder / "models", tmp_path, settings, CPU)
    for part in ("validation", "test"):
        one, two = (pd.read_parquet(of / trial / f"predictions-{part}.parquet") for of in (folder / "scores", tmp_path))
        assert one["dropout_sd"].tolist() == two["dropout_sd"].tolist() and (one["dropout_sd"] > 0).mean() > 0.5
        scores = read_json(folder / "scores" / trial / f"scores-{part}.json")["targets"]
        check_table("predictions", one)
        assert scores["age"]["dropout"]["passes"] == 3
        assert scores["age"]["dropout"]["metrics"]["mae"]["value"] != scores["age"]["metrics"]["mae"]["value"]
        assert set(scores["diagnosis"]["dropout"]["metrics"]) == set(scores["diagnosis"]["metrics"])


def test_dropout_leaves_the_predictions_without_it_alone(dropping, tmp_path):
    folder, trial, _ = dropping
    evaluate(folder / "job", folder / "store", folder / "models", tmp_path, QUICK, CPU)
    without, beside = (pd.read_parquet(of / trial / "predictions-test.parquet") for of in (tmp_path, folder / "scores"))
    assert without["prediction"].tolist() == beside["prediction"].tolist() and "dropout_sd" not in without
    assert read_json(tmp_path / trial / "fitted.json") == read_json(folder / "scores" / trial / "fitted.json")


def test_only_layers_that_drop_something_are_left_on():
    network = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(3), torch.nn.Dropout2d(0.0))
    network.append(torch.nn.Sequential(torch.nn.Dropout3d(0.1), torch.nn.AlphaDropout(0.1)))
    assert [type(layer).__name__ for layer in dropout_layers(network)] == ["Dropout", "Dropout3d", "AlphaDropout"]


def test_a_dataset_is_told_no_label_in_prediction(world):
    model, store = read_model(world / "models" / TRIALS[0]["id"]), Store(world / "store")
    part = pd.read_parquet(world / "job" / "table-test.parquet").assign(age=50.0, site="north")
    module = CropCenterDataModule(slices="axial")
    told = []

    def dataset(rows, targets, images):
        told.append(rows)
        return ScanDataset(rows, targets, images)

    images = Images(store, module, part["scan_id"])
    view = View(images, module.input_shape(store.shape), module, dataset)
    table = predict(model.network, model.targets, part, view, CPU)
    assert list(told[0]) == ["scan_id", "person", "diagnosis"] and told[0]["diagnosis"].isna().all()
    assert table["truth_label"].tolist() == part.sort_values("scan_id")["diagnosis"].tolist()


def test_evaluation_keeps_the_images_of_one_view_at_a_time(world, tmp_path, monkeypatch):
    planes = [{"class_path": "CropCenterDataModule", "init_args": {"slices": plane}} for plane in ("axial", "coronal")]
    stages = [stage("finetune", "diagnosis", strategy="scratch", epochs=1, module=planes[k]) for k in (0, 1, 0, 1)]
    trials = [trial_line(one, seed=seed) for seed, one in enumerate(stages)]
    table = roles(make_people("clinic", 20, seed=1), 5, 5)
    pack_job(tmp_path / "job", table, trials)
    alive = counted_images(monkeypatch)
    finetune(tmp_path / "job", world / "store", None, tmp_path / "models", Settings(CPU))
    gc.collect()
    evaluate(tmp_path / "job", world / "store", tmp_path / "models", tmp_path / "scores", QUICK, CPU)
    assert alive == [1, 1, 1, 1]
    assert all((tmp_path / "scores" / trial["id"] / "predictions-test.parquet").exists() for trial in trials)


def counted_images(monkeypatch) -> list[int]:
    """How many sets of images are held whenever one more is made, that one counted."""
    held, alive, make = weakref.WeakSet(), [], Images.__init__

    def count(self, *arguments, **named):
        make(self, *arguments, **named)
        held.add(self)
        alive.append(len(held))

    monkeypatch.setattr(Images, "__init__", count)
    return alive


def test_a_regression_is_predicted_in_the_labels_unit(tmp_path):
    people = make_people("clinic", 16)
    table, trial = roles(people, 4, 4), trial_line(stage("finetune", "age", strategy="scratch"))
    make_store(tmp_path / "store", table)
    pack_job(tmp_path / "job", table, [trial])
    finetune(tmp_path / "job", tmp_path / "store", None, tmp_path / "models", Settings(CPU))
    evaluate(tmp_path / "job", tmp_path / "store", tmp_path / "models", tmp_path / "scores", QUICK, CPU)
    predictions = pd.read_parquet(tmp_path / "scores" / trial["id"] / "predictions-test.parquet")
    check_table("predictions", predictions)
    assert predictions["truth"].tolist() == people["age"].tail(4).tolist()
    target = read_model(tmp_path / "models" / trial["id"]).targets[0]
    assert (abs(predictions["prediction"] - target.mean) < 5 * target.sd).all()
    assert predictions["probabilities"].isna().all() and predictions["truth_label"].isna().all()


def test_a_model_is_refused_on_scans_prepared_otherwise(world, tmp_path):
    table = pd.concat([pd.read_parquet(world / "job" / f"table-{part}.parquet") for part in ("validation", "test")])
    make_store(tmp_path / "store", table.assign(age=50.0), spacing=4.0)
    with pytest.raises(InputError, match="spacing 8.0 against 4.0"):
        evaluate(world / "job", tmp_path / "store", world / "models", tmp_path / "scores", QUICK, CPU)


def test_evaluation_does_not_import_lightning(world, tmp_path):
    command = Path(__file__).parents[2] / "bin" / "tlimb_evaluate.py"
    write_json(tmp_path / "settings.json", {"bootstrap": 100, "operating_point": {"youden": True}})
    arguments = ["--job", world / "job", "--store", world / "store", "--models", world / "models", "--out", tmp_path]
    arguments += ["--settings", tmp_path / "settings.json"]
    code = (
        f"import runpy, sys; sys.path[:] = {sys.path!r}\n"
        f"sys.argv = {[str(command), *map(str, arguments)]!r}\n"
        f"try: runpy.run_path({str(command)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'lightning'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    trial = TRIALS[0]["id"]
    again, before = (
        pd.read_parquet(folder / trial / "predictions-test.parquet") for folder in (tmp_path, world / "scores")
    )
    assert again["probabilities"].map(list).equals(before["probabilities"].map(list))
