"""What stands beside the ranking: groups of people, calibration, coverage, age bias, ensembles."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tlimb.data.targets import Target, softmax
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.fitted import fit, with_called, write_fitted
from tlimb.evaluation.metrics import metric
from tlimb.evaluation.scores import scores
from tlimb.files import write_json, write_parquet
from tlimb.ranking.age_bias import age_biases
from tlimb.ranking.calibrations import calibrations, coverages
from tlimb.ranking.compare import Measure
from tlimb.ranking.ensembles import averaged, ensembles
from tlimb.ranking.groups import group_of, group_scores
from tlimb.ranking.pooled import pools
from tlimb.ranking.results import KEY, Results

TARGETS = {
    "diagnosis": Target("diagnosis", "classification", ("control", "patient")),
    "age": Target("age", "regression", mean=50.0, sd=15.0),
}
LABELS = {
    "diagnosis": {"kind": "classification", "classes": ["control", "patient"]},
    "sex": {"kind": "classification", "classes": ["0", "1"]},
    "site": {"kind": "classification", "classes": ["north", "south"]},
    "age": {"kind": "regression", "classes": []},
    "score": {"kind": "regression", "classes": []},
}
SETTINGS = Evaluate(bootstrap=200)


def cohort_table(n: int = 300) -> pd.DataFrame:
    """Half of the scans are of persons with two. Sex is 1 in every third; nobody in 5 has a score."""
    rng = np.random.default_rng(0)
    person = [f"clinic/s{i if i < n // 2 else i - n // 2:03d}" for i in range(n)]
    table = pd.DataFrame({"scan_id": [f"clinic/s{i:03d}/1/T1w" for i in range(n)], "person": person})
    who = np.array([int(name[-3:]) for name in person])
    table["sex"] = (who % 3 == 0).astype(float)
    table["site"] = np.where(who < 4, "south", "north")
    table["score"] = np.where(who % 5 == 0, np.nan, who % 20)
    table["age"] = 20.0 + rng.uniform(0, 60, n)[who]
    return table.assign(diagnosis=np.where(rng.random(n)[who] < 0.5, "patient", "control"))


def predicted(target: str, rows: pd.DataFrame, rng, worse: np.ndarray, heat: float) -> pd.DataFrame:
    """Predictions that are noisier where `worse`; probabilities too sure by `heat`, ages that lean towards 50."""
    noise = rng.normal(size=len(rows)) * np.where(worse, 4.0, 1.0)
    facts = {"scan_id": rows["scan_id"], "person": rows["person"], "target": target}
    if target == "age":
        truth = rows["age"].to_numpy()
        facts |= {"truth": truth, "prediction": 25 + 0.5 * truth + 3 * noise, "probabilities": None}
    else:
        truth = (rows["diagnosis"] == "patient").to_numpy(float)
        shares = softmax(heat * np.stack([np.zeros(len(rows)), 2 * truth - 1 + noise], axis=1))
        facts |= {"truth": truth, "prediction": shares.argmax(axis=1).astype(float), "probabilities": list(shares)}
    return pd.DataFrame(facts).assign(event=np.nan).sort_values("scan_id", ignore_index=True)


def world(folder, target: str, seeds: int = 3, folds: int = 1, worse: str = "sex", columns=("sex", "age")) -> tuple:
    """Results of one candidate, its row and the measure; every trial predicts the scans of `elsewhere`, too."""
    table, outcomes = cohort_table(), []
    external = cohort_table(120).assign(scan_id=lambda rows: rows["scan_id"].str.replace("clinic", "elsewhere"))
    people = table["person"].str[-3:].astype(int)
    for seed in range(seeds):
        for fold in range(folds):
            trial, rng = f"{seed:06d}{fold:06d}", np.random.default_rng([seed, fold, 1])
            tested = people % (2 * folds) == 2 * fold
            parts = {"validation": table[people % 2 == 1], "test": table[tested], "external-elsewhere": external}
            found = {
                name: predicted(target, rows, rng, rows[worse].to_numpy() == 1, 3.0).assign(called=np.nan)
                for name, rows in parts.items()
            }
            write_trial(folder / trial, trial, TARGETS[target], found)
            outcome = {"id": trial, "status": "ok", **dict.fromkeys(KEY, 0)} | {"seed": seed, "fold": fold}
            outcomes.append(outcome | {"inner_fold": None, "replicate": None})
    sweep = {"evaluate": {"groups": list(columns)}}
    both = pd.concat([table, external], ignore_index=True)
    known = {"sweep": sweep, "cohort": {"labels": LABELS}, "table": both, "scores_folder": folder}
    rest = dict.fromkeys(("trials", "pretrainings", "scans", "stores", "encoders", "models"))
    results = Results(**rest, encoders_folder=folder, models_folder=folder, **known)
    measure = Measure("mae" if target == "age" else "accuracy", LABELS[target]["kind"], 200, 0.95, 0)
    return results, {"candidate": "77b1", "name": "full", "selected": "best", "trials": outcomes}, measure


def write_trial(folder, trial: str, target: Target, parts: dict[str, pd.DataFrame]) -> None:
    fitted = fit(parts["validation"].drop(columns="called"), [target], SETTINGS)
    write_fitted(folder, {"id": trial} | fitted)
    for name, rows in parts.items():
        rows = with_called(rows.drop(columns="called"), fitted)
        write_parquet(folder / f"predictions-{name}.parquet", rows)
        write_json(folder / f"scores-{name}.json", scores(rows, [target], name, Bootstrap(100), fitted))


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return world(tmp_path_factory.mktemp("classes"), "diagnosis")


@pytest.fixture(scope="module")
def ages(tmp_path_factory):
    return world(tmp_path_factory.mktemp("ages"), "age", columns=("sex", "site", "score", "missing"))


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    return world(tmp_path_factory.mktemp("folded"), "age", seeds=2, folds=5)


def of(rows: list[dict], part: str, **facts) -> dict:
    """The one entry of a set with these facts."""
    (found,) = [row for row in rows if row["set"] == part and all(row[key] == value for key, value in facts.items())]
    return found


def test_the_group_that_a_model_serves_worst_is_named(classes):
    results, row, measure = classes
    found = group_scores(results, [row], "diagnosis", measure)
    assert [(one["set"], one["column"]) for one in found] == [
        *[("test", "sex"), ("test", "age")],
        *[("external-elsewhere", "sex"), ("external-elsewhere", "age")],
    ]
    for part in ("test", "external-elsewhere"):
        entry = of(found, part, column="sex")
        values = {group["group"]: group["value"] for group in entry["groups"]}
        assert entry["worst"]["group"] == "1" and values["1"] < values["0"]
        assert entry["spread"] == pytest.approx(values["0"] - values["1"])
        assert entry["worst"]["difference"] == pytest.approx(values["1"] - values["0"])
    entry = of(found, "test", column="sex")
    assert entry["worst"]["high"] < 0 and entry["low"] < entry["value"] < entry["high"]
    json.dumps(found, allow_nan=False)


def test_the_value_of_a_group_is_the_metric_of_its_scans_averaged_over_trials(classes):
    results, row, measure = classes
    entry = of(group_scores(results, [row], "diagnosis", measure), "test", column="sex")
    tables = results.tables(row["trials"], "test", "diagnosis").values()
    sex = results.table.set_index("scan_id")["sex"]
    parts = [table[table["scan_id"].map(sex) == 1] for table in tables]
    expected = np.mean([(part["truth"] == part["prediction"]).mean() for part in parts])
    assert entry["groups"][1]["value"] == pytest.approx(expected)
    assert entry["groups"][1]["n_persons"] == parts[0]["person"].nunique() < len(parts[0])


def test_small_groups_missing_labels_and_unknown_columns_are_told(ages):
    results, row, measure = ages
    found = group_scores(results, [row], "age", measure)
    site = of(found, "test", column="site")
    assert [group["why"] for group in site["groups"]] == ["", "fewer than 10 persons"]
    assert site["groups"][1]["value"] is None and site["worst"] is None and site["spread"] is None
    score = of(found, "test", column="score")
    assert [group["group"] for group in score["groups"]][-1] == "unknown" and len(score["groups"]) == 5
    assert score["worst"]["group"] != "unknown"
    missing = of(found, "test", column="missing")
    assert missing["groups"] == [] and "no label column 'missing'" in missing["note"]


def test_of_errors_the_worst_group_is_the_one_with_the_largest(ages):
    results, row, measure = ages
    assert of(group_scores(results, [row], "age", measure), "test", column="sex")["worst"]["group"] == "1"


def test_a_group_of_one_class_has_no_balanced_accuracy(classes):
    results, row, measure = classes
    table = results.table.assign(sex=(results.table["diagnosis"] == "patient").astype(float))
    changed = Results(**vars(results) | {"table": table})
    measure = Measure("balanced_accuracy", "classification", 200, 0.95, 0)
    entry = of(group_scores(changed, [row], "diagnosis", measure), "test", column="sex")
    assert entry["worst"] is None and all("one class" in group["why"] for group in entry["groups"])
    assert entry["value"] is not None


def test_ages_go_by_decades_and_other_numbers_by_quarters(classes):
    results, _, _ = classes
    scans = results.table["scan_id"]
    decade, names = group_of(results, "age", scans)
    assert names == ["20 to 29", "30 to 39", "40 to 49", "50 to 59", "60 to 69", "70 to 79"]
    assert all(int(name[:2]) <= age < int(name[:2]) + 10 for name, age in zip(decade, results.table["age"]))
    quarter, names = group_of(results, "score", scans)
    counts = quarter.value_counts()
    assert len(names) == 5 and counts[names[:4]].max() < 1.7 * counts[names[:4]].min()


def test_without_named_columns_there_are_no_groups(classes):
    results, row, measure = classes
    assert group_scores(Results(**vars(results) | {"sweep": {}}), [row], "diagnosis", measure) == []


def test_folds_are_put_together_before_groups_are_scored(folded):
    results, row, measure = folded
    tables = results.tables(row["trials"], "test", "age")
    whole = pools(tables, "test")
    assert len(tables) == 10 and [len(table) for table in whole] == [150, 150]
    assert len(pools(results.tables(row["trials"], "external-elsewhere", "age"), "external-elsewhere")) == 10
    entry = of(group_scores(results, [row], "age", measure), "test", column="sex")
    expected = np.mean([np.abs(table["truth"] - table["prediction"]).mean() for table in whole])
    assert entry["value"] == pytest.approx(expected) and sum(group["n_persons"] for group in entry["groups"]) == 75


def test_scaling_lowers_the_log_loss_and_bins_hold_every_scan_once(classes):
    results, row, measure = classes
    found = calibrations(results, [row], "diagnosis", measure)
    assert [one["set"] for one in found] == ["validation", "test", "external-elsewhere"]
    for entry in found:
        assert entry["temperature"] > 1.5 and entry["trials"] == 3 and entry["of"] == "probability of patient"
        assert entry["after"]["log_loss"] < entry["before"]["log_loss"] and entry["unscaled"] == 0
        for side in ("before", "after"):
            bins = entry[side]["bins"]
            assert sum(one["n"] for one in bins) == pytest.approx(entry["n_scans"])
            sure = [one["confidence"] for one in bins]
            assert sure == sorted(sure) and all(one["low"] <= one["observed"] <= one["high"] for one in bins)
    json.dumps(found, allow_nan=False)


def test_coverage_is_the_share_of_scans_whose_set_or_interval_holds_the_truth(classes, ages):
    for (results, row, measure), target in ((classes, "diagnosis"), (ages, "age")):
        entry = of(coverages(results, [row], target, measure), "test")
        shares = []
        for trial in row["trials"]:
            told = json.loads((results.scores_folder / trial["id"] / "scores-test.json").read_text())["targets"][target]
            shares.append((told["conformal"]["reached"], told["conformal"]["size"]))
        reached, size = np.mean(shares, axis=0)
        assert entry["reached"] == pytest.approx(reached) and entry["size"] == pytest.approx(size)
        assert entry["low"] < entry["reached"] < entry["high"] and entry["coverage"] == 0.9
        assert entry["kind"] == ("sets" if target == "diagnosis" else "intervals") and entry["note"]


def test_age_bias_is_corrected_by_validation_and_groups_are_compared(ages):
    results, row, measure = ages
    entry = of(age_biases(results, [row], "age", measure), "test")
    assert entry["slope"] == pytest.approx(-0.5, abs=0.1) and abs(entry["corrected_slope"]) < 0.15
    sexes = {group["group"]: group for group in entry["groups"] if group["column"] == "sex"}
    assert -3 < sexes["0"]["low"] < sexes["0"]["gap"] < sexes["0"]["high"] < 3
    few = [group for group in entry["groups"] if group["group"] == "south"]
    assert few[0]["gap"] is None and few[0]["why"] == "fewer than 10 persons"
    assert age_biases(results, [row], "age", Measure("accuracy", "classification", 200, 0.95, 0)) == []


def test_no_measure_of_accuracy_is_made_of_corrected_ages(ages):
    results, row, measure = ages
    for entry in age_biases(results, [row], "age", measure):
        assert set(entry) == {
            *("candidate", "name", "selected", "set", "n_persons", "trials", "slope", "corrected_slope"),
            *("gap", "low", "high", "uncorrected", "groups"),
        }


def test_an_ensemble_is_scored_beside_its_members(classes):
    results, row, measure = classes
    entry = of(ensembles(results, [row], "diagnosis", measure), "test")
    assert entry["over"] == "seeds" and entry["members"] == 3
    tables = list(results.tables(row["trials"], "test", "diagnosis").values())
    mean = np.mean([np.stack(table["probabilities"]) for table in tables], axis=0)
    assert entry["ensemble"]["value"] == pytest.approx((mean.argmax(axis=1) == tables[0]["truth"]).mean())
    single = np.mean([(table["prediction"] == table["truth"]).mean() for table in tables])
    assert entry["single"]["value"] == pytest.approx(single)
    assert entry["difference"]["value"] == pytest.approx(entry["ensemble"]["value"] - single)
    assert entry["ensemble"]["value"] > single
    wide = entry["ensemble"]["high"] - entry["ensemble"]["low"]
    assert 0 < entry["difference"]["high"] - entry["difference"]["low"] < wide


def test_members_differ_more_where_they_err_more(ages):
    from scipy.stats import spearmanr

    results, row, measure = ages
    found = of(ensembles(results, [row], "age", measure), "test")["uncertainty"]
    tables = list(results.tables(row["trials"], "test", "age").values())
    predictions = np.stack([table["prediction"] for table in tables])
    spread, error = predictions.std(axis=0), np.abs(predictions.mean(axis=0) - tables[0]["truth"])
    assert found["spread"] == pytest.approx(spread.mean())
    assert found["correlation"] == pytest.approx(spearmanr(spread, error).statistic)
    assert found["low"] < found["correlation"] < found["high"]


def test_ensembles_over_folds_are_those_of_external_cohorts(folded):
    results, row, measure = folded
    found = ensembles(results, [row], "age", measure)
    test, external = of(found, "test"), of(found, "external-elsewhere")
    assert (test["over"], test["members"], test["n_persons"]) == ("seeds", 2, 75)
    assert (external["over"], external["members"], external["n_persons"]) == ("seeds and folds", 10, 60)
    assert external["ensemble"]["value"] < external["single"]["value"]


def test_one_trial_is_no_ensemble(classes):
    results, row, measure = classes
    assert ensembles(results, [row | {"trials": row["trials"][:1]}], "diagnosis", measure) == []


def test_an_ensemble_calls_a_case_where_most_members_do():
    shares = [[[0.4, 0.6], [0.7, 0.3]], [[0.8, 0.2], [0.7, 0.3]], [[0.45, 0.55], [0.1, 0.9]]]
    tables = [
        pd.DataFrame({"scan_id": ["a", "b"], "person": ["a", "b"], "truth": [1.0, 0.0], "probabilities": one}).assign(
            prediction=np.argmax(one, 1).astype(float), called=np.argmax(one, 1).astype(float)
        )
        for one in shares
    ]
    found = averaged(tables, "classification")
    assert found["called"].tolist() == [1, 0] and found["prediction"].tolist() == [0, 0]


def test_ensembles_of_ordered_and_several_classes_say_what_their_mean_says():
    from tlimb.evaluation.together import together

    shares = np.array([[[0.5, 0.1, 0.4]], [[0.5, 0.1, 0.4]], [[0.3, 0.3, 0.4]]])
    prediction, mean, spread = together("ordinal", np.zeros((3, 1)), shares)
    assert prediction[0] == 1 and mean[0].argmax() == 0 and spread[0] == pytest.approx(shares[:, 0, 1].std())
    prediction, _, _ = together("multilabel", np.zeros((2, 1)), np.array([[[0.9, 0.2, 0.6]], [[0.5, 0.4, 0.4]]]))
    assert prediction[0] == 1 + 4
    assert metric("subset_accuracy", [5], prediction, [[0.7, 0.3, 0.5]]) == 1


def test_what_stands_beside_the_ranking_needs_no_torch():
    names = "groups, calibrations, age_bias, ensembles"
    code = f"import sys; from tlimb.ranking import {names}; print(*{{'torch', 'sklearn', 'scipy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
