"""What is fitted on validation: temperature, operating point, conformal quantile, age bias."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.data.targets import Target, continued, sigmoid, softmax
from tlimb.evaluate_settings import Evaluate, OperatingPoint
from tlimb.evaluation.age_bias import age_bias, corrected_gap, fit_line
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.calibration import fit_temperature, limit_of, rescaled
from tlimb.evaluation.conformal import (
    class_misfit,
    covered,
    fit_conformal,
    fit_quantile,
    prediction_intervals,
    prediction_sets,
    reached,
)
from tlimb.evaluation.fitted import failed, fit, read_fitted, with_called, write_fitted
from tlimb.evaluation.operating_point import call, find_threshold
from tlimb.evaluation.reliability import bins_of, reliability, wilson
from tlimb.evaluation.scores import scores

SEX, AGE = Target("sex", "classification", ("f", "m")), Target("age", "regression", mean=50.0, sd=10.0)
GRADE = Target("grade", "ordinal", ("none", "mild", "severe"))


def table(target: Target, truth, prediction, probabilities=None) -> pd.DataFrame:
    rows = len(truth)
    columns = {"scan_id": [f"c/s{i}/1/T1w" for i in range(rows)], "person": [f"c/s{i}" for i in range(rows)]}
    columns |= {"target": target.name, "truth": np.asarray(truth, float), "prediction": np.asarray(prediction, float)}
    columns |= {"probabilities": [None] * rows if probabilities is None else list(probabilities), "event": np.nan}
    return pd.DataFrame(columns)


def classified(rng, n: int, classes: int = 2, heat: float = 1.0):
    """Truth drawn from softmax(logits), and probabilities as if the logits had been multiplied by `heat`."""
    logits = rng.normal(size=(n, classes)) * 1.5
    truth = np.array([rng.choice(classes, p=row) for row in softmax(logits)])
    return truth, softmax(logits * heat)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_finds_what_made_a_model_too_sure(classes):
    truth, shares = classified(np.random.default_rng(1), 4000, classes, heat=2.5)
    assert fit_temperature(truth, shares, "classification") == pytest.approx(2.5, rel=0.1)


def test_the_temperature_is_the_minimum_of_the_log_loss_on_a_grid():
    truth, shares = classified(np.random.default_rng(2), 150, 3, heat=0.6)

    def loss(temperature):
        scaled = softmax(np.log(shares) / temperature)
        return -np.log(scaled[np.arange(150), truth]).mean()

    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    found = fit_temperature(truth, shares, "classification")
    assert found == pytest.approx(grid[np.argmin([loss(heat) for heat in grid])], rel=0.005)
    assert loss(found) <= loss(1.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), heat=st.floats(0.1, 10))
def test_probabilities_are_rescaled_as_outputs_divided_by_the_temperature_give_them(seed, classes, heat):
    outputs = np.random.default_rng(seed).normal(size=(7, classes)) * 3
    assert rescaled(softmax(outputs), heat, "classification") == pytest.approx(softmax(outputs / heat), abs=1e-12)
    ordered = rescaled(continued(sigmoid(outputs)), heat, "ordinal")
    assert ordered == pytest.approx(continued(sigmoid(outputs / heat)), abs=1e-9)
    assert ordered.sum(axis=1) == pytest.approx(1)


def test_certain_probabilities_stay_finite_at_any_temperature():
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for kind in ("classification", "ordinal"):
        for heat in (0.05, 1, 20):
            assert np.isfinite(rescaled(shares, heat, kind)).all()


def test_there_is_no_temperature_where_nothing_speaks_against_ever_more_certainty():
    assert fit_temperature(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]), "classification") is None
    assert fit_temperature(np.array([], int), np.empty((0, 2)), "classification") is None


def test_a_temperature_of_probabilities_is_that_of_outputs():
    torch = pytest.importorskip("torch")
    from tlimb.scenarios.calibration import temperature

    for target in (SEX, GRADE):
        rng = np.random.default_rng(3)
        outputs = rng.normal(size=(90, target.outputs)).astype("float32")
        truth = np.array([rng.choice(len(target.classes), p=row) for row in target.decode(outputs)[1]])
        expected = temperature(target, torch.from_numpy(outputs), torch.from_numpy(truth.astype("float32")))
        found = fit_temperature(truth, target.decode(outputs)[1], target.kind)
        assert found == pytest.approx(expected, rel=2e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), wanted=st.floats(0.05, 0.95), ties=st.booleans())
def test_a_threshold_reaches_what_is_asked_and_no_better_one_does(seed, wanted, ties):
    rng = np.random.default_rng(seed)
    truth, case = np.r_[0, 1, rng.integers(0, 2, 28)], rng.uniform(0.01, 0.99, 30)
    case = np.round(case, 1) if ties else case

    def rates(threshold):
        called = case > threshold
        return called[truth == 1].mean(), (~called[truth == 0]).mean()

    every = [rates(threshold) for threshold in np.r_[-1, np.unique(case)]]
    sensitive = rates(find_threshold(truth, case, OperatingPoint(sensitivity=wanted)))
    if (case > 0).all():
        assert sensitive[0] >= wanted - 1e-9
        assert sensitive[1] == max(one[1] for one in every if one[0] >= wanted - 1e-9)
    specific = rates(find_threshold(truth, case, OperatingPoint(specificity=wanted)))
    assert specific[1] >= wanted - 1e-9
    assert specific[0] == max(one[0] for one in every if one[1] >= wanted - 1e-9) or (case == 0).any()
    best = rates(find_threshold(truth, case, OperatingPoint(youden=True)))
    assert sum(best) == pytest.approx(max(map(sum, every))) or (case == 0).any()


def test_a_threshold_of_ones_own_is_taken_and_a_lacking_class_has_no_other():
    point = OperatingPoint(threshold=0.3)
    assert find_threshold(np.array([0, 0]), np.array([0.1, 0.9]), point) == 0.3
    assert find_threshold(np.array([0, 0]), np.array([0.1, 0.9]), OperatingPoint(youden=True)) is None
    assert call(np.array([0.3, 0.30001]), 0.3).tolist() == [0, 1]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), thousandths=st.integers(550, 990))
def test_the_conformal_quantile_is_the_stated_order_statistic(n, thousandths):
    misfit = np.random.default_rng(n).permutation(np.arange(n) + 1.0)
    place = -(-(n + 1) * thousandths // 1000)
    assert fit_quantile(misfit, thousandths / 1000) == (None if place > n else place)


def test_nine_scans_are_enough_for_ninety_percent_and_eight_are_not():
    assert fit_quantile(np.arange(9.0), 0.9) == 8.0 and fit_quantile(np.arange(8.0), 0.9) is None


@pytest.mark.parametrize(("kind", "n"), [("regression", 19), ("classification", 40)])
def test_conformal_coverage_of_new_scans_is_what_theory_says(kind, n):
    rng, hits = np.random.default_rng(4), []
    for _ in range(400):
        if kind == "regression":
            errors = rng.standard_t(3, 2 * n)
            arrays = [(np.zeros(n), part, None) for part in np.split(errors, 2)]
        else:
            truth, shares = classified(rng, 2 * n, 3, heat=3.0)
            arrays = [(truth[part], shares[part].argmax(axis=1), shares[part]) for part in (slice(n), slice(n, None))]
        fitted = fit_conformal(*arrays[0], coverage=0.8)
        hits.append(covered(*arrays[1], fitted).mean())
    expected = math.ceil((n + 1) * 0.8) / (n + 1)
    assert np.mean(hits) == pytest.approx(expected, abs=4 * np.std(hits) / math.sqrt(400))


def test_prediction_sets_hold_the_classes_that_fit_and_may_be_empty():
    shares = np.array([[0.5, 0.45, 0.05], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]])
    assert prediction_sets(shares, 0.6).tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert prediction_sets(shares, None).all()
    assert class_misfit(np.array([1, 0, 2]), shares).tolist() == pytest.approx([0.55, 0.1, 0.67])
    found = reached(np.array([1, 1, 2]), np.zeros(3), shares, {"coverage": 0.9, "quantile": 0.6, "n": 20}, 0.95)
    assert (found["reached"], found["size"], found["empty"]) == pytest.approx((1 / 3, 1, 1 / 3))
    low, high = prediction_intervals(np.array([50.0]), 6.5)
    assert (low[0], high[0]) == (43.5, 56.5) and prediction_intervals(np.array([50.0]), None)[1][0] == math.inf


def test_too_small_a_validation_part_bounds_nothing():
    found = reached(np.zeros(4), np.ones(4), None, {"coverage": 0.9, "quantile": None, "n": 5}, 0.95)
    assert found["reached"] == 1 and found["size"] is None and found["empty"] is None


@settings(max_examples=30, deadline=None)
@given(hits=st.integers(0, 40), more=st.integers(0, 40), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilsons_interval_is_that_of_scipy(hits, more, level):
    from scipy.stats import binomtest

    n = max(hits + more, 1)
    expected = binomtest(min(hits, n), n).proportion_ci(level, method="wilson")
    assert wilson(min(hits, n) / n, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bins_are_equal_in_count_and_ties_stay_together():
    assert np.bincount(bins_of(np.random.default_rng(0).random(150))).tolist() == [10] * 15
    assert np.bincount(bins_of(np.random.default_rng(0).random(36))).tolist() == [12] * 3
    assert set(bins_of(np.full(100, 0.5))) == {0} and set(bins_of(np.arange(9.0))) == {0}
    tied = bins_of(np.repeat([0.1, 0.2, 0.9], [5, 30, 5]))
    assert len(set(tied[5:35])) == 1 and tied[0] < tied[-1]


def test_a_reliability_curve_counts_a_scan_once_whatever_the_seeds():
    rng = np.random.default_rng(1)
    sure = rng.random(60)
    hits = (rng.random(60) < sure).astype(float)
    people = np.arange(60)
    once = reliability(sure, hits, np.ones(60), people, 0.95)
    thrice = reliability(np.tile(sure, 3), np.tile(hits, 3), np.full(180, 1 / 3), np.tile(people, 3), 0.95)
    assert len(once) == len(thrice) == 6
    assert [sum(one["n"] for one in curve) for curve in (once, thrice)] == pytest.approx([60, 60])
    whole = [sum(one["n"] * one["observed"] for one in curve) for curve in (once, thrice)]
    assert whole[0] == pytest.approx(whole[1]) == pytest.approx(hits.sum())
    assert all(one["low"] <= one["observed"] <= one["high"] for one in once + thrice)


def test_a_reliability_curve_is_as_sure_as_its_persons_are_many():
    """Each person scanned five times, alike each time: no more is known than from one scan of each."""
    rng = np.random.default_rng(2)
    sure, people = rng.random(60), np.arange(60)
    hits = (rng.random(60) < sure).astype(float)
    often = reliability(np.repeat(sure, 5), np.repeat(hits, 5), np.ones(300), np.repeat(people, 5), 0.95)
    assert len(often) == 15 and sum(one["n"] for one in often) == 300
    for one, number in zip(often, np.unique(bins_of(np.repeat(sure, 5))), strict=True):
        own = np.repeat(people, 5)[bins_of(np.repeat(sure, 5)) == number]
        assert (one["low"], one["high"]) == pytest.approx(wilson(one["observed"], len(set(own)), 0.95)) and one["n"] == len(own)


def test_age_bias_is_gone_after_correction_on_the_scans_of_its_fit():
    rng = np.random.default_rng(0)
    truth = rng.uniform(20, 80, 200)
    prediction = 20 + 0.6 * truth + rng.normal(0, 4, 200)
    line = fit_line(truth, prediction)
    slope, intercept = np.polyfit(truth, prediction, 1)
    assert line == pytest.approx({"slope": slope, "intercept": intercept})
    found = age_bias(truth, prediction, line)
    assert found["slope"] == pytest.approx(slope - 1) and found["corrected_slope"] == pytest.approx(0, abs=1e-12)
    corrected = prediction + (truth - (slope * truth + intercept))
    assert corrected_gap(truth, prediction, line) == pytest.approx(corrected - truth)


def test_the_correction_of_validation_leaves_a_group_gap_in_other_people():
    rng = np.random.default_rng(1)
    line = fit_line(*[(age := rng.uniform(20, 80, 500)), 30 + 0.5 * age + rng.normal(0, 3, 500)])
    age, patient = rng.uniform(40, 80, 400), np.arange(400) % 2
    gap = corrected_gap(age, 30 + 0.5 * age + 5 * patient + rng.normal(0, 3, 400), line)
    assert gap[patient == 1].mean() - gap[patient == 0].mean() == pytest.approx(5, abs=1)
    assert abs(np.polyfit(age, gap, 1)[0]) < 0.05


def test_a_constant_truth_has_no_slope():
    assert fit_line(np.full(9, 50.0), np.arange(9.0)) is None and fit_line(np.arange(2.0), np.arange(2.0)) is None
    assert age_bias(np.full(9, 50.0), np.arange(9.0), None) is None
    assert age_bias(np.arange(9.0), np.arange(9.0), None) == {"slope": 0.0, "corrected_slope": None}


def validation() -> pd.DataFrame:
    """Predictions of every kind of target that something is fitted for."""
    rng = np.random.default_rng(5)
    truth, shares = classified(rng, 60, 2, heat=2.0)
    grades, ordered = classified(rng, 60, 3, heat=2.0)
    age = rng.uniform(20, 80, 60)
    parts = [table(AGE, age, 20 + 0.6 * age + rng.normal(0, 5, 60)), table(SEX, truth, shares.argmax(axis=1), shares)]
    return pd.concat([*parts, table(GRADE, grades, ordered.argmax(axis=1), ordered)], ignore_index=True)


def test_each_kind_of_target_gets_what_applies_to_it(tmp_path):
    rows = validation()
    found = fit(rows, [AGE, SEX, GRADE], Evaluate(operating_point=OperatingPoint(sensitivity=0.9), coverage=0.8))
    assert found["n"] == {"scans": 60, "persons": 60}
    age, sex, grade = (found["targets"][name] for name in ("age", "sex", "grade"))
    assert age["temperature"] is None and age["threshold"] is None
    assert age["age_bias"]["slope"] == pytest.approx(0.6, abs=0.15)
    assert sex["age_bias"] is None and 0 < sex["threshold"] < 0.7 and 1.2 < sex["temperature"] < 4
    assert grade["threshold"] is None and grade["temperature"] > 1
    assert {one["conformal"]["coverage"] for one in (age, sex, grade)} == {0.8}
    write_fitted(tmp_path, {"id": "0f3a00000000"} | found)
    assert read_fitted(tmp_path) == {"id": "0f3a00000000"} | found


def test_other_kinds_and_empty_parts_have_nothing_fitted(tmp_path):
    risk = Target("relapse", "survival")
    rows = pd.concat([validation(), table(risk, np.ones(9), np.ones(9))])
    assert set(map(str, fit(rows, [risk], Evaluate())["targets"]["relapse"].values())) == {"None", "[]"}
    assert fit(rows.iloc[:0], [SEX], Evaluate())["targets"]["sex"]["threshold"] is None
    assert read_fitted(tmp_path) is None
    write_fitted(tmp_path, failed("loss became NaN"))
    assert read_fitted(tmp_path) is None


def test_a_perfect_validation_part_and_a_small_one_are_told():
    shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    notes = fit(table(SEX, [0, 1], [0, 1], shares), [SEX], Evaluate())["targets"]["sex"]["notes"]
    assert "2 validation scans are too few" in notes[0] and "predicted right" in notes[1]


def test_what_is_called_stands_beside_the_prediction():
    rows = validation()
    fitted = fit(rows, [AGE, SEX, GRADE], Evaluate(operating_point=OperatingPoint(sensitivity=0.95)))
    called = with_called(rows, fitted)
    assert list(called).index("called") == list(called).index("event") + 1
    sexes = called[called["target"] == "sex"]
    case = np.stack(sexes["probabilities"])[:, 1]
    assert (sexes["called"] == (case > fitted["targets"]["sex"]["threshold"])).all()
    assert called[called["target"] != "sex"]["called"].isna().all()
    found = scores(called, [AGE, SEX, GRADE], "validation", Bootstrap(resamples=100), fitted)["targets"]
    assert found["sex"]["metrics"]["sensitivity"]["value"] >= 0.95
    assert found["sex"]["calibrated"]["metrics"]["log_loss"]["value"] < found["sex"]["metrics"]["log_loss"]["value"]
    assert abs(found["age"]["age_bias"]["corrected_slope"]) < 1e-9 and "calibrated" not in found["age"]
    assert found["age"]["conformal"]["reached"] >= 0.9 and found["grade"]["calibrated"]["temperature"] > 1


def test_the_interval_of_what_is_reached_is_as_wide_as_persons_are_few():
    truth, fitted = np.r_[np.zeros(32), np.full(8, 3.0)], {"coverage": 0.9, "quantile": 1.0, "n": 20}
    found = reached(truth, np.zeros(40), None, fitted, 0.95, persons=20)
    assert (found["low"], found["high"]) == wilson(0.8, 20, 0.95) and found["n"] == 40


def notes_of(truth, case, **settings):
    shares = np.stack([1 - np.asarray(case), case], axis=1)
    rows = table(SEX, truth, shares.argmax(axis=1), shares)
    return fit(rows, [SEX], Evaluate(**settings))["targets"]["sex"]


def test_a_temperature_at_its_limit_is_told_in_plain_words():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 40)
    backwards = notes_of(truth, np.where(truth == 1, 0.02, 0.98))
    assert backwards["temperature"] == pytest.approx(20, rel=0.01)
    expected = "the temperature is at its limit (20): too few or too plain validation scans to fit one"
    assert expected in backwards["notes"]
    truth, shares = classified(rng, 200, 2, heat=2.0)
    assert not any("limit" in note for note in notes_of(truth, shares[:, 1])["notes"])
    assert [limit_of(one) for one in (None, 0.0501, 1.0, 19.7, 19.9)] == [None, 0.05, None, None, 20.0]


def test_a_threshold_that_calls_everybody_or_nobody_a_case_is_told():
    truth, case = np.array([1, 0, 0, 1] * 5), np.array([0.1, 0.3, 0.6, 0.8] * 5)
    every = notes_of(truth, case, operating_point=OperatingPoint(sensitivity=0.9))
    said = "every scan is called m: it was to give a sensitivity of 0.9 or more on 20 validation scans"
    assert every["threshold"] == 0 and f"the threshold is 0, so {said}" in every["notes"]
    nobody = notes_of(1 - truth, case, operating_point=OperatingPoint(specificity=0.9))
    assert nobody["threshold"] == 1 and any("no scan is called m" in note for note in nobody["notes"])
    useful = notes_of(truth, case, operating_point=OperatingPoint(specificity=0.9))
    assert 0 < useful["threshold"] < 1 and not any("threshold" in note for note in useful["notes"])
    one = notes_of(np.ones(20), case, operating_point=OperatingPoint(youden=True))
    assert "no threshold: all validation scans are of one class" in one["notes"]
