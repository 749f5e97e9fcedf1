"""What the ranking says, in words that claim no more than the intervals allow."""

from collections.abc import Sequence

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.compare import Measure

WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "area under the ROC curve",
    "auprc": "area under the precision-recall curve",
    "f1": "F1 score",
    "mcc": "Matthews correlation",
    "brier": "Brier score",
    "log_loss": "log loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "r": "correlation",
    "quadratic_kappa": "quadratic weighted kappa",
    "mean_auroc": "mean area under the ROC curves",
    "mean_auprc": "mean area under the precision-recall curves",
    "macro_f1": "mean F1 score",
    "subset_accuracy": "share of scans with every class right",
    "hamming_loss": "share of classes said wrongly",
    "c_index": "concordance",
    "icc": "intraclass correlation",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calibration_error": "calibration error",
}


def answer(
    candidates: list[dict],
    comparisons: list[dict],
    measure: Measure,
    target: str,
    n_persons: int,
    *,
    alike: dict | None = None,
    ties: Sequence[str] = (),
    lacking: str = "",
) -> str:
    """The ranking in two sentences: the best candidate on test with what transfer gains; what the choice rests on.

    candidates, comparisons, ties: as in ranking.json, alike its `indistinguishable`. n_persons: on test. lacking: why
    the best has no interval there, where it has none.
    """
    best = candidates[0]
    if best["validation_mean"] is None:
        reason = next(trial["reason"] for trial in best["trials"])
        return f"No candidate finished a trial, so nothing can be ranked. The first reason was: {reason}."
    digits = decimals(best["test_low"], best["test_high"])
    name = best["name"] + _trained(best)
    if best["test_mean"] is None:
        why = f"its {WORDS[measure.metric]} can't be computed on test for every trial"
        first = f"Best for {target} is {name}, by validation alone: {why if n_persons else 'it has no test scores'}."
    else:
        first = (
            f"Best for {target} is {name}: {WORDS[measure.metric]} {number_text(best['test_mean'], digits)} on "
            f"{n_persons} test persons ({_how_surely(best, measure, lacking, digits)}mean of "
            f"{_trials(best)}){_versus(candidates, comparisons, measure, digits)}."
        )
    return f"{first} {_choice(candidates, alike, ties, digits)}"


def _how_surely(best: dict, measure: Measure, lacking: str, digits: int) -> str:
    if best["test_low"] is None:
        return f"without an interval, since {lacking}; " if lacking else "interval unknown, "
    return f"{measure.confidence * 100:g}% interval {range_text(best, 'test_', digits)}, "


def _choice(candidates: list[dict], alike: dict | None, ties: Sequence[str], digits: int) -> str:
    """What the choice of the best rests on: its figure on validation, ties, and who can't be told apart from it."""
    best, tried = candidates[0], sum(row["validation_mean"] is not None for row in candidates)
    among = f"chosen among {tried} candidates" if tried > 1 else "measured while it trained"
    text = f"On validation{_people(best)}, where it was {among}, it had {number_text(best['validation_mean'], digits)}"
    if ties:
        names = {row["candidate"]: row["name"] for row in candidates}
        named = names[ties[0]] if len(ties) == 1 else f"{len(ties)} others"
        text += f", exactly as {named} had: of equals the one with fewer parameters, then of lower id, stands first"
    if alike and alike["compared"] > 1:
        text += ("; " if ties else ", and ") + _who_is_alike(alike, tried)
    return text + "."


def _who_is_alike(alike: dict, tried: int) -> str:
    found, others = len(alike["candidates"]), alike["compared"] - 1
    every = alike["compared"] == tried
    if alike["reason"]:
        return f"the others can't be compared with it there: {alike['reason']}"
    if others == 1:
        one = "the other one" if every else "the next one"
        return f"{one} can't be told apart from it there" if found else f"it is told apart from {one} there"
    if not found:
        return f"it is told apart from all {'others' if every else f'of the next {others}'} there"
    if found == others:
        return f"none of the {'others' if every else f'next {others}'} can be told apart from it there"
    return f"{found} of the {f'{others} others' if every else f'next {others}'} can't be told apart from it there"


def _people(best: dict) -> str:
    """Whose validation it was, where that is not the people of the test set: adapted without labels of the target."""
    source = best["spec"]["stages"][-1]["data"].get("source")
    return f" on people of the source ({', '.join(source['cohort'])})" if source else ""


def _trained(best: dict) -> str:
    return "" if best["budget"] == best["epochs"] else f" (after {best['budget']} of {best['epochs']} epochs)"


def rival(candidates: list[dict], comparisons: list[dict]) -> tuple[dict, dict] | None:
    """The comparison that tells what transfer is worth, and its other candidate.

    The best from scratch; where scratch itself is best or was not tried, the first that does transfer otherwise.
    """
    rows = {row["candidate"]: row for row in candidates}
    found = sorted(comparisons, key=lambda one: (not is_scratch(rows[one["b"]]), rows[one["b"]]["rank"]))
    return (found[0], rows[found[0]["b"]]) if found else None


def is_scratch(row: dict) -> bool:
    """Does this candidate start from random weights?"""
    return row["strategy"].split(" + ")[0] == "scratch"


def verdict(comparison: dict, metric: str) -> str:
    """`better`, `worse` or `can't be told apart`: what the interval of the difference allows to say of the first."""
    low, high = comparison["low"], comparison["high"]
    if low is None or low <= 0 <= high:
        return "can't be told apart"
    return "better" if (low > 0) == (DIRECTIONS[metric] == "max") else "worse"


def decimals(low: float | None, high: float | None) -> int:
    """Decimals that an interval deserves: one or two significant digits of its width, 1 to 4; 2 where it has none."""
    if low is None or high is None or high <= low:
        return 2
    width = high - low
    return next(digits for digits in (1, 2, 3, 4) if width * 10**digits >= 4 or digits == 4)


def _versus(candidates: list[dict], comparisons: list[dict], measure: Measure, digits: int) -> str:
    found = rival(candidates, comparisons)
    if not found:
        return _alone(candidates)
    comparison, other = found
    difference = number_text(abs(comparison["difference"]), digits)
    signed = number_text(comparison["difference"], digits, sign="+")
    name = ("training from scratch" if is_scratch(other) else other["name"]) + _trained(other)
    if comparison["low"] is None:
        return f" (difference from {name} {signed}, how surely is not known)"
    interval = f"interval {range_text(comparison, '', digits)}"
    said = verdict(comparison, measure.metric)
    if said == "can't be told apart":
        return f", which can't be told apart from {name} on these persons (difference {signed}, {interval})"
    return f", {difference} {said} than {name} ({interval} of the difference)"


def _alone(candidates: list[dict]) -> str:
    """Why the best is compared with nothing."""
    others = [row for row in candidates[1:] if row["selected"]]
    lacking = [row for row in others if row["test_mean"] is None]
    if lacking:
        return f", with nothing to compare with: {lacking[0]['name']} has no test scores"
    if others:
        return f", with nothing to compare with: {others[0]['name']} shares no seed, fold and test person with it"
    return ", with nothing from scratch to compare with" if not is_scratch(candidates[0]) else ""


def range_text(values: dict, prefix: str, digits: int) -> str:
    """`<prefix>low` to `<prefix>high` of values with so many decimals, or `unknown`."""
    low, high = values[f"{prefix}low"], values[f"{prefix}high"]
    return "unknown" if low is None else f"{number_text(low, digits)} to {number_text(high, digits)}"


def number_text(value: float, digits: int, sign: str = "") -> str:
    """A number with so many decimals and a true minus sign, never `−0`; sign: `+` for one before positive ones, too."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def _trials(row: dict) -> str:
    finished = len(row["trials"]) - row["failed"]
    text = f"{finished} trial{'s' if finished != 1 else ''}"
    return text + (f", {row['failed']} failed" if row["failed"] else "")
