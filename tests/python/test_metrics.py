"""Metrics against scikit-learn and scipy, and intervals against simulated truth."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.metrics import DEFAULT, DIRECTIONS, METRICS, metric, score, weighted_metric
from tlimb.ranking.answer import WORDS

SETTING = {"resamples": 200, "confidence": 0.95, "seed": 0}


def oracle(name, truth, prediction, probabilities):
    """The same metric by scikit-learn and scipy on rows repeated as often as they were drawn."""
    from scipy import stats
    from sklearn import metrics as sk

    if probabilities is None:
        functions = {"mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error, "r2": sk.r2_score}
        return stats.pearsonr(truth, prediction).statistic if name == "r" else functions[name](truth, prediction)
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
    }[name]()


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
    for name in METRICS["classification"]:
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
        *("mae", "rmse", "brier", "log_loss", "hamming_loss")
    }
    assert all(DEFAULT[kind] in METRICS[kind] for kind in METRICS) and set(WORDS) == set(DIRECTIONS)


def test_what_cannot_be_computed_is_nan():
    one_class = np.zeros(5), np.zeros(5), np.tile([0.7, 0.3], (5, 1))
    for name in ("balanced_accuracy", "auroc", "auprc", "mcc", "f1"):
        assert math.isnan(metric(name, *one_class)), name
    assert math.isnan(metric("r", [1, 2, 3], [5, 5, 5]))
    assert math.isnan(metric("r2", [4, 4, 4], [3, 4, 5]))
    assert math.isnan(metric("mae", [1, 2], [1, math.inf]))
    assert math.isnan(metric("mae", [], []))


def test_constant_predictions_have_no_correlation_by_matthews():
    assert metric("mcc", [0, 1, 1], [1, 1, 1]) == 0.0


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


def coverage(scans_each):
    """Share of 200 simulations whose 95 % interval holds the true error; a person's scans share their error."""
    rng, truth, hits = np.random.default_rng(7), math.sqrt(2 / math.pi), 0
    for _ in range(200):
        error = np.repeat(rng.normal(size=60), scans_each)
        persons = np.repeat([f"p{i}" for i in range(60)], scans_each)
        frame = predictions_of(persons, np.zeros(len(error)), error)
        interval = score(frame, {"age": {"kind": "regression"}}, resamples=300, confidence=0.95, seed=0)
        interval = interval["age"]["metrics"]["mae"]
        hits += interval["low"] <= truth <= interval["high"]
    return hits / 200


@pytest.mark.parametrize("scans_each", [1, 3])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(scans_each):
    assert 0.90 <= coverage(scans_each) <= 0.98
