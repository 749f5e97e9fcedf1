"""Harmonised features on test people against formulas in NumPy and scikit-learn, and what may change which number."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from tlimb.data.targets import Target
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.harmonised import harmonise
from tlimb.evaluation.linear_probe import PENALTIES, parts_of
from tlimb.explain.harmonised import left_out, on_test, why_not, with_columns
from tlimb.seeds import seed_for

GROUP, SCORE = Target("group", "classification", ("a", "b")), Target("score", "regression")
SETTINGS = Evaluate(bootstrap=300, probe=True, harmonise="site")
SITE = {"site": {"kind": "classification"}}
SEED = seed_for(0, "probe")


def people(train: int = 90, test: int = 60, width: int = 8, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows and features of persons with two scans each: patients crowd at one site in training and at the other in
    test, and sites shift features more than the illness does."""
    random, n = np.random.default_rng(seed), train + test
    person = np.arange(n) // 2
    sick, testing = person % 2, np.arange(n) >= train
    usual = random.random(person.max() + 1)[person] < 0.75
    site = np.where(usual, sick, 1 - sick) ^ testing
    features = random.normal(size=(n, width)) * np.where(site, 1.6, 0.8)[:, None]
    features += np.outer(site, random.normal(1, 1, width)) + 0.7 * np.outer(sick, random.normal(size=width))
    rows = pd.DataFrame({"scan_id": [f"s{i:03d}" for i in range(n)], "person": [f"p{i:03d}" for i in person]})
    rows["role"], rows["site"] = np.where(testing, "test", "train"), np.where(site, "oslo", "bern")
    rows["times"], rows["group"] = 1, np.array(["a", "b"])[sick]
    return rows.assign(score=50 + 9 * sick + random.normal(size=n)), features


def measured(rows: pd.DataFrame, features: np.ndarray, target: Target = GROUP, columns=SITE, **changes) -> dict:
    row = {scan: number for number, scan in enumerate(rows["scan_id"])}
    settings = Evaluate(**{"bootstrap": 300, "probe": True, "harmonise": "site"} | changes)
    metric = "accuracy" if target.kind == "classification" else "rmse"
    return on_test(*parts_of(rows, "test", features, row, target), target, columns, settings, metric)


def by_hand(values: np.ndarray, site: np.ndarray, new: np.ndarray, new_site: np.ndarray) -> tuple:
    """ComBat without covariates, a feature and a site at a time, as its papers write it; training and new scans."""
    names, n = sorted(set(site)), len(values)
    means = {name: values[site == name].mean(0) for name in names}
    alpha = sum((site == name).sum() / n * means[name] for name in names)
    sigma = np.sqrt(sum(((values[site == name] - means[name]) ** 2).sum(0) for name in names) / n)
    z, moved = (values - alpha) / sigma, [values.copy(), new.copy()]
    for name in names:
        own = z[site == name]
        gamma, delta, count = own.mean(0), own.var(0, ddof=1), len(own)
        centre, tau2, m, s2 = gamma.mean(), gamma.var(ddof=1), delta.mean(), delta.var(ddof=1)
        shape, scale = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        for f in range(values.shape[1]):
            g, d = gamma[f], delta[f]
            for _ in range(200):
                g = (count * tau2 * gamma[f] + d * centre) / (count * tau2 + d)
                d = (scale + ((own[:, f] - g) ** 2).sum() / 2) / (count / 2 + shape - 1)
            for out, where in zip(moved, (site == name, new_site == name)):
                out[where, f] = sigma[f] * ((out[where, f] - alpha[f]) / sigma[f] - g) / np.sqrt(d) + alpha[f]
    return moved


def outputs_by_hand(train: np.ndarray, truth, persons, test: np.ndarray, kind: str) -> np.ndarray:
    """The probe of scikit-learn whose penalty loses least over folds of persons: log-odds of the second class, or
    values."""
    def fitted(x, y, penalty):
        mean, sd = x.mean(0), x.std(0)
        if kind == "regression":
            model = Ridge(penalty * len(y)).fit((x - mean) / sd, y)
            return lambda new: model.predict((new - mean) / sd)
        model = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-9, max_iter=5000).fit((x - mean) / sd, y)
        return lambda new: model.decision_function((new - mean) / sd)

    kinds = {"regression": GroupKFold, "classification": StratifiedGroupKFold}
    folds = list(kinds[kind](5, shuffle=True, random_state=SEED % 2**32).split(train, truth, groups=persons))
    losses = []
    for penalty in PENALTIES:
        out = np.zeros(len(truth))
        for kept, left in folds:
            out[left] = fitted(train[kept], truth[kept], penalty)(train[left])
        wrong = (out - truth) ** 2 if kind == "regression" else np.logaddexp(0, np.where(truth == 1, -out, out))
        losses.append(wrong.mean())
    return fitted(train, truth, PENALTIES[int(np.argmin(losses))])(test)


@pytest.mark.parametrize("target", [GROUP, SCORE])
def test_values_before_and_after_are_those_of_the_formulas_in_numpy_and_scikit_learn(target):
    rows, features = people()
    own, truth = (rows["role"] == "train").to_numpy(), target.truth(rows[target.name])
    persons, site = rows["person"].to_numpy()[own], rows["site"].to_numpy(str)
    found = measured(rows, features, target)
    moved = by_hand(features[own], site[own], features[~own], site[~own])
    for part, (train, test) in {"before": (features[own], features[~own]), "after": moved}.items():
        out = outputs_by_hand(train, truth[own], persons, test, target.kind)
        if target is GROUP:
            known = {"auroc": roc_auc_score(truth[~own], out), "accuracy": ((out > 0) == truth[~own]).mean()}
            known["balanced_accuracy"] = balanced_accuracy_score(truth[~own], out > 0)
        else:
            known = {"r2": r2_score(truth[~own], out), "mae": mean_absolute_error(truth[~own], out)}
            known["rmse"] = np.sqrt(((truth[~own] - out) ** 2).mean())
        for name, value in known.items():
            assert found["test"][part][name]["value"] == pytest.approx(value, abs=2e-3), (part, name)
    assert found["n"] == {"train": 90, "test": 60, "persons": 30} and found["unharmonised"] == 0
    assert found["site"]["before"] > found["site"]["after"] + 0.1 and found["site"]["chance"] == 0.5
    assert found["status"] == "ok" and found["reason"] == ""


def test_where_sites_go_with_the_label_otherwise_in_test_harmonising_helps():
    rows, features = people(300, 200)
    found = measured(rows, features)["test"]["difference"]["balanced_accuracy"]
    assert found["low"] > 0


def test_differences_are_paired_over_persons():
    rows, features = people(200, 160)
    found = measured(rows, features, bootstrap=1000)["test"]
    before, after, change = (found[part]["auroc"] for part in ("before", "after", "difference"))
    assert change["value"] == pytest.approx(after["value"] - before["value"], abs=1e-12)
    own, sick = (rows["role"] == "train").to_numpy(), GROUP.truth(rows["group"])
    site, persons = rows["site"].to_numpy(str), rows["person"].to_numpy()
    sides = (features[own], features[~own]), by_hand(features[own], site[own], features[~own], site[~own])
    outs = [outputs_by_hand(train, sick[own], persons[own], test, "classification") for train, test in sides]
    random, draws = np.random.default_rng(9), []
    for _ in range(300):
        drawn = (2 * random.integers(0, 80, 80)[:, None] + [0, 1]).ravel()
        one, two = (roc_auc_score(sick[~own][drawn], out[drawn]) for out in outs)
        draws.append(two - one)
    ends = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose([change["low"], change["high"]], ends, atol=0.03)


def test_labels_of_test_people_change_scores_and_nothing_that_was_fitted():
    rows, features = people()
    test = rows["role"] == "test"
    turned = rows.assign(group=rows["group"].mask(test, rows["group"].map({"a": "b", "b": "a"})))
    one, two = measured(rows, features), measured(turned, features)
    for part in ("before", "after"):
        for name in ("balanced_accuracy", "auroc", "accuracy"):
            values = [found["test"][part][name]["value"] for found in (one, two)]
            assert sum(values) == pytest.approx(1, abs=1e-12)  # of the same predictions
    assert {**one, "test": None} == {**two, "test": None}


def test_features_of_test_people_change_nothing_that_was_fitted():
    rows, features = people()
    own = (rows["role"] == "train").to_numpy()
    row = {scan: number for number, scan in enumerate(rows["scan_id"])}
    other = np.where(own[:, None], features, features * 3 + 1)
    parts = [parts_of(rows, "test", one, row, GROUP) for one in (features, other)]
    found = [harmonise(*pair, GROUP, SITE, "site", SEED) for pair in parts]
    np.testing.assert_array_equal(found[0].train.features, found[1].train.features)
    fewer = rows[own | (rows["scan_id"] == rows["scan_id"].iloc[-1])]
    alone = harmonise(*parts_of(fewer, "test", features, row, GROUP), GROUP, SITE, "site", SEED)
    np.testing.assert_array_equal(alone.shown.features, found[0].shown.features[-1:])


def test_scans_that_cannot_be_harmonised_stay_and_are_counted():
    rows, features = people()
    rows["sex"] = np.where(np.arange(len(rows)) % 3 == 0, "f", "m")
    rows.loc[[100, 101], "site"] = "rome"  # in test alone
    rows.loc[110, "sex"] = "x"  # no training scan is
    rows.loc[120, "site"] = None
    rows.loc[3, "site"] = "cork"  # one training scan
    row = {scan: number for number, scan in enumerate(rows["scan_id"])}
    columns = SITE | {"sex": {"kind": "classification"}}
    train, test = parts_of(rows, "test", features, row, GROUP)
    found = harmonise(train, test, GROUP, columns, "site", SEED)
    same = (found.shown.features == test.labelled.features).all(1)
    assert set(test.table["scan_id"][same]) == {"s100", "s101", "s110", "s120"}
    assert found.unharmonised == 5 and (found.train.features == train.labelled.features).all(1).sum() == 1
    assert measured(rows, features, columns=columns)["unharmonised"] == 5


def test_scans_count_as_often_as_they_were_drawn_and_are_told_once():
    rows, features = people()
    drawn = rows.assign(times=np.where(np.arange(len(rows)) % 3 == 0, 2, 1))
    found = measured(drawn, features)
    assert found["n"] == {"train": 90, "test": 60, "persons": 30}
    assert found["test"]["before"] != measured(rows, features)["test"]["before"]
    lost = drawn.assign(site=drawn["site"].mask(drawn["scan_id"] == "s000"))
    assert measured(lost, features)["unharmonised"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "oslo"}, "fewer than two values of 'site' have 2 training scans"),
        ({"group": "a"}, "all training labels are equal"),
        ({"role": "train"}, "no scan of one part"),
    ],
)
def test_what_cannot_be_measured_is_left_out_with_its_reason(change, message):
    rows, features = people()
    found = measured(rows.assign(**change), features)
    assert found["status"] == "left out" and message in found["reason"] and found["test"] is None


def test_encoders_that_moved_and_targets_without_a_probe_are_left_out():
    assert [why_not(strategy, GROUP) for strategy in ("frozen", "direct")] == ["", ""]
    for strategy in ("full", "scratch"):
        assert f"(strategy {strategy})" in why_not(strategy, GROUP)
    assert "of kind survival" in why_not("frozen", Target("relapse", "survival"))
    said = left_out("why", Evaluate(probe=True, harmonise="site", keeping=["age"]))
    assert (said["reason"], said["column"], said["keeping"]) == ("why", "site", ["age"])


def test_columns_of_the_cohort_come_to_the_rows_as_text_where_they_are_classes(tmp_path):
    known = pd.DataFrame({"scan_id": ["x", "y", "z"], "scanner": [1.0, 2.0, np.nan], "age": [30.0, 40.0, 50.0]})
    known.to_parquet(tmp_path / "cohort.parquet")
    columns = {"scanner": {"kind": "classification"}, "age": {"kind": "regression"}}
    found = with_columns(pd.DataFrame({"scan_id": ["z", "x"]}), tmp_path / "cohort.parquet", columns)
    assert found["age"].tolist() == [50, 30] and found["scanner"].iloc[1] == "1" and found["scanner"].isna()[0]
