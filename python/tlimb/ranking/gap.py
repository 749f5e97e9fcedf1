"""From validation to test: what the choice of the best promised and what it kept.

As it stands in ranking.json ("gap"), null where the best has no test scores:

    {"validation": 0.81, "test": 0.74, "difference": -0.07,   test minus validation, of the best
     "optimistic": true}   test is worse by more than its interval reaches
"""

from tlimb.ranking.compare import Measure


def gap_of(best: dict, direction: str) -> dict | None:
    """The key `gap`. best: a row of ranking.json with its test scores; direction: "max" or "min"."""
    if best["test_mean"] is None or best["validation_mean"] is None:
        return None
    promised = best["validation_mean"]
    reach = best["test_high"] if direction == "max" else best["test_low"]
    optimistic = reach is not None and (promised > reach if direction == "max" else promised < reach)
    difference = best["test_mean"] - promised
    return {"validation": promised, "test": best["test_mean"], "difference": difference, "optimistic": optimistic}


def optimism(gap: dict | None, candidates: list[dict], measure: Measure) -> list[str]:
    """A sentence where the best is worse on test than on validation by more than its interval; else none."""
    if gap is None or not gap["optimistic"]:
        return []
    tried = sum(row["validation_mean"] is not None for row in candidates)
    interval = f"{measure.confidence * 100:g}% interval"
    if candidates[0]["spec"]["stages"][-1]["data"].get("source"):
        return [f"On validation it was better than the {interval} on test reaches: those are people of the source."]
    why = "a figure that was the best of several flatters" if tried > 1 else "the epoch was chosen there"
    return [f"On validation it was better than the {interval} on test reaches: {why} (optimism of selection)."]
