"""What terms share that look at a label column beside the targets: a site, a scanner, age or sex."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem, nearest
from tlimb.labels import ONE_CLASS
from tlimb.objectives.term import Beginning, Step


def column_of(name: str, beginning: Beginning, term: str) -> Target:
    """The column a term names: a quantity or one class of several.

    Raises InputError for one of another kind, one that is not there, and one that the stage learns.
    """
    where, columns = f"objective.auxiliary: {term}.column", {of.name: of for of in beginning.columns}
    if name in {of.name for of in beginning.targets}:
        raise InputError([Problem(where, f"'{name}' is a target of the stage; it can't be learned and removed")])
    if name not in columns:
        raise InputError([Problem(where, f"there is no label column '{name}'", nearest(name, columns))])
    if columns[name].kind not in (*ONE_CLASS, "regression"):
        message = f"'{name}' is {columns[name].kind}; expected a quantity or one class of several"
        raise InputError([Problem(where, message)])
    return columns[name]


@dataclass(frozen=True)
class Group:
    """The scans with one class of a target: its place among the targets of the stage, the number of the class."""

    place: int
    number: int


def groups_of(within: dict[str, str] | None, beginning: Beginning, term: str) -> list[Group]:
    """What `within`, target -> class, says. Raises InputError naming all targets and classes that are not there."""
    targets = {of.name: of for of in beginning.targets if of.kind in ONE_CLASS}
    places = {of.name: place for place, of in enumerate(beginning.targets)}
    found, problems, where = [], [], f"objective.auxiliary: {term}.within"
    for name, wanted in (within or {}).items():
        if name not in targets:
            message = f"the stage has no target '{name}' with one class of several"
            problems.append(Problem(where, message, nearest(name, targets)))
        elif wanted not in targets[name].classes:
            problems.append(Problem(where, f"'{name}' has no class '{wanted}'", nearest(wanted, targets[name].classes)))
        else:
            found.append(Group(places[name], targets[name].classes.index(wanted)))
    if problems:
        raise InputError(problems)
    return found


def known(step: Step, column: str, groups: list[Group], term: str) -> tuple[Tensor, Tensor]:
    """Of the scans that a step passes (B,): which have the column and stand in all groups, and what they have there.

    Scans without labels stand in no group. Raises InputError after MixUp, whose images have two values at once.
    """
    if column not in step.columns or isinstance(step.labels, Mixed):
        message = f"needs '{column}' of each image, and mixed images have two at once"
        raise InputError([Problem(f"objective.auxiliary: {term}", message, "leave out MixUp")])
    features = step.passed.features
    values = step.columns[column][: len(features)].to(features.device)
    counted = ~values.isnan()
    for group in groups:
        inside = torch.zeros_like(counted)
        inside[: step.labelled] = step.labels[group.place] == group.number
        counted = counted & inside
    return counted, values
