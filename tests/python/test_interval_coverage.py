"""How often 95 % intervals hold the truth, in simulated test sets of which the truth is known."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from tlimb.evaluation.bootstrap import person_bootstrap
from tlimb.evaluation.metrics import METRICS, WITHOUT_INTERVAL, metric_interval, weighted_metric

PERSONS = 120


def people(rng, persons: int) -> np.ndarray:
    """The person of each scan: every second has two."""
    return np.repeat(np.arange(persons), 1 + (np.arange(persons) % 2))


def quantities(rng, persons: int) -> tuple:
    """Persons, ages, predictions that lean towards the mean with errors that a person's scans share in part."""
    person = people(rng, persons)
    age, own = rng.normal(50, 15, persons)[person], rng.normal(0, 5, persons)[person]
    return person, age, 20 + 0.6 * age + own + rng.normal(0, 4, len(person)), None


def classes(rng, persons: int) -> tuple:
    """Persons, cases (40 %), calls and probabilities that are not quite calibrated."""
    person = people(rng, persons)
    case, own = (rng.random(persons) < 0.4)[person].astype(int), rng.normal(0, 0.7, persons)[person]
    seen = 1.2 * (case - 0.4) + own + rng.normal(0, 0.7, len(person))
    share = 1 / (1 + np.exp(-1.5 * seen))
    return person, case, (share > 0.5).astype(int), np.stack([1 - share, share], axis=1)


def ordered(rng, persons: int) -> tuple:
    """Persons, one of three ordered classes, and one that is seen through noise."""
    person = people(rng, persons)
    grade = rng.normal(size=persons)[person]
    truth, said = (np.digitize(of, [-0.5, 0.7]) for of in (grade, grade + rng.normal(0, 0.8, len(person))))
    return person, truth, said, 0.1 + 0.7 * np.eye(3)[said]


def times(rng, persons: int) -> tuple:
    """Persons, times until an event (negative where it was not seen) and risks."""
    person = people(rng, persons)
    hazard = rng.normal(size=persons)
    event, end = rng.exponential(1, persons) * np.exp(-hazard), rng.exponential(2, persons)
    time = np.where(event <= end, event, -end)[person]
    return person, time, hazard[person] + rng.normal(size=len(person)), None


def several(rng, persons: int) -> tuple:
    """Persons, which of three classes each has at once, as bits, calls and a probability for each."""
    person = people(rng, persons)
    has = (rng.normal(size=(persons, 3)) + 0.5 * rng.normal(size=(persons, 1)) > [0.6, 0.0, -0.3])[person]
    own = rng.normal(0, 0.7, (persons, 3))[person]
    share = 1 / (1 + np.exp(-1.5 * (1.4 * (has - 0.5) + own + rng.normal(0, 0.7, has.shape))))
    bits = 2 ** np.arange(3)
    return person, has @ bits, (share > 0.5) @ bits, share


WORLDS = {
    "regression": quantities,
    "classification": classes,
    "ordinal": ordered,
    "survival": times,
    "multilabel": several,
}
WHOLE = {"survival": 6_000}
"""Persons of whom the true value is computed, where pairs would be too many of 200,000."""


def table(person, truth, prediction, shares) -> pd.DataFrame:
    """What intervals look at of a prediction table."""
    probabilities = [None] * len(truth) if shares is None else list(shares)
    return pd.DataFrame({"person": person.astype(str), "truth": truth, "probabilities": probabilities})


def covered(kind: str, runs: int, resamples: int, seed: int = 0) -> dict[str, float]:
    """Metric -> the share of `runs` test sets whose interval holds the value of a very large one."""
    rng, names = np.random.default_rng([seed, 1]), [name for name in METRICS[kind] if name not in WITHOUT_INTERVAL]
    truth = dict.fromkeys(names, 0.0)
    repeats = 8 if kind in WHOLE else 1
    for _ in range(repeats):
        person, *columns = WORLDS[kind](rng, WHOLE.get(kind, 200_000))
        once = np.ones((1, len(person)))
        truth = {name: truth[name] + weighted_metric(name, *columns, once)[0] / repeats for name in names}
    hits = dict.fromkeys(names, 0)
    for run in range(runs):
        person, *columns = WORLDS[kind](rng, PERSONS)
        drawn = person_bootstrap(
            lambda weights: np.stack([weighted_metric(name, *columns, weights[:, person]) for name in names], axis=1),
            PERSONS,
            resamples=resamples,
            seed=run,
        )
        for name, draws in zip(names, drawn.T, strict=True):
            value = weighted_metric(name, *columns, np.ones((1, len(person))))[0]
            low, high = metric_interval(name, value, draws, 0.95, PERSONS, [table(person, *columns)])
            hits[name] += low <= truth[name] <= high
    return {name: count / runs for name, count in hits.items()}


@pytest.mark.parametrize("kind", [kind for kind in WORLDS if kind != "survival"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(kind):
    for name, share in covered(kind, runs=120, resamples=200).items():
        assert 0.88 <= share <= 0.99, name


@pytest.mark.long
@pytest.mark.parametrize("kind", list(WORLDS))
def test_intervals_cover_the_truth_in_93_to_97_of_100_test_sets(kind):
    found = covered(kind, runs=2000 if kind != "survival" else 1000, resamples=1000)
    print(kind, found)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def true_precision_area(share: float, area: float) -> float:
    """The area under the precision-recall curve of normal scores, `share` of them of cases, by quadrature."""
    normal, grid = NormalDist(), np.linspace(-8, 12, 20_001)
    apart = np.sqrt(2) * normal.inv_cdf(area)
    found, called = (np.array([1 - normal.cdf(x - shift) for x in grid]) for shift in (apart, 0.0))
    precision = share * found / np.maximum(share * found + (1 - share) * called, 1e-300)
    return float(-np.trapezoid(precision, found))


def precision_areas_covered(persons: int, share: float, area: float, runs: int, resamples: int, seed: int) -> float:
    """How often the interval of AUPRC holds its true value, of test sets with a case that have an interval.

    Every second person has two scans, half of whose variance they share. share: of cases; area: under the ROC curve.
    """
    truth, apart = true_precision_area(share, area), np.sqrt(2) * NormalDist().inv_cdf(area)
    rng, hits, known = np.random.default_rng([seed, persons, int(100 * share), int(100 * area)]), 0, 0
    for run in range(runs):
        person = people(rng, persons)
        case = (rng.random(persons) < share)[person].astype(float)
        own, noise = rng.normal(0, np.sqrt(0.5), persons)[person], rng.normal(0, np.sqrt(0.5), len(person))
        high = 1 / (1 + np.exp(-(apart * case + own + noise)))
        columns = case, case, np.stack([1 - high, high], axis=1)
        if not case.any():
            continue
        draws = person_bootstrap(
            lambda weights: weighted_metric("auprc", *columns, weights[:, person]),
            persons,
            resamples=resamples,
            seed=run,
        )
        value = weighted_metric("auprc", *columns, np.ones((1, len(person))))[0]
        low, high = metric_interval("auprc", value, draws, 0.95, persons, [table(person, *columns)])
        known += low is not None
        hits += low is not None and low <= truth <= high
    return hits / known


def test_the_true_area_of_the_simulation_is_that_of_a_very_large_sample():
    rng = np.random.default_rng(0)
    case = (rng.random(200_000) < 0.3).astype(float)
    high = 1 / (1 + np.exp(-(np.sqrt(2) * NormalDist().inv_cdf(0.8) * case + rng.normal(size=len(case)))))
    columns = case, case, np.stack([1 - high, high], axis=1)
    found = weighted_metric("auprc", *columns, np.ones((1, len(case))))[0]
    assert found == pytest.approx(true_precision_area(0.3, 0.8), abs=0.006)


def test_the_interval_of_auprc_covers_the_truth_of_a_good_model_about_as_often_as_it_says():
    assert 0.9 <= precision_areas_covered(60, 0.5, 0.95, runs=200, resamples=300, seed=5) <= 0.99


@pytest.mark.long
@pytest.mark.parametrize(("share", "area"), list(product((0.1, 0.3, 0.5), (0.6, 0.8, 0.95))))
@pytest.mark.parametrize("persons", [60, 120, 400])
def test_the_interval_of_auprc_covers_the_truth_with_few_cases_and_good_models(persons, share, area):
    found = precision_areas_covered(persons, share, area, runs=2000 if persons < 400 else 1000, resamples=600, seed=2)
    print(persons, share, area, found)
    assert 0.925 <= found <= (0.985 if persons * share < 10 else 0.975)
