"""What stands in a scores file: scores-validation.json, scores-test.json, scores-external-<cohort>.json."""


def metric_of(scores: dict | None, target: str, metric: str) -> dict:
    """{"value", "low", "high"} of a metric; empty where there is no file, it failed, or lacks the target or metric."""
    if not scores or scores.get("status") != "ok":
        return {}
    return scores.get("targets", {}).get(target, {}).get("metrics", {}).get(metric) or {}


def value_of(scores: dict | None, target: str, metric: str) -> float | None:
    """A metric of a scores file; None where it failed, has no such target or could not be computed."""
    return metric_of(scores, target, metric).get("value")
