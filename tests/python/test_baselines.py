"""Baselines: simple features against their formulas, fitted heads against scikit-learn, and the files they leave."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from training_jobs import make_people, make_store, pack_job, roles, stage, trial_line

from tlimb import registry
from tlimb.architectures.baselines import BoostedBaseline, LinearBaseline
from tlimb.architectures.boosted_trees import BoostedTreesHead, fit_trees, not_above
from tlimb.architectures.build import build_network
from tlimb.architectures.linear_fit import PENALTIES, fit_logistic, fit_ridge
from tlimb.architectures.simple_features import labels_on_grid, simple_features
from tlimb.config import read_sweep
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate
from tlimb.files import read_json
from tlimb.preprocess.atlas import load_atlas
from tlimb.preprocess.template import load_template
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.search.space import grid as grid_of

CPU = torch.device("cpu")
RECIPE = {"kind": "volume", "spacing": 8.0, "shape": None, "resampling": "linear"}
SHAPE = (24, 24, 24)
WHOLE = {"class_path": "BaseDataModule", "init_args": {}}
LINEAR = {"class_path": "LinearBaseline", "init_args": {}}
BOOSTED = {"class_path": "BoostedBaseline", "init_args": {"trees": 40, "least": 5, "learning_rate": 0.1}}


@cache
def template_image() -> np.ndarray:
    """The template's intensities, 0 to 1, on the grid."""
    import nibabel

    from tlimb.preprocess.template import template_path
    from tlimb.preprocess.volume import Volume, resample, shrink

    image = nibabel.load(template_path())
    volume = Volume(image.get_fdata(dtype=np.float32) / 255, image.affine)
    return np.nan_to_num(resample(shrink(volume, 8.0), np.eye(4), *grid()))


def volumes(n: int = 3, seed: int = 0) -> np.ndarray:
    """Volumes like those of a store: the template's tissues with noise in the brain, 0 around it."""
    template = load_template(8.0)
    assert template.shape == SHAPE
    noise = np.random.default_rng(seed).normal(0, 0.4, size=(n, *SHAPE))
    return (np.where(template.mask, 5 * template_image() - 3 + noise, 0)).astype("float16")


def features_of(images: np.ndarray) -> np.ndarray:
    simple = simple_features((1, *SHAPE), RECIPE)
    return simple(torch.from_numpy(images.astype("float32"))[:, None]).numpy().reshape(len(images), -1, 5)


class TestRegionalFeatures:
    def test_they_are_their_formulas(self):
        images = volumes()
        simple, labels = simple_features((1, *SHAPE), RECIPE), labels_on_grid(*grid())
        for image, found in zip(images.astype("float64"), features_of(images)):
            grey, white = (np.sort(image.ravel()[places])[len(places) // 2] for places in (simple.grey, simple.white))
            scaled = (image - grey) / (white - grey)
            for number, five in zip(np.unique(labels[labels > 0]), found):
                there = labels == number
                brain = there & (image != 0)
                tissues = [scaled < -0.7, (scaled >= -0.7) & (scaled < 0.5), scaled >= 0.5]
                shares = [(brain & tissue).sum() / there.sum() for tissue in tissues]
                np.testing.assert_allclose(five, [image[brain].mean(), image[brain].std(), *shares], atol=2e-6)

    def test_tissue_does_not_depend_on_the_intensity_scale(self):
        images = volumes().astype("float32")
        other = np.where(images == 0, 0, 256 + 32 * images)
        turned = np.where(images == 0, 0, 9 - images)
        for changed in (other, turned):
            np.testing.assert_array_equal(features_of(changed)[:, :, 2:], features_of(images)[:, :, 2:])

    def test_in_the_template_each_tissue_is_where_it_should_be(self):
        template = np.where(load_template(8.0).mask, template_image(), 0)
        labels, five = labels_on_grid(*grid()), features_of(template[None])[0]
        names = load_atlas("blocks").names
        white = {name: row[4] for name, row in zip(names, five)}
        assert white["left-2-upper-inner"] > white["left-4-upper-outer"] and 0.25 < five[:, 4].mean() < 0.6
        shrunk = template.copy()
        eaten = np.flatnonzero((labels == 3) & (template > 0.55) & (template < 0.7))[:5]
        shrunk.ravel()[eaten] = 0.3
        change = features_of(shrunk[None])[0] - five
        size = (labels == 3).sum()
        np.testing.assert_allclose(change[2, 2:], [5 / size, -5 / size, 0], atol=1e-6)
        assert change[2, 0] < 0 and not np.delete(change, 2, 0)[:, 2:].any()

    def test_each_voxel_has_the_label_of_the_atlas_at_its_centre(self):
        atlas, (affine, shape) = load_atlas("blocks"), grid()
        found = labels_on_grid(affine, shape)
        assert len(np.unique(found[found > 0])) == 32
        for place in np.argwhere(found > 0)[::97]:
            index = np.linalg.inv(atlas.affine) @ affine @ [*place, 1]
            assert atlas.labels[tuple(np.round(index[:3]).astype(int))] == found[tuple(place)]

    def test_an_atlas_of_ones_own_is_no_argument(self):
        for name in ("LinearBaseline", "BoostedBaseline"):
            problems = registry.check("architecture", name, {"atlas": "own.nii.gz"}, "architecture")
            assert [problem.where for problem in problems] == ["architecture.init_args.atlas"]

    def test_a_scan_that_is_all_background_has_finite_features(self):
        assert not features_of(np.zeros((1, *SHAPE))).any()

    @pytest.mark.parametrize(
        "shape, recipe, message",
        [
            ((1, 24, 24, 16), RECIPE, r"grid \(24, 24, 24\), the data have \(24, 24, 16\)"),
            ((3, 24, 24), RECIPE, "expected whole volumes"),
            ((1, *SHAPE), RECIPE | {"resampling": "none"}, "grids of their own"),
            ((1, 100), None, "at least 2 regions"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, shape, recipe, message):
        with pytest.raises(InputError, match=message):
            simple_features(shape, recipe)

    def test_shapes_are_known_without_numbers(self):
        with torch.device("meta"):
            encoder = LinearBaseline(input_shape=(1, *SHAPE), recipe=RECIPE)
        assert encoder(torch.empty(2, 1, *SHAPE, device="meta")).shape == (2, 160) and encoder.features == 160


def grid() -> tuple[np.ndarray, tuple]:
    return load_template(8.0).affine, SHAPE


class TestConnectivity:
    def test_it_is_the_fisher_transform_of_correlations(self):
        series = np.random.default_rng(1).normal(size=(2, 6, 50)).astype("float32")
        series[:, 1] += series[:, 0]
        found = simple_features((6, 50), None)(torch.from_numpy(series)).numpy()
        expected = [np.arctanh(np.corrcoef(one.astype("float64"))[np.triu_indices(6, 1)]) for one in series]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_signals_that_are_constant_or_alike_stay_finite(self):
        series = torch.randn(1, 3, 40)
        series[:, 1], series[:, 2] = 2.0, -series[:, 0]
        found = simple_features((3, 40), None)(series)[0]
        assert found[0] == found[2] == 0 and found[1] < -5 and found.isfinite().all()


def made(n: int, classes: int = 0, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width), one of them constant, and labels that depend on some of them."""
    random = np.random.default_rng(seed)
    features = (random.normal(size=(n, width)) * random.uniform(0.1, 5, width) + 3).astype("float32").astype("float64")
    features[:, 2] = 0.3
    signal = (features[:, 0] - 3) / features[:, 0].std() + random.normal(size=n)
    cuts = np.quantile(signal, np.arange(1, classes) / max(classes, 1))
    return features, np.digitize(signal, cuts).astype(float) if classes else signal


def standardised(features: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (features - by.mean(0)) / np.where(by.std(0) > 1e-9, by.std(0), np.inf)


class TestLinearFit:
    def test_ridge_regression_is_scikit_learns_with_the_best_penalty_on_validation(self):
        train, validation = made(60), made(40, seed=1)
        weights, constants, penalty = fit_ridge(train, validation)
        losses = {}
        for each in PENALTIES:
            model = Ridge(alpha=each * 60).fit(standardised(train[0], train[0]), train[1])
            predicted = model.predict(standardised(validation[0], train[0]))
            losses[each] = np.mean((predicted - validation[1]) ** 2)
            if each == penalty:
                np.testing.assert_allclose(validation[0] @ weights[0] + constants, predicted, atol=1e-8)
        assert min(losses, key=losses.get) == penalty and weights[0, 2] == 0

    @pytest.mark.parametrize("classes", [2, 3])
    def test_logistic_regression_is_scikit_learns_with_the_best_penalty_on_validation(self, classes):
        train, validation = made(90, classes), made(60, classes, seed=1)
        weights, constants, penalty = fit_logistic(train, validation, classes)
        losses = {}
        for each in PENALTIES:
            model = LogisticRegression(C=1 / (each * 90), tol=1e-8, max_iter=5000)
            model.fit(standardised(train[0], train[0]), train[1])
            probabilities = model.predict_proba(standardised(validation[0], train[0]))
            losses[each] = -np.log(probabilities[np.arange(60), validation[1].astype(int)]).mean()
            if each == penalty:
                found = torch.from_numpy(validation[0] @ weights.T + constants).softmax(1)
                np.testing.assert_allclose(found, probabilities, atol=1e-4)
        assert min(losses, key=losses.get) == penalty

    def test_a_scan_that_is_drawn_twice_weighs_twice(self):
        features, labels = made(60)
        twice = np.concatenate([np.arange(60), np.arange(30)])
        weights, constants, penalty = fit_ridge((features[twice], labels[twice]), made(40, seed=1))
        weight = np.where(np.arange(60) < 30, 2.0, 1.0)
        scaled = standardised(features, features[twice])
        model = Ridge(alpha=penalty * 90).fit(scaled, labels, sample_weight=weight)
        np.testing.assert_allclose(features @ weights[0] + constants, model.predict(scaled), atol=1e-8)

    def test_more_features_than_scans_and_a_class_that_nobody_has(self):
        train, validation = made(30, 2, width=200), made(20, 2, width=200, seed=1)
        weights, constants, _ = fit_logistic((train[0], 2 * train[1]), (validation[0], 2 * validation[1]), 3)
        assert np.isfinite(weights).all() and not weights[1].any() and constants[1] == -np.log(30)
        assert np.isfinite(fit_ridge(made(30, width=200), made(20, width=200))[0]).all()


class Shape:
    """What a head of trees asks of its encoder."""

    trees, depth = 25, 3


class TestBoostedTrees:
    @pytest.mark.parametrize("classes", [0, 2, 4])
    def test_torch_predicts_what_scikit_learn_predicts(self, classes):
        train, validation = made(300, classes), made(200, classes, seed=1)
        head = BoostedTreesHead(Shape, classes or 1)
        kept = fit_trees(head, train, validation, classes, 0.1, 10)
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        settings = {"max_depth": 3, "max_leaf_nodes": None, "min_samples_leaf": 10, "early_stopping": False}
        model = kind(max_iter=kept, learning_rate=0.1, **settings).fit(*train)
        for features in (train[0], validation[0], made(2000, seed=2)[0] * 3):
            found = head(torch.from_numpy(features).float())
            expected = model.predict_proba(features) if classes else model.predict(features)[:, None]
            np.testing.assert_allclose(found.softmax(1) if classes else found, expected, atol=1e-6)
        assert 1 <= kept <= 25 and not any(parameter.requires_grad for parameter in head.parameters())

    def test_features_on_and_beside_a_threshold_go_the_same_way(self):
        train = made(300)
        head = BoostedTreesHead(Shape, 1)
        fit_trees(head, train, train, 0, 0.1, 10)
        model = HistGradientBoostingRegressor(
            max_iter=25, max_depth=3, max_leaf_nodes=None, min_samples_leaf=10, early_stopping=False
        )
        nodes = np.concatenate([each[0].nodes for each in model.fit(*train)._predictors])
        marks = np.float32(nodes["num_threshold"][nodes["is_leaf"] == 0])
        edges = np.concatenate([marks, np.nextafter(marks, np.float32(9)), np.nextafter(marks, np.float32(-9))])
        features = np.repeat(edges[:, None], 12, 1).astype("float32")
        np.testing.assert_allclose(head(torch.from_numpy(features))[:, 0], model.predict(features), atol=1e-6)

    def test_a_threshold_is_rounded_down(self):
        for value in np.random.default_rng(0).normal(size=200) * 1e3:
            rounded = not_above(value)
            assert float(rounded) <= value < float(np.nextafter(rounded, np.float32(np.inf)))

    def test_the_number_of_trees_is_that_of_the_least_validation_loss(self):
        train, validation = made(120), made(80, seed=1)
        head = BoostedTreesHead(Shape, 1)
        kept = fit_trees(head, train, validation, 0, 0.5, 10)
        settings = {"max_depth": 3, "max_leaf_nodes": None, "min_samples_leaf": 10, "early_stopping": False}
        losses = [
            np.mean((HistGradientBoostingRegressor(max_iter=n, learning_rate=0.5, **settings).fit(*train).predict(
                validation[0]) - validation[1]) ** 2) for n in range(1, 26)
        ]  # fmt: skip
        assert kept == 1 + np.argmin(losses) < 25
        assert not head.value[0, kept:].any()

    def test_a_class_that_nobody_has_stays_unlikely(self):
        train, validation = made(120, 2), made(80, 2, seed=1)
        head = BoostedTreesHead(Shape, 3)
        fit_trees(head, (train[0], 2 * train[1]), (validation[0], 2 * validation[1]), 3, 0.1, 10)
        found = head(torch.from_numpy(validation[0]).float()).softmax(1)
        right = found.argmax(1) == 2 * torch.from_numpy(validation[1])
        assert found[:, 1].max() < 0.02 and right.float().mean() > 0.6


def carried(folder, table, trials, name, evaluated=True) -> dict:
    """A pack fitted into <folder>/<name>/models and, if wanted, its scores by trial and part."""
    job, models, out = (folder / name / part for part in ("job", "models", "scores"))
    pack_job(job, table, trials)
    finetune(job, folder / "store", folder, models, Settings(CPU))
    if not evaluated:
        return {}
    evaluate(job, folder / "store", models, out, Evaluate(bootstrap=100), CPU)
    parts = ("validation", "test")
    return {t["id"]: {part: read_json(out / t["id"] / f"scores-{part}.json") for part in parts} for t in trials}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Both baselines on two targets, each of which lacks some labels, fitted and evaluated."""
    folder = tmp_path_factory.mktemp("baselines")
    people = make_people("clinic", 90)
    make_store(folder / "store", people, SHAPE)
    people.loc[people.index % 7 == 0, "age"] = np.nan
    people["diagnosis"] = people["diagnosis"].mask(people.index % 5 == 0)
    own = stage("finetune", "age", targets=["age", "diagnosis"], module=WHOLE, strategy="scratch", epochs=1)
    trials = [trial_line(own, architecture=each) for each in (LINEAR, BOOSTED)]
    return folder, carried(folder, roles(people, 20, 24), trials, "one"), trials


class TestFitting:
    def test_what_was_planted_is_found_and_files_say_how(self, run):
        folder, scores, trials = run
        for trial in trials:
            model = read_json(folder / "one" / "models" / trial["id"] / "model.json")
            history = pd.read_csv(folder / "one" / "models" / trial["id"] / "history.csv")
            assert model["status"] == "ok" and model["best_epoch"] == model["epochs_run"] == 1, model["reason"]
            assert list(history.columns[:5]) == ["epoch", "train_loss", "validation_loss", "lr", "seconds"]
            assert len(history) == 1 and history["lr"][0] == 0 and model["parameters"]["total"] > 0
            for part in ("validation", "test"):
                metrics = {name: facts["metrics"] for name, facts in scores[trial["id"]][part]["targets"].items()}
                assert metrics["age"]["r2"]["value"] > 0.5
                assert metrics["diagnosis"]["balanced_accuracy"]["value"] > 0.8
            measured = scores[trial["id"]]["validation"]["targets"]
            for column, (target, name) in (
                ("validation_age_mae", ("age", "mae")),
                ("validation_diagnosis_balanced_accuracy", ("diagnosis", "balanced_accuracy")),
            ):
                assert history[column][0] == pytest.approx(measured[target]["metrics"][name]["value"], abs=1e-4)

    def test_the_same_trial_alone_gives_the_same_files(self, run):
        folder, _, trials = run
        table = pd.read_parquet(folder / "one" / "job" / "table.parquet")
        for trial in trials:
            carried(folder, table, [trial], trial["id"], evaluated=False)
            first, second = (folder / name / "models" / trial["id"] for name in ("one", trial["id"]))
            assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()

    @pytest.mark.parametrize("architecture", [LINEAR, BOOSTED])
    def test_held_out_labels_and_the_seed_change_nothing(self, run, architecture):
        folder, _, trials = run
        table = pd.read_parquet(folder / "one" / "job" / "table.parquet")
        assert table.loc[table["role"] == "test", ["age", "diagnosis"]].isna().all(axis=None)
        own = trials[0]["spec"]["stages"][-1]
        other = trial_line(own, architecture=architecture, seed=5)
        carried(folder, table, [other], f"seed-{architecture['class_path']}", evaluated=False)
        first = next(trial for trial in trials if trial["spec"]["architecture"] == architecture)
        one = folder / "one" / "models" / first["id"] / "model.safetensors"
        two = folder / f"seed-{architecture['class_path']}" / "models" / other["id"] / "model.safetensors"
        assert one.read_bytes() == two.read_bytes()

    def test_a_bootstrap_replicate_fits_other_weights(self, run):
        folder, _, trials = run
        table = pd.read_parquet(folder / "one" / "job" / "table.parquet")
        train = table["role"] == "train"
        table["times"] = np.where(train & (np.arange(len(table)) % 3 == 0), 3, 1)
        carried(folder, table, trials[:1], "replicate", evaluated=False)
        name = f"models/{trials[0]['id']}/model.safetensors"
        assert (folder / "one" / name).read_bytes() != (folder / "replicate" / name).read_bytes()

    def test_a_cropped_volume_fails_with_both_shapes(self, run):
        folder, _, trials = run
        table = pd.read_parquet(folder / "one" / "job" / "table.parquet")
        module = {"class_path": "CropCenterDataModule", "init_args": {"size": [16, 16, 16]}}
        own = stage("finetune", "age", module=module, strategy="scratch", epochs=1)
        trial = trial_line(own, architecture=LINEAR)
        carried(folder, table, [trial], "cropped", evaluated=False)
        model = read_json(folder / "cropped" / "models" / trial["id"] / "model.json")
        assert model["status"] == "failed" and "(24, 24, 24)" in model["reason"] and "(16, 16, 16)" in model["reason"]


class TestWhatIsRefused:
    part = np.zeros((8, 6), "float32"), [np.arange(8, dtype="float32")]

    @pytest.mark.parametrize("architecture", [LINEAR, BOOSTED])
    def test_a_kind_of_target_that_is_not_fitted(self, architecture):
        target = Target("stage", "ordinal", ("a", "b", "c"))
        network = build_network(architecture, (4, 30), {"stage": 2}, 0)
        with pytest.raises(InputError, match="target stage: .*Baseline is fitted for regression and classification"):
            network.encoder.fit_heads([network.head("stage")], [target], self.part, self.part)

    def test_a_head_of_another_form(self):
        with pytest.raises(InputError, match="heads.age: LinearBaseline fits a LinearHead, found a BoostedTreesHead"):
            network = build_network(BOOSTED, (4, 30), {"age": 1}, 0)
            target = Target("age", "regression", (), 50.0, 10.0)
            LinearBaseline(input_shape=(4, 30)).fit_heads([network.head("age")], [target], self.part, self.part)

    def test_arguments_out_of_range_all_at_once(self):
        with pytest.raises(InputError) as raised:
            BoostedBaseline(trees=0, depth=20, learning_rate=0.0, input_shape=(4, 30))
        found = [problem.where.rpartition(".")[2] for problem in raised.value.problems]
        assert found == ["trees", "depth", "learning_rate"]


def test_the_sweeps_of_the_page_have_one_trial_a_seed_of_each_baseline():
    page = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    sweep, beside_slices = (json.loads(text.split("```")[0]) for text in page.split("```json")[1:3])
    for space, expected in (
        (sweep["search"]["space"], {"ResNet": 4, "LinearBaseline": 2, "BoostedBaseline": 2}),
        (beside_slices | {"stages.finetune.strategy": ["scratch", "full"]}, {"ResNet": 4, "LinearBaseline": 2}),
    ):
        specs = grid_of(read_sweep(sweep | {"search": sweep["search"] | {"space": space}}))
        found = [spec["architecture"]["class_path"] for spec in specs]
        assert {name: found.count(name) for name in found} == expected
        for spec in specs:
            fitted = spec["architecture"]["class_path"] != "ResNet"
            assert not fitted or [stage["strategy"] for stage in spec["stages"]] == ["scratch"]
            assert not fitted or spec["stages"][0]["data"]["module"]["class_path"] == "BaseDataModule"
