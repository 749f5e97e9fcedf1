"""What a choice on labels of the target domain would give: nobody who adapts without labels has it."""

import statistics

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.compare import Measure, mean_with_interval
from tlimb.ranking.results import Results
from tlimb.ranking.selection import preference
from tlimb.scores import value_of

APART = "external-target-validation"
"""Scores on people of the target domain who take part in nothing."""


def oracle_choice(results: Results, candidates: list[dict], target: str, measure: Measure) -> dict | None:
    """The key `oracle` of ranking.json; null where no stage adapts from a source to a target domain.

    The candidate with the best mean on labelled people of the target domain who were kept apart, and its test score.
    candidates: rows with their outcomes. It says how much better a choice could be, and is not to be reported as a
    result of adaptation without labels.
    """
    found = []
    for row in candidates:
        finished = [one for one in row["trials"] if one["status"] == "ok"]
        values = [value_of(results.scores(one["id"], APART), target, measure.metric) for one in finished]
        values = [value for value in values if value is not None]
        if values:
            mean = statistics.fmean(values)
            failed = len(row["trials"]) - len(values)
            found.append((preference(mean, failed, row, DIRECTIONS[measure.metric]), row, mean))
    if not found:
        return None
    _, row, mean = min(found, key=lambda one: one[0])
    test = mean_with_interval(list(results.tables(row["trials"], "test", target).values()), measure)
    facts = {"candidate": row["candidate"], "name": row["name"], "target_validation": mean}
    return facts | {f"test_{name}": test[name] for name in ("mean", "low", "high")}
