"""Learning curves, and what was known of encoders before anything was fine-tuned."""

import json

import numpy as np

from tlimb.ranking.figures import Series, log_axis, plot
from tlimb.ranking.power_law import EXPONENTS
from tlimb.ranking.rank import Ranking

STEPS = 40
SCORES = {
    "logme": "LogME",
    "nleep": "NLEEP",
    "leep": "LEEP",
    "h_score_shrunk": "H-score, shrunk",
    "h_score": "H-score",
    "knn": "k nearest neighbours",
    "linear": "Linear probe",
}


def learning_curves(ranking: Ranking, word: str) -> dict | None:
    """ranking.json's `learning_curves` with a figure, its rows with every point, and sweeps as text."""
    found = ranking.learning_curves
    if not found:
        return None
    series, rows = [], []
    for place, curve in enumerate(found["curves"]):
        known = [point for point in curve["points"] if point["mean"] is not None]
        kind, name = f"c{place % 6}", curve["strategy"]
        columns = {key: [point[key] for point in known] for key in ("n", "mean", "low", "high")}
        fitted = fitted_curve(curve["fit"], found["sizes"])
        more = {"low": columns["low"], "high": columns["high"], "line": fitted is None}
        beside = [n * 1.03 ** (place - len(found["curves"]) // 2) for n in columns["n"]]
        series.append(Series(name, beside, columns["mean"], kind, **more))
        if fitted:
            series.append(Series(f"{name}, power law", *fitted, kind, line=True, dots=False, dashed=True))
        rows += [point | {"strategy": name, "often": _often(point["chosen"])} for point in known]
    ends = [point for point in rows if point["n"] == found["sizes"][-1]]
    at_end = ", ".join(f"{point['strategy']} {point['mean']:.3f}" for point in ends)
    label = f"{word} on test against training persons; with {found['sizes'][-1]}: {at_end}."
    titles = ("training persons", f"{word} on test")
    figure = plot("learning", series, titles=titles, label=label, x=log_axis(found["sizes"]))
    return found | {"figure": figure, "rows": rows, "curves": [_told(curve) for curve in found["curves"]]}


def _told(curve: dict) -> dict:
    """A curve with what is said of it, and the sweeps that would tell more as text."""
    runs = [run | {"text": json.dumps(run["sweep"], indent=2, ensure_ascii=False)} for run in curve["next"]]
    return curve | {"said": curve["fit"]["text"] or _law(curve["fit"]), "next": runs}


def fitted_curve(fit: dict, sizes: list[int]) -> tuple[list, list] | None:
    """(n, a + b n^-c) of an accepted power law between the least and the largest size, None where there is none."""
    if fit["status"] != "power law":
        return None
    n = np.geomspace(sizes[0], sizes[-1], STEPS)
    a, b, c = (fit[name]["value"] for name in "abc")
    return n.tolist(), (a + b * n**-c).tolist()


def _law(fit: dict) -> str:
    """An accepted power law in words, with the intervals of its parameters."""
    if fit["status"] != "power law":
        return fit["status"]
    parts = [f"{name} = {fit[name]['value']:.3g} ({fit[name]['low']:.3g} to {fit[name]['high']:.3g})" for name in "abc"]
    said = f"a power law a + b n^-c fits, {', '.join(parts)}"
    low, high = fit["c"]["low"], fit["c"]["high"]
    open_ended = low <= 1.01 * EXPONENTS[0] and high >= 0.99 * EXPONENTS[1]
    return f"{said}: any exponent would do, so it says nothing beyond these n" if open_ended else said


def _often(chosen: dict[str, int]) -> str:
    """The models that were chosen at a point, the most frequent first."""
    ordered = sorted(chosen.items(), key=lambda pair: (-pair[1], pair[0]))
    return "; ".join(f"{name} ({count}×)" if len(chosen) > 1 else name for name, count in ordered)


def transferability(ranking: Ranking) -> dict | None:
    """ranking.json's `transferability` with names of scores and the strategies that were fine-tuned; `agreement` is
    empty where no row of it says anything, and `silent` then says why."""
    found = ranking.transferability
    if not found:
        return None
    strategies = sorted({name for row in found["encoders"] for name in row["fine_tuned"]})
    agreement = [row | {"score_name": SCORES.get(row["score"], row["score"])} for row in found["agreement"]]
    names = {name: SCORES.get(name, name) for name in found["scores"]}
    silent = ""
    if agreement and all(row["text"] for row in agreement):
        silent, agreement = max(agreement, key=lambda row: row["n"])["text"], []
    return found | {"score_names": names, "strategies": strategies, "agreement": agreement, "silent": silent}
