"""How far features lie from those of validation scans, against scikit-learn and by simulation."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from tlimb.evaluation.familiar import KEPT, LEAST, familiarity, fit_familiar, unfamiliar


def drawn(n, width, seed=0, shift=0.0):
    """Correlated features."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return random.normal(size=(n, width)) @ mixing + 3 + shift


@pytest.mark.parametrize(("n", "width"), [(80, 12), (20, 40), (30, 300)])
def test_distances_are_those_of_ledoit_and_wolfs_covariance(n, width):
    features, new = drawn(n, width), drawn(7, width, seed=1)
    distance, _ = familiarity(fit_familiar(features), new)
    np.testing.assert_allclose(distance, np.sqrt(LedoitWolf().fit(features).mahalanobis(new)), rtol=1e-4)


def test_of_many_features_the_first_eigenvalues_stand_apart_and_the_rest_share_their_mean():
    features, new = drawn(200, 80), drawn(5, 80, seed=1)
    covariance = LedoitWolf().fit(features).covariance_
    values, vectors = np.linalg.eigh(covariance)
    values = np.r_[np.full(80 - KEPT, values[:-KEPT].mean()), values[-KEPT:]]
    away = (new - features.mean(axis=0)) @ vectors
    distance, _ = familiarity(fit_familiar(features), new)
    np.testing.assert_allclose(distance, np.sqrt((away**2 / values).sum(axis=1)), rtol=1e-4)


def test_p_is_the_share_of_held_out_scans_as_far_or_farther():
    facts = fit_familiar(drawn(40, 5))
    distance, p = familiarity(facts, drawn(30, 5, seed=2))
    expected = [(1 + sum(one >= own for one in facts["held_out"])) / 41 for own in distance]
    np.testing.assert_allclose(p, expected)


def test_a_held_out_distance_is_by_other_persons():
    features = np.repeat(drawn(20, 30), 2, axis=0)  # two equal scans of each person
    own = fit_familiar(features, np.repeat(np.arange(20), 2))
    alone = fit_familiar(features)
    assert np.median(own["held_out"]) > np.median(alone["held_out"])


def test_ordinary_scans_are_seldom_called_unfamiliar_and_shifted_ones_mostly_are():
    called, found = [], []
    for seed in range(40):
        facts = fit_familiar(drawn(120, 20, seed=seed))
        called.append(unfamiliar(facts, familiarity(facts, drawn(100, 20, seed=1000 + seed))[1]).mean())
        found.append(unfamiliar(facts, familiarity(facts, drawn(50, 20, seed=2000 + seed, shift=3.0))[1]).mean())
    assert np.mean(called) < 0.02 and np.mean(found) > 0.95


def test_p_is_uniform_for_scans_like_those_of_validation():
    values = []
    for seed in range(60):
        facts = fit_familiar(drawn(50, 10, seed=seed))
        values.append(familiarity(facts, drawn(50, 10, seed=500 + seed))[1])
    share = [(np.concatenate(values) <= level).mean() for level in (0.1, 0.25, 0.5)]
    np.testing.assert_allclose(share, [0.1, 0.25, 0.5], atol=0.05)


def test_what_never_varied_counts_where_it_does_in_a_new_scan():
    features = drawn(100, 70)
    features[:, 0] = 1.0
    facts, new = fit_familiar(features), drawn(3, 70, seed=1)
    new[:, 0] = [1.0, 20.0, np.nan]
    distance, p = familiarity(facts, new)
    assert distance[1] > 2 * distance[0] and p[1] == 1 / 101
    assert distance[2] == np.inf and p[2] == 1 / 101


@given(st.integers(0, LEAST + 3), st.integers(1, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_whatever_the_features_it_never_raises_and_is_fit_for_json(n, width, constant):
    features = np.ones((n, width), np.float32) if constant else drawn(n, width).astype(np.float32)
    facts = fit_familiar(features, np.arange(n) // 2)
    assert (facts is None) == (n < LEAST or constant)
    if facts:
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert np.isfinite(familiarity(facts, features)[0]).all()


def test_features_that_are_not_finite_or_of_one_person_alone_leave_nothing_to_tell():
    features = drawn(20, 4)
    assert fit_familiar(features, np.zeros(20)) is None and fit_familiar(features, np.arange(20) % 2) is not None
    features[3, 1] = np.nan
    assert fit_familiar(features) is None
