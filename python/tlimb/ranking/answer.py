"""What the ranking says, in words that claim no more than the intervals allow."""

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
}


def answer(candidates: list[dict], comparisons: list[dict], measure: Measure, target: str, n_persons: int) -> str:
    """The ranking in one sentence: the best candidate, its metric on test, what transfer gains, the gap to validation.

    candidates, comparisons: as in ranking.json. n_persons: on test.
    """
    best = candidates[0]
    if best["validation_mean"] is None:
        reason = next(trial["reason"] for trial in best["trials"])
        return f"No candidate finished a trial, so nothing can be ranked; the first reason was: {reason}."
    digits = decimals(best["test_low"], best["test_high"])
    promised = f"{WORDS[measure.metric]} {best['validation_mean']:.{digits}f} on validation"
    if best["test_mean"] is None:
        return f"Best for {target} is {best['name']} ({promised}), but it has no test scores."
    return (
        f"Best for {target} is {best['name']}: {WORDS[measure.metric]} {best['test_mean']:.{digits}f} on "
        f"{n_persons} test persons ({measure.confidence * 100:g}% interval {_range(best, 'test_', digits)}, "
        f"mean of {_trials(best)}){_versus(candidates, comparisons, measure, digits)}; on validation, "
        f"where it was chosen, it had {best['validation_mean']:.{digits}f}."
    )


def cautions(
    candidates: list[dict], nested: dict | None, measure: Measure, tested: int, reused: int
) -> tuple[list[str], list[str]]:
    """Sentences that the answer needs besides, and notes for the reader, where folds share their people.

    nested: as in ranking.json. tested: persons on test; reused: those of them whom the choice among candidates looked
    at too, as validation persons of other trials.
    """
    said, notes = [], []
    compared = sum(row["validation_mean"] is not None for row in candidates)
    if reused and compared > 1 and candidates[0]["test_mean"] is not None:
        said.append("Its test persons also took part in that choice, in other folds, so its test figure is optimistic.")
        way_out = "the nested estimate repeats the choice inside each outer fold and is the figure to report"
        if nested is None:
            way_out = "the split scheme 'nested' repeats the choice inside each outer fold"
        notes.append(
            f"{reused} of {tested} test persons are validation persons in other folds, where the best of {compared} "
            f"candidates was chosen: its test figure is optimistic, the more so the more were compared; {way_out}."
        )
    if nested is not None and nested["value"] is not None:
        digits = decimals(nested["low"], nested["high"])
        said.append(
            f"Choosing anew inside each of {len(nested['folds'])} outer folds gives {WORDS[measure.metric]} "
            f"{nested['value']:.{digits}f} ({measure.confidence * 100:g}% interval {_range(nested, '', digits)})."
        )
    if nested is not None and any(one["test"] is None for one in nested["folds"]):
        lacking = sum(one["test"] is None for one in nested["folds"])
        some = f"{lacking} of {len(nested['folds'])} outer folds have no test score"
        notes.append(f"{some} and are left out of the nested estimate.")
    return said, notes


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
        return ", with nothing from scratch to compare with" if not is_scratch(candidates[0]) else ""
    comparison, other = found
    difference = f"{abs(comparison['difference']):.{digits}f}"
    interval = f"interval {_range(comparison, '', digits)}"
    name = "training from scratch" if is_scratch(other) else other["name"]
    said = verdict(comparison, measure.metric)
    if said == "can't be told apart":
        signed = f"{comparison['difference']:+.{digits}f}"
        return f", which can't be told apart from {name} on these persons (difference {signed}, {interval})"
    return f", {difference} {said} than {name} ({interval} of the difference)"


def _range(values: dict, prefix: str, digits: int) -> str:
    low, high = values[f"{prefix}low"], values[f"{prefix}high"]
    return "unknown" if low is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _trials(row: dict) -> str:
    finished = len(row["trials"]) - row["failed"]
    text = f"{finished} trial{'s' if finished != 1 else ''}"
    return text + (f", {row['failed']} failed" if row["failed"] else "")
