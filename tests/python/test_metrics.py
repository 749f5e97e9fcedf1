"""Metrics against scikit-learn and scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.evaluation.bootstrap import interval, percentile_interval, person_bootstrap
from tlimb.evaluation.icc import icc
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS, metric, metric_interval, score, weighted_metric
from tlimb.ranking.answer import WORDS

SETTING = {"resamples": 200, "confidence": 0.95, "seed": 0}


def oracle(name, truth, prediction, probabilities):
    """The same metric by scikit-learn and scipy on rows repeated as often as they were drawn."""
    from scipy import stats
    from sklearn import metrics as sk

    if probabilities is None:
        functions = {"mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error, "r2": sk.r2_score}
        functions |= {"r": lambda one, two: stats.pearsonr(one, two).statistic, "icc": icc_by_hand}
        return functions[name](truth, prediction)
    classes = probabilities.shape[1]
    case = truth if classes == 2 else np.eye(classes)[truth]
    scores = probabilities[:, 1] if classes == 2 else probabilities
    return {
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(truth, prediction),
        "accuracy": lambda: sk.accuracy_score(truth, prediction),
        "auroc": lambda: sk.roc_auc_score(case, scores, average="macro"),
        "auprc": lambda: sk.average_precision_score(case, scores, average="macro"),
        "f1": lambda: sk.f1_score(truth, prediction, average="binary" if classes == 2 else "macro"),
        "mcc": lambda: sk.matthews_corrcoef(truth, prediction),
        "brier": lambda: sk.brier_score_loss(truth, scores, labels=range(classes)),
        "log_loss": lambda: sk.log_loss(truth, probabilities, labels=range(classes)),
        "sensitivity": lambda: sk.recall_score(truth, prediction, average="binary" if classes == 2 else "macro"),
        "specificity": lambda: specificity_by_hand(truth, prediction, range(1, 2) if classes == 2 else range(classes)),
    }[name]()


def icc_by_hand(*measurements):
    """ICC(A, 1) from the table of a two-way analysis of variance, sum by sum."""
    x = np.stack(measurements, axis=1)
    n, k = x.shape
    grand, rows, columns = x.mean(), x.mean(axis=1), x.mean(axis=0)
    msr = k * sum((row - grand) ** 2 for row in rows) / (n - 1)
    msc = n * sum((column - grand) ** 2 for column in columns) / (k - 1)
    sse = sum((x[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(n) for j in range(k))
    mse = sse / ((n - 1) * (k - 1))
    return (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)


def specificity_by_hand(truth, prediction, classes):
    return np.mean([np.mean(prediction[truth != k] != k) for k in classes])


SHROUT_AND_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Six targets rated by four judges: Shrout and Fleiss 1979, table 2."""


def test_the_intraclass_correlation_of_a_published_example():
    ratings = np.array(SHROUT_AND_FLEISS, float)
    assert icc(ratings, np.ones((1, 6)))[0] == pytest.approx(0.29, abs=0.005)
    assert icc(ratings, np.ones((1, 6)))[0] == pytest.approx(icc_by_hand(*ratings.T))


def test_the_intraclass_correlation_of_drawn_rows_is_that_of_repeated_ones():
    ratings = np.array(SHROUT_AND_FLEISS, float) + 1000
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=5)
    for value, row in zip(icc(ratings, weights.astype(float)), weights, strict=True):
        assert value == pytest.approx(icc_by_hand(*np.repeat(ratings, row, axis=0).T))


def test_agreement_is_1_of_equal_0_of_constant_and_none_where_nothing_varies():
    assert metric("icc", [1, 2, 4], [1, 2, 4]) == 1
    assert metric("icc", [1, 2, 3], [2, 2, 2]) == 0
    assert math.isnan(metric("icc", [2, 2], [2, 2])) and math.isnan(metric("icc", [1], [2]))
    shifted = metric("icc", [1, 2, 4], [11, 12, 14])
    assert 0 < shifted < 0.1 and metric("r", [1, 2, 4], [11, 12, 14]) == pytest.approx(1)


def calibration_error_by_hand(truth, probabilities):
    """Rows in order of confidence, cut into bins of equal count; equal ones fall where the first of them does."""
    sure = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities.max(axis=1)
    hit = truth == 1 if probabilities.shape[1] == 2 else truth == probabilities.argmax(axis=1)
    count, gaps = min(15, max(1, len(truth) // 10)), {}
    for i in range(len(truth)):
        place = sum(other < sure[i] for other in sure) * count // len(truth)
        gaps.setdefault(place, []).append(hit[i] - sure[i])
    return sum(abs(sum(gap)) for gap in gaps.values()) / len(truth)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 4),
    rows=st.sampled_from([9, 40, 200]),
    levels=st.sampled_from([None, 1]),
)
def test_calibration_error_equals_sums_over_bins(seed, classes, rows, levels):
    truth, prediction, probabilities = classified(np.random.default_rng(seed), rows, classes, levels)
    expected = calibration_error_by_hand(truth, probabilities)
    assert metric("calibration_error", truth, prediction, probabilities) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_drawn_rows_keeps_the_bins_of_all_rows():
    truth, prediction, probabilities = classified(np.random.default_rng(5), 20, 2)
    weights = np.random.default_rng(6).multinomial(20, np.full(20, 1 / 20), size=4)
    bins = np.argsort(np.argsort(probabilities[:, 1])) // 10
    found = weighted_metric("calibration_error", truth, prediction, probabilities, weights.astype(float))
    gaps = (truth == 1) - probabilities[:, 1]
    expected = [sum(abs((row * gaps)[bins == k].sum()) for k in (0, 1)) / 20 for row in weights]
    assert found == pytest.approx(expected)


def classified(rng, n, classes, levels=None):
    """Truth with every class present, probabilities (with ties where `levels` is given) and their argmax."""
    truth = rng.permutation(np.r_[np.arange(classes), np.arange(classes), rng.integers(0, classes, n - 2 * classes)])
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[truth]
    if levels:
        logits = np.round(logits * levels) / levels
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probabilities.argmax(axis=1), probabilities


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), levels=st.sampled_from([None, 1]))
def test_classification_metrics_equal_scikit_learn_on_drawn_rows(seed, classes, levels):
    rng = np.random.default_rng(seed)
    truth, prediction, probabilities = classified(rng, 40, classes, levels)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=3) + (np.arange(40) < 0)
    weights[:, [np.flatnonzero(truth == k)[0] for k in range(classes)]] += 1
    for name in [name for name in METRICS["classification"] if name != "calibration_error"]:
        values = weighted_metric(name, truth, prediction, probabilities, weights.astype(float))
        for value, row in zip(values, weights, strict=True):
            drawn = np.repeat(np.arange(40), row)
            expected = oracle(name, truth[drawn], prediction[drawn], probabilities[drawn])
            assert value == pytest.approx(expected, abs=1e-10), name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e4]), offset=st.sampled_from([0.0, 70.0]))
def test_regression_metrics_equal_scikit_learn_on_drawn_rows(seed, scale, offset):
    rng = np.random.default_rng(seed)
    truth = scale * (offset + rng.normal(size=30))
    prediction = truth + scale * rng.normal(size=30)
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=3)
    for name in METRICS["regression"]:
        values = weighted_metric(name, truth, prediction, None, weights.astype(float))
        for value, row in zip(values, weights, strict=True):
            drawn = np.repeat(np.arange(30), row)
            assert value == pytest.approx(oracle(name, truth[drawn], prediction[drawn], None), rel=1e-7), name


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_agreement_on_ordered_classes_equals_scikit_learn_on_drawn_rows(seed, classes):
    from sklearn.metrics import cohen_kappa_score

    truth, prediction, probabilities = classified(np.random.default_rng(seed), 40, classes)
    weights = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=3)
    values = weighted_metric("quadratic_kappa", truth, prediction, probabilities, weights.astype(float))
    for value, row in zip(values, weights, strict=True):
        drawn = np.repeat(np.arange(40), row)
        expected = cohen_kappa_score(truth[drawn], prediction[drawn], weights="quadratic")
        assert value == pytest.approx(expected, abs=1e-10)


def test_ordered_classes_that_never_differ_have_no_kappa():
    assert math.isnan(metric("quadratic_kappa", [1, 1], [1, 1], [[0.0, 1.0]] * 2))


def sets_of(rng, n, classes):
    """Which classes each row has and how probable each is, with every class there and absent somewhere."""
    truth = rng.random((n, classes)) < 0.4
    truth[:2] = [[True] * classes, [False] * classes]
    return truth, np.round(0.5 * truth + rng.random((n, classes)) * 0.8, 1).clip(0, 1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_metrics_of_several_classes_at_once_equal_scikit_learn_on_drawn_rows(seed, classes):
    from sklearn import metrics as sk

    rng = np.random.default_rng(seed)
    truth, probabilities = sets_of(rng, 30, classes)
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=3)
    weights[:, :2] += 1
    said, codes = probabilities >= 0.5, 2 ** np.arange(classes)
    for row in weights:
        drawn = np.repeat(np.arange(30), row)
        true, own, scores = truth[drawn], said[drawn], probabilities[drawn]
        occurs = (true | own).any(axis=0)
        expected = {
            "mean_auroc": sk.roc_auc_score(true, scores, average="macro"),
            "mean_auprc": sk.average_precision_score(true, scores, average="macro"),
            "macro_f1": sk.f1_score(true, own, average=None, zero_division=0)[occurs].mean(),
            "subset_accuracy": sk.accuracy_score(true, own),
            "hamming_loss": sk.hamming_loss(true, own),
        }
        assert list(expected) == METRICS["multilabel"]
        for name, value in expected.items():
            found = weighted_metric(name, truth @ codes, said @ codes, probabilities, row[None].astype(float))
            assert found[0] == pytest.approx(value, abs=1e-10), name


def test_a_class_that_nobody_or_everybody_has_leaves_no_mean_area():
    probabilities = [[0.2, 0.7], [0.6, 0.1]]
    for truth in ([0, 1], [2, 3]):
        assert math.isnan(metric("mean_auroc", truth, [0, 0], probabilities))
        assert math.isfinite(metric("hamming_loss", truth, [0, 0], probabilities))


def concordant_by_hand(times, risks):
    """Harrell's C by looking at each pair; None where no pair can be compared."""
    agreeing = pairs = 0
    for i, j in [(i, j) for i in range(len(times)) for j in range(len(times)) if i != j]:
        later = abs(times[j]) > times[i] or (abs(times[j]) == times[i] and times[j] < 0)
        if times[i] > 0 and later:
            pairs += 1
            agreeing += 1 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0
    return agreeing / pairs if pairs else None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.sampled_from([7, 10**6]))
def test_concordance_counts_pairs_one_by_one_on_drawn_rows(seed, block):
    rng = np.random.default_rng(seed)
    times = rng.integers(1, 8, 25) * np.where(rng.random(25) < 0.5, 1.0, -1.0)
    risks, weights = rng.integers(0, 5, 25).astype(float), rng.multinomial(25, np.full(25, 1 / 25), size=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlimb.evaluation.concordance.BLOCK", block)
        values = weighted_metric("c_index", times, risks, None, weights.astype(float))
    for value, row in zip(values, weights, strict=True):
        drawn = np.repeat(np.arange(25), row)
        expected = concordant_by_hand(times[drawn], risks[drawn])
        assert math.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-12)


def test_without_an_event_there_is_no_concordance():
    assert math.isnan(metric("c_index", [-1.0, -2.0], [0.5, 0.1]))


def test_scores_of_times_read_the_event_of_each_row():
    rng = np.random.default_rng(0)
    times, risks, seen = rng.random(40) + 0.1, rng.normal(size=40), rng.random(40) < 0.6
    frame = predictions_of([f"p{i}" for i in range(40)], times, risks, "relapse").assign(event=seen.astype(float))
    scored = score(frame, {"relapse": {"kind": "survival", "classes": []}}, **SETTING)["relapse"]["metrics"]["c_index"]
    assert scored["value"] == pytest.approx(concordant_by_hand(np.where(seen, times, -times), risks))
    assert scored["low"] < scored["value"] < scored["high"]


def test_every_metric_has_a_direction_and_every_kind_a_default():
    assert set(DIRECTIONS) == {name for names in METRICS.values() for name in names}
    assert {name for name, way in DIRECTIONS.items() if way == "min"} == {
        *("mae", "rmse", "brier", "log_loss", "hamming_loss", "calibration_error")
    }
    assert all(DEFAULT[kind] in METRICS[kind] for kind in METRICS) and set(WORDS) == set(DIRECTIONS)


def test_what_cannot_be_computed_is_nan():
    one_class = np.zeros(5), np.zeros(5), np.tile([0.7, 0.3], (5, 1))
    for name in ("balanced_accuracy", "auroc", "auprc", "mcc", "f1", "sensitivity"):
        assert math.isnan(metric(name, *one_class)), name
    assert math.isnan(metric("r", [1, 2, 3], [5, 5, 5]))
    assert math.isnan(metric("r2", [4, 4, 4], [3, 4, 5]))
    assert math.isnan(metric("mae", [1, 2], [1, math.inf]))
    assert math.isnan(metric("mae", [], []))


def test_constant_predictions_have_no_correlation_by_matthews():
    assert metric("mcc", [0, 1, 1], [1, 1, 1]) == 0.0


def test_constant_predictions_have_no_interval_where_it_would_be_a_point():
    truth, half = [0, 1] * 10, [[0.5, 0.5]] * 20
    frame = predictions_of([f"p{i}" for i in range(20)], truth, [0] * 20, "sex", half)
    scored = score(frame, {"sex": {"kind": "classification", "classes": ["f", "m"]}}, **SETTING)["sex"]
    for name, value in {"balanced_accuracy": 0.5, "auroc": 0.5, "mcc": 0, "sensitivity": 0, "brier": 0.25}.items():
        assert scored["metrics"][name] == {"value": value, "low": None, "high": None}, name
    assert scored["metrics"]["accuracy"]["low"] < 0.5 < scored["metrics"]["accuracy"]["high"]
    (note,) = scored["notes"]
    assert "all predictions are equal" in note and "balanced_accuracy" in note and " accuracy" not in note


@pytest.mark.parametrize(("persons", "why"), [("abcd", "every resample"), ("aaaa", "only one person")])
def test_no_error_in_a_sample_and_a_single_person_are_no_certainty(persons, why):
    frame = predictions_of(list(persons), [1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 2.5, 3.5])
    scored = score(frame, {"age": {"kind": "regression"}}, **SETTING)["age"]
    assert scored["metrics"]["mae"] == {"value": 0.5, "low": None, "high": None}
    assert "mae" in scored["notes"][0] and why in scored["notes"][0]


def test_an_interval_of_one_value_is_none_whatever_rounding_leaves():
    assert interval(0.5 + np.array([0, 1e-16, -1e-16]), 0.95) == (None, None)
    assert interval(np.array([np.nan, 0.5, 0.5]), 0.95) == (None, None)
    assert interval(np.array([0.4, 0.5, 0.6]), 0.95) == percentile_interval(np.array([0.4, 0.5, 0.6]), 0.95)


@pytest.mark.parametrize("persons", [5, 20, 120])
def test_an_interval_of_few_persons_is_widened_to_that_of_student(persons):
    from scipy.stats import norm, t

    values = norm.ppf((np.arange(20_000) + 0.5) / 20_000) * math.sqrt((persons - 1) / persons)
    low, high = interval(values, 0.95, persons)
    assert (low, high) == pytest.approx((-t.ppf(0.975, persons - 1), t.ppf(0.975, persons - 1)), rel=0.01)
    assert interval(values, 0.95)[0] > low and interval(values, 0.95, 1) == interval(values, 0.95)


def test_a_corrected_interval_moves_its_tails_by_the_share_of_resamples_below_the_value():
    from scipy.stats import norm, t

    values = np.random.default_rng(3).beta(8, 2, 5000)
    value = float(np.quantile(values, 0.4))
    moved = 2 * norm.ppf(0.4) + math.sqrt(30 / 29) * t.ppf([0.025, 0.975], 6)
    found = interval(values, 0.95, 30, value=value, freedom=6)
    assert found == pytest.approx(np.quantile(values, norm.cdf(moved)), abs=1e-3)
    plain = interval(values, 0.95, 30)
    assert interval(values, 0.95, 30, value=float(np.median(values))) == pytest.approx(plain, abs=1e-3)
    ends = [interval(values, 0.95, 30, value=end) for end in (-1.0, 2.0)]
    assert all(np.isfinite(pair).all() and pair[0] <= pair[1] for pair in ends)


@pytest.mark.parametrize(("name", "truth", "classes", "rarest"), [
    ("auprc", [0, 0, 0, 0, 1, 1, 1, 1], 2, 3),
    ("auprc", [0, 1, 2, 1, 1, 2, 1, 1], 3, 1),
    ("mean_auprc", [1, 3, 0, 1, 2, 0, 0, 0], 2, 2),
])  # fmt: skip
def test_an_area_under_the_precision_recall_curve_is_as_sure_as_its_rarest_class_has_persons(name, truth, classes, rarest):
    draws = np.random.default_rng(4).beta(6, 3, 2000)
    shares = [[1 / classes] * classes] * len(truth)
    frame = pd.DataFrame({"truth": np.array(truth, float), "person": list("abcdefgg"), "probabilities": shares})
    found = metric_interval(name, 0.6, draws, 0.95, 7, [frame.iloc[:3], frame.iloc[3:]])
    assert found == interval(draws, 0.95, 7, value=0.6, freedom=max(rarest - 1, 1))
    assert metric_interval("auroc", 0.6, draws, 0.95, 7, [frame]) == interval(draws, 0.95, 7)


def test_sensitivity_and_specificity_look_at_what_is_called():
    truth, said = [1, 1, 0, 0], [1, 0, 0, 0]
    frame = predictions_of(list("abcd"), truth, said, "sex", [[1 - p, p] for p in (0.8, 0.4, 0.3, 0.1)])
    targets = {"sex": {"kind": "classification", "classes": ["f", "m"]}}
    plain = score(frame, targets, **SETTING)["sex"]["metrics"]
    called = score(frame.assign(called=[1.0, 1.0, 1.0, 0.0]), targets, **SETTING)["sex"]["metrics"]
    assert (plain["sensitivity"]["value"], plain["specificity"]["value"]) == (0.5, 1)
    assert (called["sensitivity"]["value"], called["specificity"]["value"]) == (1, 0.5)
    assert called["accuracy"]["value"] == plain["accuracy"]["value"] == 0.75


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'balanced_accuracy'"):
        metric("balanced_acuracy", [0, 1], [0, 1])


def predictions_of(persons, truth, prediction, target="age", probabilities=None):
    lists = [None] * len(truth) if probabilities is None else list(map(list, probabilities))
    columns = {"scan_id": [f"c/s{i}/1/T1w" for i in range(len(truth))], "person": persons, "target": target}
    return pd.DataFrame(columns | {"truth": truth, "prediction": prediction, "probabilities": lists, "event": np.nan})


def test_scores_hold_every_metric_with_an_interval_around_the_value():
    truth, prediction, probabilities = classified(np.random.default_rng(1), 80, 2)
    frame = predictions_of([f"p{i}" for i in range(80)], truth, prediction, "sex", probabilities)
    scored = score(frame, {"sex": {"kind": "classification", "classes": ["f", "m"]}}, **SETTING)["sex"]
    assert scored["classes"] == ["f", "m"] and list(scored["metrics"]) == METRICS["classification"]
    assert scored["metrics"].pop("calibration_error")["low"] is None
    assert all(one["low"] < one["value"] < one["high"] for one in scored["metrics"].values())


def test_a_metric_that_cannot_be_computed_is_null_and_the_others_stand():
    frame = predictions_of(list("abcd"), [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0])
    metrics = score(frame, {"age": {"kind": "regression", "classes": []}}, **SETTING)["age"]["metrics"]
    assert metrics["r"] is None and metrics["mae"]["value"] == 1.0


def test_rows_without_a_truth_count_for_nothing():
    frame = predictions_of(list("abc"), [1.0, 2.0, np.nan], [2.0, 2.0, 50.0])
    assert score(frame, {"age": {"kind": "regression"}}, **SETTING)["age"]["metrics"]["mae"]["value"] == 0.5


def test_a_set_without_persons_has_only_null_metrics():
    empty = predictions_of([], [], []).astype({"truth": float, "prediction": float})
    for kind in METRICS:
        assert set(score(empty, {"age": {"kind": kind}}, **SETTING)["age"]["metrics"].values()) == {None}


def test_the_order_of_rows_changes_no_score():
    rng = np.random.default_rng(3)
    frame = predictions_of([f"p{i // 2}" for i in range(40)], rng.normal(size=40), rng.normal(size=40))
    targets = {"age": {"kind": "regression", "classes": []}}
    shuffled = frame.sample(frac=1, random_state=1)
    first, second = (score(rows, targets, **SETTING)["age"]["metrics"] for rows in (frame, shuffled))
    for name in first:
        assert first[name] == pytest.approx(second[name])


def test_the_size_of_blocks_changes_no_resample(monkeypatch):
    draw = lambda: person_bootstrap(lambda weights: weights @ np.arange(7.0), 7, resamples=50, seed=4)  # noqa: E731
    whole = draw()
    monkeypatch.setattr("tlimb.evaluation.bootstrap.BLOCK", 30)
    assert np.array_equal(whole, draw())
    assert np.array_equal(whole, np.round(whole)) and len(set(whole)) > 10


def test_an_interval_needs_half_of_its_resamples():
    assert percentile_interval(np.r_[np.full(6, np.nan), np.arange(4)], 0.95) == (None, None)
    assert percentile_interval(np.r_[np.full(4, np.nan), np.ones(6)], 0.95) == (1.0, 1.0)
