"""The chance of training anew, against its formula written out with loops."""

import numpy as np
import pytest
from scipy import stats

from tlimb.ranking.training_chance import by_training, trained_anew, training_noise, trainings


def left_over(values, drawn):
    """sigma^2 of the formula, one candidate or several, and its degrees of freedom."""
    k, count = values.shape

    def variance(y):
        total = 0.0
        for i in range(k):
            for j in range(count):
                common = np.mean([y[other][j] - y[other].mean() for other in range(k)]) if k > 1 else 0.0
                total += (y[i][j] - y[i].mean() - common) ** 2
        return total / (max(1, k - 1) * (count - 1))

    mean = drawn.mean(axis=0)
    return max(0.0, variance(values) - np.mean([variance(one - mean) for one in drawn])), max(1, k - 1) * (count - 1)


@pytest.mark.parametrize(("candidates", "count"), [(2, 8), (4, 5)])
def test_the_noise_has_the_variance_of_the_formula(candidates, count):
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.1, (candidates, count))
    drawn = values + rng.normal(0, 0.03, (20_000, candidates, count))
    expected, freedom = left_over(values, drawn[:300])
    noise = training_noise(values, np.concatenate([drawn[:300]] * 60), 0)
    assert noise.var() == pytest.approx(expected / count * freedom / (freedom - 2), rel=0.1)
    assert noise.mean() == pytest.approx(0, abs=0.003)


def test_resamples_of_a_difference_get_the_quantiles_of_students_t():
    rng = np.random.default_rng(4)
    values = np.array([0.02, 0.10, 0.05, 0.16, 0.01])
    shared = rng.normal(0, 0.02, (40_000, 1)) + rng.normal(0, 0.01, (40_000, 5))
    sigma2, _ = left_over(values[None], (values + shared[:300])[:, None])
    means = (values + shared).mean(axis=1)
    total = means.var() + sigma2 / 5
    freedom = 4 * total / (sigma2 / 5)
    found = np.quantile(trained_anew(values.mean(), means, values, values + shared[:300], 0), [0.025, 0.25, 0.9, 0.975])
    expected = values.mean() + stats.t(freedom).ppf([0.025, 0.25, 0.9, 0.975]) * np.sqrt(total)
    np.testing.assert_allclose(found, expected, atol=0.0025)


def test_one_training_or_one_whose_spread_persons_explain_leaves_resamples_as_they_are():
    rng = np.random.default_rng(5)
    drawn = rng.normal(0, 0.1, (300, 4))
    for values in (np.array([0.01, 0.02, 0.0, 0.01]), np.array([0.3])):
        own = drawn[:, : len(values)]
        np.testing.assert_array_equal(trained_anew(values.mean(), own.mean(axis=1), values, own, 0), own.mean(axis=1))


def test_nothing_is_added_where_persons_explain_the_spread_or_there_is_one_training():
    rng = np.random.default_rng(2)
    drawn = rng.normal(0, 0.1, (200, 2, 4))
    alike, unlike = np.array([[0.01, 0.02, 0.0, 0.01], [0.0] * 4]), np.array([[0.5, 0.1, 0.2, 0.3], [0.0] * 4])
    assert not training_noise(alike, drawn, 0).any()
    assert not training_noise(unlike[:, :1], drawn[:, :, :1], 0).any()
    assert not training_noise(unlike, np.full_like(drawn, np.nan), 0).any()
    assert training_noise(unlike, drawn, 0).any()


def test_where_persons_explain_nothing_training_still_has_its_chance():
    values = np.array([0.5, 0.5, 0.0])
    drawn = np.tile(values, (20_000, 1))
    found = trained_anew(values.mean(), drawn.mean(axis=1), values, drawn, 0)
    expected = values.mean() + stats.t(2).ppf([0.1, 0.9]) * values.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(np.quantile(found, [0.1, 0.9]), expected, atol=0.02)


def test_where_most_resamples_lack_a_score_all_of_the_spread_is_trainings_own():
    rng = np.random.default_rng(6)
    drawn = rng.normal(0, 0.1, (2000, 4))
    values = drawn[0]
    few = np.where(np.arange(2000)[:, None] < 1500, np.nan, drawn)
    means = rng.normal(0, 0.05, 2000)
    wide, narrow = (trained_anew(0.0, means, values, one, 0).std() for one in (few, drawn))
    assert wide > 1.1 * narrow


def test_what_all_candidates_have_in_common_is_no_difference_between_them():
    rng = np.random.default_rng(3)
    easy = rng.normal(0, 0.2, 6)
    values = np.stack([easy + 0.7, easy + 0.6, easy + 0.65])
    assert not training_noise(values, values + rng.normal(0, 0.01, (100, 3, 6)), 0).any()
    assert training_noise(values[:1], values[:1] + rng.normal(0, 0.01, (100, 1, 6)), 0).any()


def test_a_training_is_a_sample_where_there_are_several_and_otherwise_a_seed():
    seeds = [(seed, 0, None, None, None) for seed in (0, 1, 2)]
    assert trainings(seeds) == [0, 1, 2]
    samples = [(seed, 0, None, None, replicate) for replicate in (0, 1) for seed in (0, 1)]
    labels = trainings(samples)
    assert len(set(labels)) == 2
    assert by_training(np.array([1.0, 3.0, 5.0, 9.0]), labels).tolist() == [2.0, 7.0]
