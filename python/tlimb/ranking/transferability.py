"""What was known of encoders before anything was fine-tuned, and how well it told what came out.

`transferability` of ranking.json, null where no encoder was probed:
{"target", "kind", "scores": ["logme", ...] (those that any encoder has), "harmonise": column or null,
 "encoders": [{"id", "name", "weights": path of published ones or null, "random": bool, "status", "reason",
   "splits": 1, "seconds", "features": width,
   "scores": {"logme": 0.1 or null, ...}, "probe": {metric: validation value of a linear probe},
   "harmonised": null or {"validation": {metric: value}, "site": {"before", "after", "chance"}, "reason"},
   "fine_tuned": {"full": {"mean": validation score, "trials": 4, "candidate": id, "of": 6}, "frozen": ...}}],
 "agreement": [{"score": "logme", "strategy": "full", "n": 6, "tau", "tau_low", "tau_high", "tau_p", "rho", "rho_low",
                "rho_high", "rho_p", "text"}],
 "notes": [text]}
Scores are larger where transfer is expected to be better. Where an encoder was probed for several splits, means over
them stand. `fine_tuned` is of the best candidate by validation among the `of` that start from the encoder by a strategy
and are fully trained: the mean over its `trials` from that encoder, in the metric of the ranking; a strategy of which
nothing is fully trained is absent. Agreement is 1 where a score orders encoders as these means do; encoders of random
weights have no part in it. Each probability is of one score and strategy: none is corrected for how many stand there.
Nothing here reads a test score.
"""

import math
import statistics
from collections import Counter

import numpy as np

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.files import read_json
from tlimb.ranking.compare import Measure
from tlimb.ranking.names import encoder_names, strategy_of
from tlimb.ranking.results import Results
from tlimb.registry import class_name
from tlimb.scores import value_of
from tlimb.search.starts import encoder_of, published_start

SCORES = ("logme", "nleep", "leep", "h_score_shrunk", "h_score", "knn", "linear")
LEAST = 4
"""Encoders below which an order of them says nothing."""

EXACT = 7
"""Encoders up to which all orders are counted for the probability of Spearman's correlation."""


def transferability(results: Results, selected: list[dict], target: str, measure: Measure) -> dict | None:
    """The key `transferability` of ranking.json; see above. selected: not looked at; validation scores alone count."""
    probes = _probes(results, target)
    if not probes:
        return None
    reached = fine_tuned(results, target, measure)
    names = encoder_names(results.pretrainings) | published_names(results.trials)
    encoders = [_row(identity, kind, rows, reached, names) for (identity, kind), rows in _by_encoder(probes).items()]
    encoders.sort(key=lambda row: (not row["random"], row["name"], row["id"]))
    known = [name for name in SCORES if any(row["scores"].get(name) is not None for row in encoders)]
    trained = [row for row in encoders if not row["random"]]
    strategies = sorted({name for row in trained for name in row["fine_tuned"]})
    agreement = [
        agreement_of(trained, score, strategy, DIRECTIONS[measure.metric], measure.confidence)
        for strategy in strategies
        for score in known
    ]
    notes = [probe["note"] for probe in probes if probe["note"]]
    probed = [encoder for probe in probes for encoder in probe["encoders"]]
    notes += [note for encoder in probed for split in encoder["splits"] for note in split["notes"]]
    return {
        "target": target,
        "kind": measure.kind,
        "scores": known,
        "harmonise": probes[0]["harmonise"],
        "encoders": encoders,
        "agreement": agreement,
        "notes": list(dict.fromkeys(notes)),
    }


def _probes(results: Results, target: str) -> list[dict]:
    if results.probes is None:
        return []
    found = [read_json(path) for path in sorted(results.probes.glob("*/probe.json"))]
    return [probe for probe in found if probe.get("target") == target]


def _by_encoder(probes: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """(id, architecture of a random one) -> what every probe says of the encoder."""
    found: dict[tuple[str, str], list[dict]] = {}
    for probe in probes:
        for encoder in probe["encoders"]:
            kind = f"{encoder['architecture']}, {encoder['features']}" if encoder["id"] == "random" else ""
            found.setdefault((encoder["id"], kind), []).append(encoder)
    return found


def _row(identity: str, kind: str, rows: list[dict], reached: dict, names: dict) -> dict:
    splits = [split for row in rows for split in row["splits"]]
    name = f"random weights ({rows[0]['architecture']})" if kind else names.get(identity, identity)
    harmonised = [split["harmonised"] for split in splits if split["harmonised"]]
    return {
        "id": identity,
        "name": name,
        "weights": rows[0].get("weights"),
        "random": bool(kind),
        "status": rows[0]["status"],
        "reason": rows[0]["reason"],
        "splits": len(splits),
        "seconds": sum(row["seconds"] for row in rows),
        "features": rows[0]["features"],
        "scores": _mean([split["scores"] for split in splits]),
        "probe": _mean([split["probe"]["validation"] for split in splits if split["probe"]]),
        "harmonised": {
            "validation": _mean([one["validation"] for one in harmonised if one["validation"]]),
            "site": _mean([one["site"] for one in harmonised if one["site"]]),
            "reason": next((one["reason"] for one in harmonised if one["reason"]), ""),
        }
        if harmonised
        else None,
        "fine_tuned": {} if kind else reached.get(identity, {}),
    }


def published_names(trials: list[dict]) -> dict[str, str]:
    """Id -> a name for each encoder from published weights that trials start from: the file, network, part of it."""
    found = [published_start(trial["spec"]) for trial in trials if not trial["init"]]
    names = {}
    for start in filter(None, found):
        words = [class_name(start["architecture"]), start["weights"]["part"]]
        names[start["id"]] = f"{start['weights']['path']} ({', '.join(filter(None, words))})"
    counts = Counter(names.values())
    return {identity: name if counts[name] == 1 else f"{name} ({identity[:6]})" for identity, name in names.items()}


def _mean(parts: list[dict]) -> dict[str, float | None]:
    """Key -> the mean of what is known of it; null where a part knows nothing."""
    values = {name: [part.get(name) for part in parts] for name in dict.fromkeys(key for part in parts for key in part)}
    return {name: None if None in found else statistics.fmean(found) for name, found in values.items()}


def fine_tuned(results: Results, target: str, measure: Measure) -> dict[str, dict[str, dict]]:
    """Encoder id -> strategy -> {"mean", "trials", "candidate", "of"} of the best fully trained candidate.

    Of the candidates that start from the encoder the best is that with the best mean validation score over its finished
    trials from it, one without failed trials going before others; ties go to the lower id.
    """
    found: dict[str, dict[str, dict[str, list[dict]]]] = {}
    for trial in results.trials:
        encoder = encoder_of(trial)
        if encoder and trial["budget"] >= trial["spec"]["stages"][-1]["epochs"]:
            own = found.setdefault(encoder, {}).setdefault(strategy_of(trial), {})
            own.setdefault(trial["candidate"], []).append(trial)
    reached = {}
    for encoder, strategies in found.items():
        best = {name: _best(results, strategies[name], target, measure) for name in sorted(strategies)}
        reached[encoder] = {name: one for name, one in best.items() if one}
    return reached


def _best(results: Results, candidates: dict[str, list[dict]], target: str, measure: Measure) -> dict | None:
    """What `fine_tuned` says of these candidates (id -> trials); None where nothing finished."""
    sign, rows = -1 if DIRECTIONS[measure.metric] == "max" else 1, []
    for candidate, trials in candidates.items():
        values = [_validation(results, trial["id"], target, measure) for trial in trials]
        known = [value for value in values if value is not None]
        if known:
            mean = statistics.fmean(known)
            facts = {"mean": mean, "trials": len(known), "candidate": candidate}
            rows.append(((len(known) < len(trials), round(sign * mean, 12), candidate), facts))
    return min(rows, key=lambda row: row[0])[1] | {"of": len(rows)} if rows else None


def _validation(results: Results, trial: str, target: str, measure: Measure) -> float | None:
    model = results.models.get(trial)
    if model is None or model["status"] != "ok":
        return None
    return value_of(results.scores(trial, "validation"), target, measure.metric)


def agreement_of(encoders: list[dict], score: str, strategy: str, direction: str, confidence: float = 0.95) -> dict:
    r"""How well a score orders encoders as fine-tuning by a strategy does: Kendall's tau-b and Spearman's rho.

    Intervals are by the z transform, z = atanh(r), with variance 0.437 / (n - 4) for tau and 1.06 / (n - 3) for rho:
    Fieller EC, Hartley HO, Pearson ES. Tests for rank correlation coefficients I. Biometrika 1957, 44:470-481. They
    need more than 4 encoders and a correlation that is not perfect. Probabilities are two-sided.
    """
    reached = [row for row in encoders if strategy in row["fine_tuned"]]
    pairs = [(row["scores"].get(score), row["fine_tuned"][strategy]["mean"]) for row in reached]
    known = np.array([pair for pair in pairs if pair[0] is not None], float).reshape(-1, 2)
    empty = dict.fromkeys(("tau", "tau_low", "tau_high", "tau_p", "rho", "rho_low", "rho_high", "rho_p"))
    row = {"score": score, "strategy": strategy, "n": len(known)} | empty
    if len(known) < LEAST:
        return row | {"text": f"{len(known)} encoder{'s' * (len(known) != 1)}; an order needs {LEAST} or more"}
    one, two = known[:, 0], known[:, 1] * (1 if direction == "max" else -1)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return row | {"text": "all are equal; there is no order"}
    tau, rho = _kendall(one, two), _spearman(one, two)
    for name, (value, chance), variance in (("tau", tau, (0.437, 4)), ("rho", rho, (1.06, 3))):
        low, high = _interval(value, len(known), *variance, confidence)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_p": chance}
    return row | {"text": ""}


def _kendall(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    from scipy.stats import kendalltau

    found = kendalltau(one, two)
    return float(found.statistic), float(found.pvalue)


def _spearman(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """rho and its probability: by all orders of few encoders, else by Student's t."""
    from itertools import permutations

    from scipy.stats import rankdata, spearmanr

    found = spearmanr(one, two)
    value, count = float(found.statistic), len(one)
    if count > EXACT:
        return value, float(found.pvalue)
    first, second = rankdata(one) - (count + 1) / 2, rankdata(two) - (count + 1) / 2
    orders = second[np.array(list(permutations(range(count))))]
    reached = np.abs(orders @ first) >= abs(second @ first) - 1e-9
    return value, float(reached.mean())


def _interval(value: float, count: int, factor: float, lost: int, confidence: float) -> tuple:
    if count <= max(lost, 4) or abs(value) >= 1 - 1e-12:
        return None, None
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(factor / (count - lost))
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
