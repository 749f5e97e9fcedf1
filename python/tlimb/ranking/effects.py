"""What each hyperparameter did to the validation score: simple marginal means over candidates."""

import statistics
from itertools import pairwise

import numpy as np

from tlimb.ranking.names import differing, path_labels, settings_of, value_text

MOST_VALUES = 8


def marginal_means(candidates: list[dict], trials: list[dict]) -> list[dict]:
    """For each setting that differs: {"name", "values": [{"value", "mean", "scores"}]}, over candidates that have it.

    candidates: rows of ranking.json; trials: lines of trials.jsonl. More than 8 numbers are put into quarters. A mean
    is over candidates' validation means; nothing is held constant: settings that go together share their effect.
    """
    first = {trial["candidate"]: trial for trial in reversed(trials)}
    scores = {row["candidate"]: row["validation_mean"] for row in candidates if row["validation_mean"] is not None}
    settings = {candidate: settings_of(first[candidate]) for candidate in scores}
    paths = differing(settings)
    labels = path_labels(paths, trials[0]["spec"]["stages"][-1]["name"])
    effects = []
    for path in paths:
        optional = len(path) > 1 and path[-2] == "auxiliary"
        pairs = [
            (bool(found.get(path)) if optional else found[path], scores[candidate])
            for candidate, found in settings.items()
            if optional or path in found
        ]
        effects.append({"name": labels[path], "values": _grouped(pairs)})
    return effects


def _grouped(pairs: list[tuple]) -> list[dict]:
    values = [value for value, _ in pairs]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numeric and len(set(values)) > MOST_VALUES:
        edges = np.quantile(values, [0.25, 0.5, 0.75])
        bounds = [min(values), *edges, max(values)]
        texts = [f"{value_text(float(a))} to {value_text(float(b))}" for a, b in pairwise(bounds)]
        keyed = [(int(np.searchsorted(edges, value)), score) for value, score in pairs]
    else:
        ordered = sorted(set(values)) if numeric else sorted({value_text(value) for value in values})
        texts = [value_text(value) for value in ordered]
        keyed = [(texts.index(value_text(value)), score) for value, score in pairs]
    groups = [(text, [score for key, score in keyed if key == index]) for index, text in enumerate(texts)]
    return [{"value": text, "mean": statistics.fmean(of), "scores": of} for text, of in groups if of]
