"""What each hyperparameter did to the validation score: marginal means, importances, and every candidate's path."""

import statistics
from itertools import pairwise

import numpy as np

from tlimb.files import canonical_json
from tlimb.ranking.figures import Axis, axis, spread_axis
from tlimb.ranking.names import differing, is_term, path_labels, settings_of, value_text
from tlimb.seeds import seed_for

MOST_VALUES = 8
MOST_LINES = 300
MOST_AXES = 8
LEAST = 12  # candidates before importances are looked for
FOLDS, TREES, SHUFFLES = 5, 100, 10


def marginal_means(candidates: list[dict], trials: list[dict]) -> list[dict]:
    """For each setting that differs: {"name", "values": [{"value", "mean", "scores"}]}, over candidates that have it.

    candidates: rows of ranking.json; trials: lines of trials.jsonl. More than 8 numbers are put into quarters. A mean
    is over candidates' validation means; nothing is held constant: settings that go together share their effect.
    """
    settings, scores = settings_and_scores(candidates, trials)
    return [
        {"name": name, "values": _grouped([(value, scores[candidate]) for candidate, value in column.items()])}
        for name, column in settings.items()
    ]


def settings_and_scores(candidates: list[dict], trials: list[dict]) -> tuple[dict[str, dict], dict[str, float]]:
    """(setting -> candidate -> its value, candidate -> validation mean), of the settings in which candidates differ.

    A candidate for which a setting means nothing stands not under it; of an auxiliary term or an augmentation the
    value is whether it is there.
    """
    first = {trial["candidate"]: trial for trial in reversed(trials)}
    scores = {row["candidate"]: row["validation_mean"] for row in candidates if row["validation_mean"] is not None}
    found = {candidate: settings_of(first[candidate]) for candidate in scores}
    paths = differing(found)
    labels = path_labels(paths, trials[0]["spec"]["stages"][-1]["name"])
    columns = {}
    for path in paths:
        optional = is_term(path)
        columns[labels[path]] = {
            candidate: bool(values.get(path)) if optional else values[path]
            for candidate, values in found.items()
            if optional or path in values
        }
    return columns, scores


def importances(settings: dict[str, dict], scores: dict[str, float], seed: int) -> dict | None:
    """Permutation importances of the settings in a random forest, measured on candidates kept apart from its fit.

    settings, scores: of `settings_and_scores`. Over 5 folds of the candidates a forest is fitted on four; in the fifth
    each setting in turn is shuffled among the candidates, and its importance is by how much the squared error grows,
    over the variance of the scores: I_j = (E[(y - f(x with x_j shuffled))^2] - E[(y - f(x))^2]) / Var(y) (L. Breiman,
    Random Forests, Machine Learning 45, 2001). Returns {"settings": [{"name", "importance"}], the largest first,
    "explained": R^2 on the candidates kept apart, "candidates": n}; None for fewer than 12 candidates or 2 settings.
    """
    if len(scores) < LEAST or len(settings) < 2 or len(set(scores.values())) < 2:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    order = sorted(scores)
    x = np.column_stack([_coded(column, order) for column in settings.values()])
    y = np.array([scores[candidate] for candidate in order])
    start = seed_for(seed, "importances") % 2**32
    rng, grown, error = np.random.default_rng(start), np.zeros(len(settings)), 0.0
    for fitted, apart in KFold(FOLDS, shuffle=True, random_state=start).split(x):
        forest = RandomForestRegressor(TREES, random_state=start, min_samples_leaf=2).fit(x[fitted], y[fitted])
        told, shuffled = _foretold(forest, x[apart], rng)
        own = np.sum((told - y[apart]) ** 2)
        error += own
        grown += ((shuffled - y[apart]) ** 2).sum(axis=2).mean(axis=1) - own
    total = len(y) * y.var()
    rows = [{"name": name, "importance": float(value / total)} for name, value in zip(settings, grown, strict=True)]
    rows.sort(key=lambda row: (-row["importance"], row["name"]))
    return {"settings": rows, "explained": float(1 - error / total), "candidates": len(y)}


def _foretold(forest, x: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """What a forest says of x (n, p), (n,), and with each column in turn shuffled, (p, SHUFFLES, n), in one pass."""
    copies = np.tile(x, (x.shape[1], SHUFFLES, 1, 1))
    for column in range(x.shape[1]):
        for number in range(SHUFFLES):
            copies[column, number, :, column] = rng.permutation(x[:, column])
    told = forest.predict(np.concatenate([x, copies.reshape(-1, x.shape[1])]))
    return told[: len(x)], told[len(x) :].reshape(x.shape[1], SHUFFLES, len(x))


def _coded(column: dict[str, object], order: list[str]) -> np.ndarray:
    """A setting as numbers: a number itself, anything else its place among the sorted values, NaN where it is not."""
    if _numeric(column.values()):
        return np.array([column.get(candidate, np.nan) for candidate in order], float)
    places = {text: place for place, text in enumerate(sorted({canonical_json(value) for value in column.values()}))}
    return np.array([places[canonical_json(column[c])] if c in column else np.nan for c in order], float)


def parallel(settings: dict[str, dict], candidates: list[dict], first: list[str]) -> dict | None:
    """Every candidate as a line over the settings to its score: parallel coordinates, in percent of the figure.

    first: names of the settings that matter most; 8 are shown. Returns {"axes": [{"name", "at", "ticks": [(place,
    text, index)]}], "lines": [{"candidate", "name", "score", "shade": 0 to 4, "points", "values"}], "left_out"}, the
    best line last so that it lies on top; None where fewer than 2 candidates or settings are there. An index numbers
    the values of a setting with few of them; `values` are a line's indices.
    """
    rows = [row for row in candidates if row["validation_mean"] is not None]
    names = sorted(settings, key=lambda name: first.index(name) if name in first else len(first))[:MOST_AXES]
    if len(rows) < 2 or len(names) < 2:
        return None
    scale = axis([row["validation_mean"] for row in rows[:MOST_LINES]])
    scales = [_setting_axis(settings[name]) for name in names]
    axes = [
        {"name": name, "at": round(100 * place / len(names), 3), "ticks": ticks}
        for place, (name, (ticks, _)) in enumerate(zip(names, scales, strict=True))
    ]
    axes.append({"name": "", "at": 100, "ticks": [(at, text, None) for at, text in scale.ticks]})
    lines = [_line(row, names, settings, scales, axes, scale) for row in rows[:MOST_LINES]]
    for place, line in enumerate(lines):
        line["shade"] = 4 - min(4, 5 * place // len(lines))
    return {"axes": axes, "lines": lines[::-1], "left_out": max(0, len(rows) - MOST_LINES)}


def _line(row: dict, names: list[str], settings: dict, scales: list[tuple], axes: list[dict], scale: Axis) -> dict:
    absent, places = (0.0, None), []
    for name, (_, place) in zip(names, scales, strict=True):
        known = row["candidate"] in settings[name]
        places.append(place(settings[name][row["candidate"]]) if known else absent)
    heights = [height for height, _ in places] + [scale.place(row["validation_mean"])]
    points = " ".join(f"{one['at']:g},{100 - height:.4g}" for one, height in zip(axes, heights, strict=True))
    facts = {"candidate": row["candidate"], "name": row["name"], "score": row["validation_mean"]}
    return facts | {"points": points, "values": [index for _, index in places]}


def _setting_axis(column: dict[str, object]):
    """(ticks, value -> (height in percent, index)) of a setting; heights are above 0, where those are that lack it."""
    values = list(column.values())
    if _many_numbers(values):
        scale = spread_axis(sorted(set(values)), count=4)
        ticks = [(round(4 + 0.92 * at, 3), text, None) for at, text in scale.ticks]
        return ticks, lambda value: (4 + 0.92 * scale.place(value), None)
    texts = _texts(values)
    height = {text: round(100 * (index + 0.5) / len(texts), 3) for index, text in enumerate(texts)}
    ticks = [(at, text, index) for index, (text, at) in enumerate(height.items())]
    return ticks, lambda value: (height[value_text(value)], texts.index(value_text(value)))


def _numeric(values) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _many_numbers(values: list) -> bool:
    return _numeric(values) and len(set(values)) > MOST_VALUES


def _texts(values: list) -> list[str]:
    """Every value once, for reading: numbers by their size, lists and anything else by their text."""
    texts = map(value_text, sorted(values)) if _numeric(values) else sorted(map(value_text, values))
    return list(dict.fromkeys(texts))


def _grouped(pairs: list[tuple]) -> list[dict]:
    values = [value for value, _ in pairs]
    if _many_numbers(values):
        edges = np.quantile(values, [0.25, 0.5, 0.75])
        bounds = [min(values), *edges, max(values)]
        texts = [f"{value_text(float(a))} to {value_text(float(b))}" for a, b in pairwise(bounds)]
        keyed = [(int(np.searchsorted(edges, value)), score) for value, score in pairs]
    else:
        texts = _texts(values)
        keyed = [(texts.index(value_text(value)), score) for value, score in pairs]
    groups = [(text, [score for key, score in keyed if key == index]) for index, text in enumerate(texts)]
    return [{"value": text, "mean": statistics.fmean(of), "scores": of} for text, of in groups if of]
