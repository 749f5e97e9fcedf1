"""The chance of training anew: how far a mean over trainings would move with other seeds or other training samples.

Resamples of persons take the trained models as they are. Let y_i be the scores (or differences of scores) of T
trainings, y_i* the same on resampled persons. The persons alone explain a part c of the variance between trainings;
what is left is that of training:

    s^2 = 1 / (T - 1) sum_i (y_i - mean y)^2,   c = the same of y_i* - mean* y_i*, averaged over resamples,
    sigma^2 = max(0, s^2 - c)

A difference has the variance V = v + sigma^2 / T with v = var*(mean y*), and Satterthwaite's degrees of freedom
f = (T - 1) V^2 / (s^2 / T)^2. Its resamples move away from the difference by sqrt(V / v) sqrt(f / chi^2_f), so that
their percentiles are those of Student's t with f degrees of freedom and keep their shape.

Of k candidates trained alike (the same seeds on the same samples) what they have in common is no difference: residuals
of the layout of candidates and trainings take the place of y_i - mean y, with (k - 1)(T - 1) degrees of freedom, and to
the resamples of each mean sqrt(sigma^2 / T) t is added.

References: Bouthillier X, et al. Accounting for variance in machine learning benchmarks. MLSys 2021.
Satterthwaite FE. An approximate distribution of estimates of variance components. Biometrics Bulletin 1946, 2:110-114.
"""

from collections.abc import Sequence

import numpy as np

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


def trained_anew(means: np.ndarray, values: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
    """Resamples (b,) of a mean difference over persons, as resamples over persons and trainings.

    values: the differences (T,) of T trainings, of which `means` are the mean; drawn: the same (b, T) on resampled
    persons. As they are where there is a single training or none of its chance is left. Equal seeds give equal draws.
    """
    left, spread = _left(values[None], drawn[:, None])
    if left == 0:
        return means
    persons, count = np.nanvar(means), len(values)
    if persons == 0:
        return means
    total = persons + left / count
    freedom = (count - 1) * total**2 / (spread / count) ** 2
    random = np.random.default_rng(seed_for(seed, "training"))
    scale = np.sqrt(total / persons * freedom / random.chisquare(freedom, size=len(means)))
    return values.mean() + (means - values.mean()) * scale


def training_noise(values: np.ndarray, drawn: np.ndarray, seed: int) -> np.ndarray:
    """What to add to resampled means (b, k) of k candidates for the chance of training.

    values: scores (k, T) of T trainings; drawn: the same (b, k, T) on resampled persons. Zeros for a single training,
    and where no resample has all scores. Equal seeds give equal draws.
    """
    resamples, candidates, count = drawn.shape
    left, _ = _left(values, drawn)
    random, freedom = np.random.default_rng(seed_for(seed, "training")), max(1, _freedom(values.shape))
    normal = random.normal(size=(resamples, candidates))
    shared = np.sqrt(freedom / random.chisquare(freedom, size=(resamples, 1)))
    return np.sqrt(left / count) * normal * shared


def _left(values: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """sigma^2 and s^2 of scores (k, T); zeros where they can't be known."""
    whole = drawn[np.isfinite(drawn).all(axis=(1, 2))]
    if values.shape[1] < 2 or not len(whole) or not np.isfinite(values).all():
        return 0.0, 0.0
    spread = float(_spread(values))
    return max(0.0, spread - float(_spread(whole - whole.mean(axis=0)).mean())), spread


def _spread(values: np.ndarray) -> np.ndarray:
    """The variance between trainings of (..., k, T), freed of what k candidates have in common."""
    left = values - values.mean(axis=-1, keepdims=True)
    if values.shape[-2] > 1:
        left = left - left.mean(axis=-2, keepdims=True)
    return (left**2).sum(axis=(-1, -2)) / _freedom(values.shape[-2:])


def _freedom(shape: tuple[int, int]) -> int:
    candidates, count = shape
    return max(1, candidates - 1) * (count - 1)
