"""Objectives made before anything is trained, so that values which only their classes can judge are told."""

from tlimb.data.bins import Bins
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.objective import Objective, build_objective


def made_objective(stage: dict, labels: dict, trusted=()) -> Objective:
    """The objective of a stage on targets whose scales are not known yet. labels: as in cohort.json.

    Raises InputError with the stage's name before each JSON path.
    """
    targets = [_target(name, labels[name], stage["heads"].get(name) or {}) for name in stage["targets"]]
    try:
        return build_objective(stage["objective"], targets, trusted)
    except InputError as error:
        where = f"stages.{stage['name']}"
        placed = [Problem(f"{where}.{problem.where}", problem.message, problem.hint) for problem in error.problems]
        raise InputError(placed) from None


def _target(name: str, label: dict, head: dict) -> Target:
    """A target with a mean of 0, a spread of 1 and one scan of each class in place of what training will fit."""
    kind, classes = label["kind"], tuple(label["classes"])
    if kind != "regression":
        return Target(name, kind, classes, counts=(1,) * len(classes))
    bins = head.get("bins")
    if not bins:
        return Target(name, kind, (), 0.0, 1.0)
    low = bins["low"] if bins["low"] is not None else (bins["high"] or 0.0) - 10 * bins["width"]
    high = bins["high"] if bins["high"] is not None else low + 10 * bins["width"]
    return Target(name, kind, (), 0.0, 1.0, Bins(low, high, bins["width"], bins["sigma"]))
