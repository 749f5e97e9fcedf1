"""What the kind of a target rules out: heads, losses and ways to mix images that make no sense of its labels."""

from tlimb import registry
from tlimb.errors import Problem, nearest
from tlimb.search.combinations import is_fitted
from tlimb.search.scans import terms_of

SOFT_BINS = registry.SHORT_NAMES["objective"]["SoftBins"]
MIXUP = registry.SHORT_NAMES["augment"]["MixUp"]

OWN_LOSS = {
    "ordinal": "the head of ordered classes has an output less than there are classes",
    "survival": "times until an event are compared with each other, not learned one by one",
}
"""Kinds of which the losses of torch can make nothing, and why."""


def source_head_problems(spec: dict, labels: dict) -> list[Problem]:
    """Terms of a stage that need classes or bins of the one before, where it has neither."""
    problems = []
    for before, stage in zip(spec["stages"], spec["stages"][1:]):
        kinds = {name: labels[name]["kind"] for name in before["targets"] if name in labels}
        usable = [name for name, kind in kinds.items() if kind != "regression" or _bins(before, name)]
        for path, term in terms_of(stage["objective"]):
            if "source_head" in registry.declared("objective", term["class_path"], "needs", ()) and not usable:
                message = f"{registry.class_name(term)} needs classes or bins, and stage '{before['name']}' has neither"
                hint = f"give a quantity bins: stages.{before['name']}.heads.<target>.bins"
                problems.append(Problem(f"stages.{stage['name']}.objective.{path}", message, hint))
    return problems


def _bins(stage: dict, name: str) -> dict | None:
    return (stage["heads"].get(name) or {}).get("bins")


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


def _unfit(loss: dict, kind: str, binned: bool) -> str:
    """Why a loss cannot teach a target of this kind; empty where it can."""
    path = registry.locate("objective", loss["class_path"])
    fitting = registry.declared("objective", loss["class_path"], "kinds")
    if path == SOFT_BINS:
        return "" if binned else "its head has no bins; heads.<target>.bins gives it some"
    if binned:
        return "its head has bins, which are learned by a loss of their own"
    if path.startswith("torch.") and kind in OWN_LOSS:
        return OWN_LOSS[kind]
    if fitting is not None and kind not in fitting:
        return f"it is for the kind {' and '.join(fitting)}, and this is {kind}"
    return ""


def _term_kind_problems(stage: dict, kinds: dict[str, str], labels: dict, where: str) -> list[Problem]:
    """Auxiliary terms that need a target of some kind, and label columns of which a term can make nothing."""
    problems = []
    for path, term in terms_of(stage["objective"]):
        place, name = f"{where}.objective.{path}", registry.class_name(term)
        fitting = registry.declared("objective", term["class_path"], "kinds")
        if path.startswith("auxiliary") and fitting and not set(fitting) & set(kinds.values()):
            found = ", ".join(f"'{target}' is of kind {kind}" for target, kind in kinds.items())
            problems.append(Problem(place, f"{name} needs a target of kind {' or '.join(fitting)}; {found}"))
        within = term["init_args"].get("within")
        for target, one in within.items() if isinstance(within, dict) else ():
            known = labels[target]["classes"] if target in kinds else []
            if one not in known:
                message = "expected a target of this stage and one of its classes"
                problems.append(Problem(f"{place}.init_args.within.{target}", message, nearest(str(one), known)))
        if name == "AdversarialRemoval" and term["init_args"].get("loss") == "correlation":
            message = f"'{term['init_args'].get('column')}' has classes, and a correlation is of quantities"
            if labels.get(term["init_args"].get("column"), {}).get("kind") != "regression":
                problems.append(Problem(f"{place}.init_args.loss", message, 'expected "error"'))
        column = term["init_args"].get("column")
        kind = labels[column]["kind"] if column in labels else "classification"
        if isinstance(column, str) and kind not in ("classification", "ordinal", "regression"):
            message = f"{name} looks at classes or quantities, and '{column}' is of kind {kind}"
            problems.append(Problem(f"{place}.init_args.column", message))
    return problems


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
    for name, kind in kinds.items():
        each = primary and "class_path" not in primary
        loss = primary.get(name) if each else primary
        reason = loss and _unfit(loss, kind, name in binned)
        if reason:
            message = f"{loss['class_path']} cannot be the loss of '{name}': {reason}"
            hint = "leave it out, or name a loss for each target"
            problems.append(Problem(f"{where}.objective.primary" + (f".{name}" if each else ""), message, hint))
    problems += _term_kind_problems(stage, kinds, labels, where)
    mixed = any(registry.locate("augment", step["class_path"]) == MIXUP for step in data["augment"])
    for name in [name for name, kind in kinds.items() if mixed and kind == "survival"]:
        message = f"MixUp cannot be used with '{name}': two times until an event have no mixture"
        problems.append(Problem(f"{where}.data.augment", message))
    return problems
