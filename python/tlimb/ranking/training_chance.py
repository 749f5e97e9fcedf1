"""The chance of training anew: how far a mean over trainings would move with other seeds or other training samples.

Resamples of persons take the trained models as they are. Let y_i be the scores (or differences of scores) of T
trainings, y_i* the same on resampled persons. The persons alone explain a part c of the variance between trainings;
what is left is that of training:

    s^2 = 1 / (T - 1) sum_i (y_i - mean y)^2,   c = the same of y_i* - mean* y_i*, averaged over resamples,
    sigma^2 = max(0, s^2 - c)

A difference has the variance V = v + sigma^2 / T with v = var*(mean y*), and f = (T - 1) V / (sigma^2 / T) degrees of
freedom: T - 1 where training has all of the variance, the more the less it has. Resamples move away from the difference
by sqrt(V / v) sqrt(f / chi^2_f), so that their percentiles are those of Student's t with f degrees of freedom and keep
their shape.

Of k candidates trained alike (the same seeds on the same samples) what they have in common is no difference: residuals
of the layout of candidates and trainings take the place of y_i - mean y, with (k - 1)(T - 1) degrees of freedom, and to
the resamples of each mean sqrt(sigma^2 / T) t is added.

Reference: Bouthillier X, et al. Accounting for variance in machine learning benchmarks. MLSys 2021.
"""

from collections.abc import Sequence

import numpy as np

from tlimb.evaluation.bootstrap import is_single
from tlimb.seeds import seed_for


def trainings(keys: Sequence[tuple]) -> list:
    """What each trial is a draw of, by its key (`results.KEY`): its training sample where there are several, else its
    seed. Seeds of one sample are averaged, for they share its people."""
    samples = [key[1:] for key in keys]
    return samples if len(set(samples)) > 1 else [key[0] for key in keys]


def by_training(values: np.ndarray, labels: Sequence) -> np.ndarray:
    """Means of values (..., trials) over the trials of each label, (..., T), in the order of first appearance."""
    return np.stack([values[..., own].mean(axis=-1) for own in places_of(labels)], axis=-1)


def places_of(labels: Sequence) -> list[list[int]]:
    """For each label the places where it stands, in the order of first appearance."""
    return [[place for place, one in enumerate(labels) if one == label] for label in dict.fromkeys(labels)]


def trained_anew(value: float, means: np.ndarray, values: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
    """Resamples (b,) of a difference over persons and trainings, from its resamples over persons alone, `means`.

    value: the difference itself. values: that of each of T trainings, (T,); drawn: the same (b, T) on resampled
    persons. `means` as they are where there is a single training or none of its chance is left. Equal seeds give equal
    draws.
    """
    left = _left(values[None], drawn[:, None])
    if left == 0:
        return means
    persons, own = np.nanvar(means), left / len(values)
    freedom = (len(values) - 1) * (persons + own) / own
    random = np.random.default_rng(seed_for(seed, "training"))
    student = np.sqrt(freedom / random.chisquare(freedom, size=len(means)))
    if is_single(means):
        return means + np.sqrt(own) * student * random.normal(size=len(means))
    return value + (means - value) * np.sqrt((persons + own) / persons) * student


def training_noise(values: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
    """What to add to resampled means (b, k) of k candidates for the chance of training.

    values: scores (k, T) of T trainings; drawn: the same (b, k, T) on resampled persons. Zeros for a single training.
    Equal seeds give equal draws.
    """
    resamples, candidates, count = drawn.shape
    left = _left(values, drawn)
    random, freedom = np.random.default_rng(seed_for(seed, "training")), max(1, _freedom(values.shape))
    normal = random.normal(size=(resamples, candidates))
    shared = np.sqrt(freedom / random.chisquare(freedom, size=(resamples, 1)))
    return np.sqrt(left / count) * normal * shared


def _left(values: np.ndarray, drawn: np.ndarray) -> float:
    """sigma^2 of scores (k, T); 0 where it can't be known, s^2 where most resamples lack some score, so that what
    persons explain of it can't be."""
    if values.shape[1] < 2 or not np.isfinite(values).all() or not np.isfinite(drawn).any():
        return 0.0
    whole = drawn[np.isfinite(drawn).all(axis=(1, 2))]
    if 2 * len(whole) < len(drawn):
        return float(_spread(values))
    return max(0.0, float(_spread(values) - _spread(whole - whole.mean(axis=0)).mean()))


def _spread(values: np.ndarray) -> np.ndarray:
    """The variance between trainings of (..., k, T), freed of what k candidates have in common."""
    left = values - values.mean(axis=-1, keepdims=True)
    if values.shape[-2] > 1:
        left = left - left.mean(axis=-2, keepdims=True)
    return (left**2).sum(axis=(-1, -2)) / _freedom(values.shape[-2:])


def _freedom(shape: tuple[int, int]) -> int:
    candidates, count = shape
    return max(1, candidates - 1) * (count - 1)
