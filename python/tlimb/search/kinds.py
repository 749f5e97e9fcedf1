"""What the kind of a target rules out: heads, losses and ways to mix images that make no sense of its labels."""

from tlimb import registry
from tlimb.errors import Problem
from tlimb.search.combinations import is_fitted

MIXUP = registry.SHORT_NAMES["augment"]["MixUp"]

OWN_LOSS = {
    "ordinal": "the head of ordered classes has an output less than there are classes",
    "survival": "times until an event are compared with each other, not learned one by one",
}
"""Kinds of which the losses of torch can make nothing, and why."""


def fitted_problems(spec: dict, labels: dict) -> list[Problem]:
    """The targets of a trial that its network, if it is one that is fitted and not trained, cannot learn."""
    if not is_fitted(spec["architecture"]):
        return []
    stage = spec["stages"][-1]
    message = f"{spec['architecture']['class_path']} is fitted for regression and classification alone"
    return [
        Problem(f"stages.{stage['name']}.targets", f"{message}, and '{name}' is of kind {labels[name]['kind']}")
        for name in stage["targets"]
        if labels[name]["kind"] not in ("regression", "classification")
    ]


def kind_problems(stage: dict, labels: dict) -> list[Problem]:
    """The problems of a stage, whose targets all exist. labels: as in cohort.json."""
    where, data, primary = f"stages.{stage['name']}", stage["data"], stage["objective"]["primary"]
    kinds = {name: labels[name]["kind"] for name in stage["targets"]}
    binned = [name for name, head in stage["heads"].items() if head["bins"] and name in kinds]
    problems = []
    for name in binned:
        if kinds[name] != "regression":
            message = f"bins are for quantities, and '{name}' is of kind {kinds[name]}"
            problems.append(Problem(f"{where}.heads.{name}.bins", message))
    if primary is not None:
        path = registry.locate("objective", primary["class_path"])
        of_torch = path.startswith("torch.")
        reasons = {name: OWN_LOSS[kind] for name, kind in kinds.items() if of_torch and kind in OWN_LOSS}
        reasons |= dict.fromkeys(binned, "its head has bins, which are learned by a loss of their own")
        for name, reason in reasons.items():
            message = f"{primary['class_path']} cannot be the loss of '{name}': {reason}"
            hint = "leave it out, or give the target a stage of its own"
            problems.append(Problem(f"{where}.objective.primary", message, hint))
    mixed = any(registry.locate("augment", step["class_path"]) == MIXUP for step in data["augment"])
    for name in [name for name, kind in kinds.items() if mixed and kind == "survival"]:
        message = f"MixUp cannot be used with '{name}': two times until an event have no mixture"
        problems.append(Problem(f"{where}.data.augment", message))
    return problems
