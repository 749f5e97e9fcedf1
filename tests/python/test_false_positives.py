"""How often tests find a difference between equally good candidates: at most in 6 of 100 runs at level 0.05."""

import numpy as np
import pandas as pd
import pytest

from tlimb.ranking.compare import Measure, paired_difference
from tlimb.ranking.delong import delong
from tlimb.ranking.friedman import critical_difference, friedman, mean_ranks
from tlimb.ranking.resampled import corrected_t
from tlimb.ranking.told_apart import model_confidence_set
from tlimb.ranking.training_chance import training_noise

FEW, MANY = (80, 0.125), (2000, 0.06)
"""Runs, and the largest share of false findings: with few runs chance alone gives more than 0.06."""


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "many"])
def runs(request):
    return request.param


def table(person, truth, score):
    scans = [f"s{i}" for i in range(len(truth))]
    columns = {"scan_id": scans, "person": person, "truth": truth.astype(float)}
    columns["prediction"] = (score > 0.5).astype(float)
    return pd.DataFrame(columns | {"probabilities": list(np.stack([1 - score, score], 1)), "event": np.nan})


def equal_pair(rng, persons=60, scans=2):
    """Two models of equal skill that agree in part, on persons with some scans each."""
    truth = np.repeat(np.arange(persons) % 2, scans)
    person = np.repeat([f"p{i:03d}" for i in range(persons)], scans)
    own = np.repeat(rng.normal(size=(persons, 1)), scans, axis=0)
    logit = 1.2 * (truth[:, None] - 0.5) * 2 + own + 0.8 * rng.normal(size=(len(truth), 2))
    return [table(person, truth, 1 / (1 + np.exp(-column))) for column in logit.T]


def share(runs, found_one) -> float:
    return sum(found_one(np.random.default_rng([7, run])) for run in range(runs)) / runs


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "brier"])
def test_the_paired_bootstrap_rarely_finds_what_is_not_there(runs, metric):
    measure = Measure(metric, "classification", 399, 0.95, 0)
    found = share(runs[0], lambda rng: paired_difference([tuple(equal_pair(rng))], measure)["p"] < 0.05)
    assert found <= runs[1]


@pytest.mark.parametrize("scans", [1, 2])
def test_delong_rarely_finds_what_is_not_there(runs, scans):
    found = share(runs[0], lambda rng: delong([tuple(equal_pair(rng, 80, scans))])["p"] < 0.05)
    assert found <= runs[1]


def equal_trials(rng, seeds, folds, persons=100, scans=2, luck=0.0):
    """Pairs of two candidates of equal skill, one for each seed and fold; what is odd in a candidate's scores is so in
    part whatever the seed. luck: how much the skill of each trained model differs. Folds test different people."""
    truth = np.repeat(np.arange(persons) % 2, scans)
    person = np.repeat([f"p{i:03d}" for i in range(persons)], scans)
    own = np.repeat(rng.normal(size=(persons, 1)), scans, axis=0)
    lasting = 0.6 * rng.normal(size=(len(truth), 2))
    fold = np.repeat(np.arange(persons) // 2 % folds, scans)
    pairs = []
    for _ in range(seeds):
        skill = 2.4 + 2 * luck * rng.normal(size=(1, 2))
        logit = skill * (truth[:, None] - 0.5) + own + lasting + 0.6 * rng.normal(size=(len(truth), 2))
        tables = [table(person, truth, 1 / (1 + np.exp(-column))) for column in logit.T]
        pairs += [tuple(one[fold == k] for one in tables) for k in range(folds)]
    return pairs


LONG = pytest.mark.long
SEEDS_AND_FOLDS = [pytest.param(3, 1, marks=LONG), (1, 5), pytest.param(2, 5, marks=LONG)]


@pytest.mark.parametrize(("seeds", "folds"), SEEDS_AND_FOLDS)
@pytest.mark.parametrize("metric", [pytest.param("balanced_accuracy", marks=LONG), "auroc"])
def test_the_paired_bootstrap_over_seeds_and_folds_rarely_finds_what_is_not_there(runs, metric, seeds, folds):
    measure = Measure(metric, "classification", 399, 0.95, 0)
    found = share(runs[0], lambda rng: paired_difference(equal_trials(rng, seeds, folds), measure)["p"] < 0.05)
    assert found <= runs[1]


@pytest.mark.parametrize(("seeds", "folds"), SEEDS_AND_FOLDS)
def test_delong_over_seeds_and_folds_rarely_finds_what_is_not_there(runs, seeds, folds):
    found = share(runs[0], lambda rng: delong(equal_trials(rng, seeds, folds))["p"] < 0.05)
    assert found <= runs[1]


LUCK = [pytest.param(2, 0.3, marks=LONG), pytest.param(3, 0.1, marks=LONG), (3, 0.3), pytest.param(5, 0.3, marks=LONG)]


@pytest.mark.parametrize(("seeds", "luck"), LUCK)
@pytest.mark.parametrize("metric", ["balanced_accuracy", pytest.param("auroc", marks=LONG)])
def test_the_luck_of_a_training_is_rarely_taken_for_a_difference(runs, metric, seeds, luck):
    measure = Measure(metric, "classification", 399, 0.95, 0)

    def finds(rng):
        pairs = equal_trials(rng, seeds, 1, luck=luck)
        found = [paired_difference(pairs, measure)["p"]] + ([delong(pairs)["p"]] if metric == "auroc" else [])
        return np.array(found) < 0.05

    bound = runs[1] if seeds > 2 else 0.15  # two are too few, which `notes` of the ranking say
    assert (share(runs[0], finds) <= bound).all()


def nearest_mean(features, truth, train):
    """Is each row of features (n, d) nearer to the mean of its own class in the training rows? (n,)"""
    means = np.stack([features[train & (truth == k)].mean(axis=0) for k in (0, 1)])
    distance = ((features[:, None] - means) ** 2).sum(axis=2)
    return (distance.argmin(axis=1) == truth).astype(float)


def over_folds(rng, folds=5, people=100):
    """Differences of accuracy, a fold each, of two learners that see other but equally telling features."""
    truth = rng.permutation(people) % 2
    features = rng.normal(size=(2, people, 3)) + 0.4 * truth[None, :, None]
    fold = rng.permutation(people) % folds
    right = [[nearest_mean(one, truth, fold != k)[fold == k].mean() for k in range(folds)] for one in features]
    return np.subtract(*right)


def test_the_corrected_t_rarely_finds_what_is_not_there(runs):
    def finds(rng):
        found = corrected_t(over_folds(rng), 0.25)
        return found is not None and found["p"] < 0.05

    assert share(runs[0], finds) <= runs[1]


@pytest.mark.parametrize(("datasets", "candidates"), [(3, 3), (5, 4), (14, 6)])
def test_friedman_and_nemenyi_rarely_find_what_is_not_there(runs, datasets, candidates):
    apart = critical_difference(candidates, datasets)

    def finds(rng):
        scores = rng.normal(size=(datasets, candidates)) + rng.normal(size=(datasets, 1))
        ranks = mean_ranks(scores, "max")
        return np.array([friedman(scores)["p"] < 0.05, np.ptp(ranks) > apart])

    assert (share(runs[0], finds) <= runs[1]).all()


@pytest.mark.parametrize("candidates", [2, 10, 50])
def test_the_set_that_cannot_be_told_apart_rarely_lacks_an_equal_candidate(runs, candidates):
    def finds(rng):
        errors = np.abs(rng.normal(size=(100, 1)) + 0.7 * rng.normal(size=(100, candidates)))
        weights = rng.multinomial(100, np.full(100, 0.01), size=399) / 100
        return (model_confidence_set(errors.mean(axis=0), weights @ errors) < 0.05).any()

    assert share(runs[0], finds) <= runs[1]


@pytest.mark.parametrize(("candidates", "luck"), [(2, 0.1), (10, 0.3), pytest.param(50, 0.1, marks=LONG)])
def test_a_lucky_training_rarely_leaves_an_equal_candidate_out_of_the_set(runs, candidates, luck):
    """Three seeds; errors of 100 persons with what is odd in a candidate, in a training and in both."""

    def finds(rng):
        lasting, trained = rng.normal(size=(100, candidates, 1)), rng.normal(0, luck, (1, candidates, 3))
        errors = rng.normal(size=(100, 1, 1)) + 0.5 * lasting + trained + 0.5 * rng.normal(size=(100, candidates, 3))
        weights = rng.multinomial(100, np.full(100, 0.01), size=399) / 100
        values, drawn = errors.mean(axis=0), np.einsum("bp,pkt->bkt", weights, errors)
        noisy = drawn.mean(axis=2) + training_noise(values, drawn, 0)
        return (model_confidence_set(values.mean(axis=1), noisy) < 0.05).any()

    assert share(runs[0], finds) <= runs[1]
