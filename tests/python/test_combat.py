"""ComBat against fixed numbers of the authors' code, and by what it must do."""

import numpy as np
import pandas as pd
import pytest

from tlimb.errors import InputError
from tlimb.evaluation.combat import covariate_columns, fit_combat

FEATURES = np.array([
    [2.44, 5.0, 3.6], [1.67, 3.32, 2.24], [1.92, 2.06, 1.84], [2.4, 1.79, 1.26], [3.56, 3.98, 1.51], [3.89, 3.17, 3.98],
    [2.96, 4.27, 4.21], [2.85, 2.1, 2.75], [1.06, -1.21, 1.87], [3.89, 4.17, 5.22], [1.95, 2.22, 2.35],
    [2.73, 0.74, 0.21],
])  # fmt: skip
AGES = [68.0, 68.0, 51.0, 37.0, 23.0, 43.0, 45.0, 23.0, 23.0, 80.0, 59.0, 34.0]
SITES = np.array(list("aaaabbbbcccc"))
COLUMNS = {"sex": {"kind": "classification", "classes": ["f", "m"]}, "age": {"kind": "regression", "classes": []}}
HARMONISED = np.array([
    [3.0542281026, 5.5090277111, 4.5131500742], [2.399439611, 3.9222933959, 3.1727392326],
    [2.5484084237, 2.6829808852, 2.7625026573], [3.0069762228, 2.3242625464, 2.1740589232],
    [2.4498789284, 2.2634723075, 0.0746220161], [2.829932939, 1.6810192537, 2.476086939],
    [1.9349770687, 2.7184812506, 2.7086798773], [1.8392197442, 0.5517482935, 1.2374545364],
    [1.4645923374, 0.1056964914, 2.0639514773], [4.1397939753, 5.3214793702, 5.5188367849],
    [2.3363436827, 3.4604948421, 3.0056878215], [3.0063440267, 1.8586763994, 0.9281132513],
])  # fmt: skip


def covariates() -> np.ndarray:
    """Sex and age of the twelve scans."""
    return covariate_columns(pd.DataFrame({"sex": np.tile(["f", "m"], 6), "age": AGES}), COLUMNS)


def people(n: int, width: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of scans at three sites with shifts and spreads of their own, and the sites."""
    random = np.random.default_rng(seed)
    sites = random.integers(0, 3, n)
    shift, spread = random.normal(size=(3, width)), random.uniform(0.5, 2, (3, width))
    return shift[sites] + spread[sites] * random.normal(size=(n, width)), np.array(list("abc"))[sites]


def test_training_scans_come_out_as_from_the_authors_code():
    """The numbers are those of neuroCombat 0.2.12 with sex and age kept."""
    found = fit_combat(FEATURES, SITES, covariates()).apply(FEATURES, SITES, covariates())
    np.testing.assert_allclose(found, HARMONISED, atol=1e-9)


def test_new_people_of_known_sites_lose_the_effect_of_their_site():
    features, sites = people(6000)
    fitted = fit_combat(features[:4000], sites[:4000])
    new, place = fitted.apply(features[4000:], sites[4000:]), sites[4000:]
    before = np.array([features[4000:][place == one].mean(0) for one in "abc"])
    after = np.array([new[place == one].mean(0) for one in "abc"])
    assert after.std(0).mean() < 0.2 * before.std(0).mean()
    spreads = np.array([new[place == one].std(0) for one in "abc"])
    assert np.abs(np.log(spreads / spreads.mean(0))).mean() < 0.1


def test_a_new_scan_depends_on_nobody_beside_it():
    features, sites = people(90)
    fitted = fit_combat(features[:60], sites[:60])
    together = fitted.apply(features[60:], sites[60:])
    alone = np.concatenate([fitted.apply(features[k : k + 1], sites[k : k + 1]) for k in range(60, 90)])
    np.testing.assert_array_equal(together, alone)


def test_what_a_kept_covariate_explains_stays():
    random = np.random.default_rng(3)
    sites, age = random.integers(0, 2, 2000), random.normal(size=2000)
    age = age + sites
    features = np.stack([2 * age + 3 * sites, -age + sites], 1) + 0.3 * random.normal(size=(2000, 2))
    kept = fit_combat(features, sites, age).apply(features, sites, age)
    slopes = [np.polyfit(age[sites == one], kept[sites == one, 0], 1) for one in (0, 1)]
    np.testing.assert_allclose([slope[0] for slope in slopes], 2, atol=0.05)
    np.testing.assert_allclose(slopes[0][1], slopes[1][1], atol=0.05)
    lost = fit_combat(features, sites).apply(features, sites)
    assert abs(lost[sites == 1, 0].mean() - lost[sites == 0, 0].mean()) < 0.1
    assert kept[sites == 1, 0].mean() - kept[sites == 0, 0].mean() > 1.5


def test_an_unknown_site_is_refused_by_name_or_left_as_it_is():
    features, sites = people(60)
    fitted = fit_combat(features, sites)
    with pytest.raises(InputError, match="site oslo"):
        fitted.apply(features[:2], ["a", "oslo"])
    found = fitted.apply(features[:2], ["a", "oslo"], keep_unknown=True)
    np.testing.assert_array_equal(found[1], features[1])
    assert (found[0] != features[0]).all()


def test_a_constant_feature_stays():
    features, sites = people(60)
    features[:, 4] = 7.0
    found = fit_combat(features, sites).apply(features, sites)
    assert (found[:, 4] == 7).all() and np.isfinite(found).all()


@pytest.mark.parametrize(
    "sites, covariate, message",
    [("aaaaaa", None, "a alone"), ("aaaaab", None, "site b"), ("aaabbb", [0, 0, 0, 1, 1, 1], "covariates")],
)
def test_what_cannot_be_fitted_is_said(sites, covariate, message):
    with pytest.raises(InputError, match=message):
        fit_combat(np.random.default_rng(0).normal(size=(6, 3)), list(sites), covariate)
