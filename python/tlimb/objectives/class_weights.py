"""Weights of classes, for losses that let rare classes count for more."""

from math import inf

import torch
from torch import Tensor

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem, nearest


def weights_of_classes(given: str | list[float] | dict | None, target: Target) -> Tensor:
    """The weight of each class of a target, (K,): 1 for all where nothing is given.

    given: "balanced", a list in the order of the classes, or name of a class -> weight. Raises InputError for weights
    that are negative, not finite or all 0, for classes that are unknown or left out, and for "balanced" where nobody
    counted.
    """
    if given is None:
        return torch.ones(len(target.classes))
    if given == "balanced":
        return _balanced(target)
    problems = _named_problems(given, target) if isinstance(given, dict) else _listed_problems(given, target)
    values = list(given.values()) if isinstance(given, dict) else given
    bad = [value for value in values if not (isinstance(value, (int, float)) and 0 <= value < inf)]
    if bad:
        found = ", ".join(map(repr, bad))
        problems.append(Problem("class_weights", f"expected numbers of at least 0, found {found}"))
    elif not any(values):
        problems.append(Problem("class_weights", "all are 0; nothing would be learned"))
    if problems:
        raise InputError(problems)
    return torch.tensor([given[name] for name in target.classes] if isinstance(given, dict) else given).float()


def _balanced(target: Target) -> Tensor:
    """n / (K n_k), over K classes of which the training part has n_k > 0 scans, n in all; 0 for a class without any.

    King, Zeng (2001), "Logistic regression in rare events data", Political Analysis 9, 137-163. Their mean over
    training scans is 1.
    """
    if not target.counts:
        message = f"how many training scans each class of '{target.name}' has is not known"
        raise InputError([Problem("class_weights", message, "give a number for each class")])
    counts = torch.tensor(target.counts, dtype=torch.float64)
    weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0).float()


def _named_problems(given: dict, target: Target) -> list[Problem]:
    unknown = [name for name in given if name not in target.classes]
    message = f"'{target.name}' has no class '{{}}'"
    found = [Problem("class_weights", message.format(name), nearest(name, target.classes)) for name in unknown]
    missing = [name for name in target.classes if name not in given]
    if missing:
        found.append(Problem("class_weights", f"expected a weight for each class; missing: {', '.join(missing)}"))
    return found


def _listed_problems(given: list[float], target: Target) -> list[Problem]:
    if len(given) == len(target.classes):
        return []
    message = f"expected {len(target.classes)} numbers, one for each class of '{target.name}', found {len(given)}"
    return [Problem("class_weights", message, f"the classes are {', '.join(target.classes)}")]
