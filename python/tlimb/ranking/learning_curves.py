"""Learning curves: score against the number of training persons, one curve a strategy.

`learning_curves` of ranking.json, null where fewer than two `split.n` were tried:
{"metric", "direction", "sizes": [20, 40, 80], "replicates": 10,
 "interval": {"kind": "samples and persons" | "persons" | "none" (low and high are null), "draws": 1000, or null for
              none, "text": what the intervals speak of, or why there are none},
 "curves": [{"strategy": "full",
   "points": [{"n": 20, "mean", "sd" (over replicates, null for one), "low", "high", "validation", "replicates": 10,
               "chosen": {candidate name: in how many replicates}}],
   "fit": {"status": "power law" | "too few points" | "plateau" | "not monotone" | "no power law" | "no limit", "text",
           "a", "b", "c": {"value", "low", "high"} or null, "p_fall", "p_trend", "p_fit"},
   "next": [{"title", "why", "sweep": a part of a sweep, ready to be merged}]}],
 "crossings": [{"first": "full", "second": "scratch", "first_ahead": "below" | "above" | null, "n", "low", "high",
                "share", "text"}]}   text: where they cross, or who is ahead at every n and how surely
A point without a finished replicate has "mean": null. The fitted curve is a + b n^-c.

Reading test scores here is no selection: in each (strategy, n, replicate) one model is chosen by its own validation
score, and the test score of that one alone is read. The best candidate of the whole search is chosen elsewhere, and
nothing here changes it.

Intervals are of both kinds of chance, other training samples and other test persons. Those of points and of leads are
percentiles over drawn persons, stretched by what the samples differ beyond that (`training_chance`). Where curves
cross, samples and persons are drawn together: Owen AB. The pigeonhole bootstrap. Ann Appl Stat 2007, 1:386-411. All
strategies and sizes meet the same draws, and two curves are compared by the samples that finished in both. There are as
many draws as `evaluate.bootstrap` says, but fewer where there are many models to score: 200,000 draws times models at
most, and never fewer than 200.
"""

import statistics
from collections import Counter
from itertools import combinations

import numpy as np

from tlimb.evaluation.bootstrap import interval, person_bootstrap
from tlimb.evaluation.metrics import DIRECTIONS, WITHOUT_INTERVAL, prediction_arrays, weighted_metric
from tlimb.ranking.answer import WORDS, decimals, number_text, range_text
from tlimb.ranking.compare import Measure, mean_of_known, persons_of
from tlimb.ranking.crossings import crossing
from tlimb.ranking.next_runs import next_runs
from tlimb.ranking.power_law import LEAST_REPLICATES, describe_curve
from tlimb.ranking.results import KEY, Results, key_of
from tlimb.ranking.selection import preference
from tlimb.ranking.training_chance import trained_anew
from tlimb.seeds import seed_for

FEWEST = 5
"""Training samples of a size that an interval needs, if they are not one: percentiles of fewer cover far too little."""

UNIT = tuple(name for name in KEY if name != "seed")
"""What tells training samples apart; seeds of one sample are averaged."""

LEAST_DRAWS = 200
MOST_WORK = 200_000
"""Draws times prediction tables; with many tables fewer draws are made, but not fewer than `LEAST_DRAWS`."""

Place = tuple[str, int, tuple]


def learning_curves(results: Results, candidates: list[dict], target: str, measure: Measure) -> dict | None:
    """The key `learning_curves` of ranking.json; see above. candidates: rows of ranking.json, with their trials."""
    sizes = sorted({_n(row) for row in candidates} - {None})
    if len(sizes) < 2:
        return None
    chosen = choose(candidates, DIRECTIONS[measure.metric])
    strategies, units = sorted({place[0] for place in chosen}), sorted({place[2] for place in chosen}, key=str)
    scores, persons = _scores(results, chosen, strategies, sizes, units, target, measure)
    if 1 < len(units) < FEWEST:
        scores[..., 1:] = np.nan
    curves = [
        {"strategy": name, "points": _points(name, sizes, units, chosen, scores[i], measure, persons)}
        for i, name in enumerate(strategies)
    ]
    for i, curve in enumerate(curves):
        curve["fit"] = _fit(curve, sizes, units, scores[i, :, :, 0], measure)
        rows = [chosen[place][0] for place in chosen if place[:2] == (curve["strategy"], curve["points"][-1]["n"])]
        curve["next"] = next_runs(curve["fit"]["status"], rows[0], sizes, results) if rows else []
    return {
        "metric": measure.metric,
        "direction": DIRECTIONS[measure.metric],
        "sizes": sizes,
        "replicates": len(units),
        "interval": _interval_of(len(units), scores.shape[3] - 1, measure.metric),
        "curves": curves,
        "crossings": _crossings(strategies, sizes, scores, measure, persons),
    }


def _n(row: dict) -> int | None:
    return row["spec"]["split"].get("n")


def _interval_of(units: int, draws: int, metric: str) -> dict:
    """What the intervals are of. units: training samples of each size."""
    if metric in WITHOUT_INTERVAL:
        text = f"samples of the persons do not tell how sure a {WORDS[metric]} is"
        return {"kind": "none", "draws": None, "text": text}
    if 1 < units < FEWEST:
        text = f"{units} training samples of each size do not tell how much another one would change"
        return {"kind": "none", "draws": None, "text": text}
    if units > 1:
        text = f"other training samples and other test persons, drawn {draws} times"
        return {"kind": "samples and persons", "draws": draws, "text": text}
    text = f"other test persons, drawn {draws} times; there is one training sample of each size"
    return {"kind": "persons", "draws": draws, "text": text}


def choose(candidates: list[dict], direction: str) -> dict[Place, tuple[dict, list[dict], float]]:
    """(strategy, n, training sample) -> the candidate with the best validation score there, its finished trials (one a
    seed), and that score. One whose seeds all finished goes before one with a failed seed."""
    best: dict[Place, tuple] = {}
    for row in candidates:
        if _n(row) is None:
            continue
        for unit in sorted({_unit(trial) for trial in row["trials"]}, key=str):
            trials = [trial for trial in row["trials"] if _unit(trial) == unit]
            finished = [trial for trial in trials if trial["status"] == "ok"]
            if not finished:
                continue
            mean = statistics.fmean(trial["validation"] for trial in finished)
            key = preference(mean, len(trials) - len(finished), row, direction)
            place = row["strategy"], _n(row), unit
            if place not in best or key < best[place][0]:
                best[place] = key, row, finished, mean
    return {place: best[place][1:] for place in sorted(best, key=str)}


def _unit(trial: dict) -> tuple:
    return tuple(trial[name] for name in UNIT)


def _scores(results, chosen, strategies: list, sizes: list, units: list, target: str, measure: Measure):
    """Test scores (strategies, sizes, units, 1 + draws) of what was chosen, on all persons, then on drawn ones, NaN
    where there is none, as on drawn ones of a metric whose bootstrap is not sound; and how many persons there are."""
    tables = {place: list(results.tables(found[1], "test", target).values()) for place, found in chosen.items()}
    count = sum(map(len, tables.values()))
    draws = min(measure.resamples, max(LEAST_DRAWS, MOST_WORK // max(count, 1)))
    persons = persons_of(table for group in tables.values() for table in group)
    weights = [np.ones((1, len(persons)))]
    person_bootstrap(lambda w: weights.append(w) or w[:, 0], len(persons), resamples=draws, seed=measure.seed)
    weights = np.concatenate(weights)
    found = np.full((len(strategies), len(sizes), len(units), len(weights)), np.nan)
    for (strategy, n, unit), group in tables.items():
        values = [_values(table, persons, weights, measure) for table in group]
        if values:
            found[strategies.index(strategy), sizes.index(n), units.index(unit)] = np.mean(values, axis=0)
    if measure.metric in WITHOUT_INTERVAL:
        found[..., 1:] = np.nan
    return found, len(persons)


def _values(table, persons: np.ndarray, weights: np.ndarray, measure: Measure) -> np.ndarray:
    codes = np.searchsorted(persons, table["person"].to_numpy(str))
    return weighted_metric(measure.metric, *prediction_arrays(table, measure.kind, measure.metric), weights[:, codes])


def _ends(scores: np.ndarray, measure: Measure, persons: int) -> tuple[float | None, float | None]:
    """The interval of a mean over training samples, none where fewer than FEWEST of several finished. scores: (units,
    1 + draws) of each sample, on all persons, then on drawn ones."""
    known = scores[np.isfinite(scores[:, 0])]
    if len(known) < min(FEWEST, len(scores)):
        return None, None
    means = mean_of_known(known[:, 1:])
    drawn = trained_anew(known[:, 0].mean(), means, known[:, 0], known[:, 1:].T, measure.seed)
    return interval(drawn, measure.confidence, persons)


def _means(scores: np.ndarray, seed: int) -> np.ndarray:
    """Means over training samples (strategies, sizes, 1 + draws): of all, then of drawn samples and drawn persons."""
    units, draws = scores.shape[2], scores.shape[3] - 1
    random = np.random.default_rng(seed_for(seed, "replicates"))
    drawn = random.multinomial(units, np.full(units, 1 / units), size=draws).T
    weights = np.concatenate([np.ones((units, 1)), drawn], axis=1) * np.isfinite(scores)
    total = weights.sum(2)
    summed = (np.nan_to_num(scores) * weights).sum(2)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def _points(
    name: str, sizes: list, units: list, chosen: dict, scores: np.ndarray, measure: Measure, persons: int
) -> list[dict]:
    points = []
    for k, n in enumerate(sizes):
        found = [chosen[name, n, unit] for unit in units if (name, n, unit) in chosen]
        own = scores[k, :, 0][np.isfinite(scores[k, :, 0])]
        low, high = _ends(scores[k], measure, persons) if len(own) else (None, None)
        points.append({
            "n": n, "mean": float(own.mean()) if len(own) else None,
            "sd": float(own.std(ddof=1)) if len(own) > 1 else None, "low": low, "high": high,
            "validation": statistics.fmean(one[2] for one in found) if found else None, "replicates": len(own),
            "chosen": dict(sorted(Counter(one[0]["name"] for one in found).items())),
        })  # fmt: skip
    return points


def _fit(curve: dict, sizes: list, units: list, values: np.ndarray, measure: Measure) -> dict:
    """What the curve is, by the replicates that finished at every size that has any. values: (sizes, units)."""
    kept = [k for k, point in enumerate(curve["points"]) if point["mean"] is not None]
    whole = by_replicate(values[kept], units)
    whole = whole[np.isfinite(whole).all(1)]
    tried = np.array(sizes)[kept]
    return describe_curve(tried, whole, DIRECTIONS[measure.metric], measure.confidence, measure.seed)


def by_replicate(values: np.ndarray, units: list[tuple]) -> np.ndarray:
    """Scores (sizes, units) as (replicates, sizes): folds and repeats of one replicate are averaged, for they share
    people and tell less than as many replicates would; NaN where one of them is."""
    names = [unit[UNIT.index("replicate")] for unit in units]
    own = [[name == one for name in names] for one in dict.fromkeys(names)]
    return np.stack([values[:, columns].mean(1) for columns in own])


def _crossings(strategies: list, sizes: list, scores: np.ndarray, measure: Measure, persons: int) -> list[dict]:
    """Pairs of curves, compared by the training samples that finished in both."""
    sign, rows = (1 if DIRECTIONS[measure.metric] == "max" else -1), []
    for i, j in combinations(range(len(strategies)), 2):
        each = sign * (scores[i] - scores[j])
        difference = _means(each[None], measure.seed)[0]
        kept = np.flatnonzero(np.isfinite(difference[:, 0]))
        if len(kept) < 2:
            continue
        tried = [sizes[k] for k in kept]
        found = crossing(tried, difference[kept, 0], difference[kept, 1:].T, measure.confidence)
        empty = dict.fromkeys(("first_ahead", "n", "low", "high", "share"))
        row = {"first": strategies[i], "second": strategies[j]} | (found or empty)
        ends = [_ends(each[k], measure, persons) for k in kept]
        units = scores.shape[2]
        rows.append(row | {"text": _told(row, tried, difference[kept, 0], ends, measure.confidence, units)})
    return rows


def _told(row: dict, sizes: list, difference: np.ndarray, ends: list[tuple], confidence: float, units: int) -> str:
    """What is said of two curves. difference: (K,) first minus second, larger better; ends: its interval at each n;
    units: samples of each size."""
    one, two = row["first"], row["second"]
    if row["n"] is None:
        if not ((difference > 0).all() or (difference < 0).all()):
            return f"{one} and {two} do not cross"
        if difference[0] < 0:
            one, two, difference = two, one, -difference
            ends = [(None, None) if low is None else (-high, -low) for low, high in ends]
        said = f"{one} is ahead of {two} at every n from {sizes[0]} to {sizes[-1]}"
        if 1 < units < LEAST_REPLICATES:
            return f"{said}; {units} samples of each size are too few to say how surely"
        return f"{said}, {_how_surely(sizes, difference, ends, confidence)}"
    later, earlier = (one, two) if row["first_ahead"] == "above" else (two, one)
    said = f"{later} stays ahead of {earlier} from n = {row['n']:.0f} on"
    if row["share"] is None:
        few = f"{units} samples of each size are too few to say how surely"
        return f"{said}; {few if 1 < units < FEWEST else 'how surely is not known'}"
    if row["low"] is None and row["high"] is None:
        return f"{said}, which other training samples and persons do not settle: it may lie beyond the sizes either way"
    low = f"{row['low']:.0f}" if row["low"] is not None else f"below {sizes[0]}"
    high = f"{row['high']:.0f}" if row["high"] is not None else f"above {sizes[-1]}"
    return f"{said} ({100 * confidence:g} % interval {low} to {high})"


def _how_surely(sizes: list, lead: np.ndarray, ends: list[tuple], confidence: float) -> str:
    """At which n a lead is told from 0 by its interval, and the lead with its interval at each."""
    if any(low is None for low, _ in ends):
        return "how surely is not known"
    apart = [str(n) for n, (low, _) in zip(sizes, ends) if low > 0]
    where = f"at n = {', '.join(apart)} alone" if apart else "at none of these"
    where = "at each of these" if len(apart) == len(sizes) else where
    digits = min(decimals(low, high) for low, high in ends)
    leads = [
        f"{n}: {number_text(value, digits)} ({range_text({'low': low, 'high': high}, '', digits)})"
        for n, value, (low, high) in zip(sizes, lead, ends)
    ]
    return f"told apart {where} (lead with its {100 * confidence:g} % interval at n = {', '.join(leads)})"
