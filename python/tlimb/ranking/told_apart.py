"""Which candidates can't be told apart from the best on validation: the model confidence set.

The best of many is best partly by luck, so comparing it with each other candidate as if it had been named beforehand
finds too many differences, even with Holm's correction (of fifty equal candidates, in 45 % of searches at least one).
The model confidence set asks the other way: as long as "all that are left are equally good" is refused, the worst goes.
For losses L_i of the candidates left, d_i = L_i - mean_j L_j, and their bootstrap values over persons d_i*:

    t_i = d_i / se_i,   se_i^2 = var*(d_i*),   T = max_i t_i,   p = share of max_i (d_i* - mean* d_i*) / se_i >= T

The p of a candidate is the largest of all steps up to the one in which it goes. With the chosen confidence the set
holds the candidate that is best among all people. Where the candidates share at least two trainings (seeds, or training
samples), the bootstrap values also hold what training anew would change (`training_chance`); where they share one, the
trained models are taken as they are.

As it stands in ranking.json: rows of candidates have "told_apart" (true, false; null for the best itself and where not
compared) and "p"; and "indistinguishable", null where nothing finished:

    {"set": "validation", "compared": 24, "confidence": 0.95, "candidates": ["77b1…", …], best first, without the best
     "reason": ""}   why nothing could be compared

Reference: Hansen PR, Lunde A, Nason JM. The model confidence set. Econometrica 2011, 79:453-497, with its T_max.
"""

import numpy as np

from tlimb.evaluation.metrics import DIRECTIONS, WITHOUT_INTERVAL
from tlimb.ranking.compare import Measure, grouped_metrics, interval_of, mean_of_known
from tlimb.ranking.results import Results
from tlimb.ranking.selection import standing
from tlimb.ranking.training_chance import by_training, training_noise, trainings

MOST = 50
"""Candidates with intervals and differences by a bootstrap of their own: the first so many, and the selected."""


def compare_on_validation(results: Results, candidates: list[dict], target: str, measure: Measure) -> dict | None:
    """The key `indistinguishable`; fills "validation_low", "validation_high", "interval", "told_apart" and "p" of rows.

    candidates: rows of ranking.json, best first and selected. The first MOST and the selected get the interval of
    their mean over trials ("joint"); others keep the mean of their trials' own intervals ("trials"), which is rather
    wider. Compared are those of the first MOST that stand like the best: trained as long, as complete.
    """
    finished = [row for row in candidates if row["validation_mean"] is not None]
    near = [row for place, row in enumerate(finished) if place < MOST or row["selected"]]
    if not near:
        return None
    groups = [results.tables(row["trials"], "validation", target) for row in near]
    scores, persons = grouped_metrics([list(group.values()) for group in groups], measure)
    for row, group, (values, drawn) in zip(near, groups, scores):
        ends = interval_of(values.mean(), mean_of_known(drawn.T), persons, list(group.values()), measure)
        row["validation_low"], row["validation_high"] = ends
        row["interval"] = "joint"
    equal = [place for place, row in enumerate(near[:MOST]) if _standing(row) == _standing(near[0])]
    own = [scores[i] for i in equal]
    means = np.array([values.mean() for values, _ in own])
    drawn = np.stack([mean_of_known(drawn.T) for _, drawn in own], axis=1)
    drawn = drawn + _training([list(groups[i]) for i in equal], own, measure.seed)
    return _indistinguishable([near[i] for i in equal], means, drawn, measure)


def _training(keys: list[list[tuple]], scores: list[tuple[np.ndarray, np.ndarray]], seed: int) -> np.ndarray:
    """The chance of training anew (b, k) of k candidates, by the trials that all of them have."""
    common = [key for key in keys[0] if all(key in own for own in keys)]
    if not common:
        return np.zeros((len(scores[0][1]), len(keys)))
    labels, places = trainings(common), [[own.index(key) for key in common] for own in keys]
    values = np.stack([by_training(one[own], labels) for (one, _), own in zip(scores, places)])
    drawn = np.stack([by_training(one[:, own], labels) for (_, one), own in zip(scores, places)], axis=1)
    return training_noise(values, drawn, seed)


def model_confidence_set(losses: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """p (k,) of each of k candidates being as good as the best. losses: (k,); drawn: (b, k), bootstrap values.

    Resamples that gave NaN anywhere are left out. The best has p 1; a candidate whose p is below 1 - confidence is told
    apart from it. One that differs from the others by the same in every resample, as a constant prediction does from a
    faultless one, differs for certain.
    """
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    p, highest = np.ones(len(losses)), 0.0
    left = np.argsort(losses, kind="stable")
    while len(left) > 1:
        d = losses[left] - losses[left].mean()
        e = drawn[:, left] - drawn[:, left].mean(axis=1, keepdims=True)
        e = e - e.mean(axis=0)
        se = np.sqrt((e**2).mean(axis=0))
        steady = se < 1e-12
        se[steady] = np.inf
        differs = np.abs(d) > 1e-9 * max(1.0, float(np.abs(losses).max()))
        t = np.where(steady & differs, np.copysign(np.inf, d), d / se)
        worst = len(t) - 1 - int(np.argmax(t[::-1]))
        reached = ((e / se).max(axis=1) >= t[worst] - 1e-12).sum()
        highest = max(highest, (reached + 1) / (len(drawn) + 1))
        p[left[worst]] = highest
        left = np.delete(left, worst)
    return p


def _indistinguishable(rows: list[dict], values: np.ndarray, drawn: np.ndarray, measure: Measure) -> dict:
    facts = {"set": "validation", "compared": len(rows), "confidence": measure.confidence}
    known = np.isfinite(drawn).all(axis=1).sum()
    if 2 * known < len(drawn) or len(drawn) == 0:
        reason = "most samples of the validation persons give no value that could be compared"
        if measure.metric in WITHOUT_INTERVAL:
            reason = f"samples of the persons do not tell how sure a {measure.metric.replace('_', ' ')} is"
        return facts | {"candidates": [], "reason": reason}
    sign = -1 if DIRECTIONS[measure.metric] == "max" else 1
    for row, p in list(zip(rows, model_confidence_set(sign * values, sign * drawn)))[1:]:
        row["p"], row["told_apart"] = float(p), bool(p < 1 - measure.confidence)
    alike = [row["candidate"] for row in rows[1:] if not row["told_apart"]]
    return facts | {"candidates": alike, "reason": ""}


def _standing(row: dict) -> tuple:
    return standing(row["validation_mean"], row["failed"], row)
