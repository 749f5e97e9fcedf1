"""Terms of an objective held against the stage that names them, by what their classes say of themselves."""

from tlimb import registry
from tlimb.config import Stage, Tuning
from tlimb.errors import Problem, nearest
from tlimb.search.scans import second_of, terms_of

MIXUP = registry.SHORT_NAMES["augment"]["MixUp"]
SIMULTANEOUS = registry.SHORT_NAMES["scenario"]["Simultaneous"]
WHOLE_PARAMETERS = {
    *("L2SP", "EWC", "DELTA", "L1Weights", "BYOL", "MeanTeacher", "MaskedAutoencoder"),
    *("GradNorm", "PCGrad"),
}
"""Terms and combinations that look at parameters one by one, or pass images by a way of their own."""

EXPECTED_DDP = 'expected trainer.strategy "ddp"'
SECOND_SET = "name it as data.unlabelled beside labelled, or as data.target beside source"


def says(term: dict, name: str, default=None):
    """What the class of a term says of itself."""
    return registry.declared("objective", term["class_path"], name, default)


def heads_of_terms(stage: Stage) -> list[str]:
    """The heads that the terms of a stage ask for."""
    return [name for _, term in terms_of(stage.objective.model_dump()) for name in says(term, "heads", {})]


def learns_from_images(stage: Stage) -> bool:
    """Whether the primary term of a stage needs no labels."""
    primary = stage.objective.model_dump()["primary"]
    return bool(primary) and "class_path" in primary and bool(says(primary, "on_images", False))


def term_problems(stage: Stage, i: int, starts: bool, before: Stage | None) -> list[Problem]:
    """What a stage's terms lack. starts: whether it starts from weights; before: the stage from whose encoder."""
    objective, where = stage.objective.model_dump(), f"stages[{i}].objective"
    problems = _primary_problems(stage, objective, where) + _mixing_problems(stage, objective, i)
    for j, term in enumerate(objective["auxiliary"]):
        place, name = f"{where}.auxiliary[{j}]", registry.class_name(term)
        if _is_loss(term):
            message = f"{name} is the loss of a target"
            problems.append(Problem(place, message, "name it as objective.primary"))
    for path, term in terms_of(objective):
        for need in says(term, "needs", ()):
            lack = NEEDS[need](stage, starts, before, term) if need in NEEDS else None
            if lack is not None:
                message, hint = lack
                problems.append(Problem(f"{where}.{path}", f"{registry.class_name(term)} {message}", hint))
    return problems


def scenario_problems(stage: Stage, i: int, last: bool) -> list[Problem]:
    """A scenario for two sets of scans needs them; only a stage before the last keeps something for the next one."""
    problems, scenario = [], stage.scenario
    two = second_of(stage.data.model_dump()) is not None
    if scenario and registry.locate("scenario", scenario.class_path) == SIMULTANEOUS and not two:
        problems.append(Problem(f"stages[{i}].scenario", "Simultaneous needs a second set of scans", SECOND_SET))
    beside = scenario.init_args.get("unlabelled_batch") if scenario else None
    if isinstance(beside, int) and beside < stage.trainer.devices:
        message = f"expected at least {stage.trainer.devices}, one for each device, found {beside}"
        problems.append(Problem(f"stages[{i}].scenario.init_args.unlabelled_batch", message))
    if stage.strategy == "direct" and stage.objective.auxiliary:
        message = "strategy 'direct' trains nothing, so that no term changes anything"
        problems.append(Problem(f"stages[{i}].objective.auxiliary", message, "leave it out"))
    if stage.fisher and last:
        message = "is for the stage after this one, and there is none"
        problems.append(Problem(f"stages[{i}].fisher", message, "leave it out"))
    if stage.fisher and not stage.targets:
        message = "needs targets of which a label can be drawn, and this stage has none"
        problems.append(Problem(f"stages[{i}].fisher", message, "leave it out"))
    return problems


def _is_loss(term: dict) -> bool:
    """Whether a class of tlimb is the loss of a target, and no term beside one."""
    return bool(says(term, "kinds")) and not says(term, "needs") and not says(term, "sees_unlabelled")


def device_problems(stage: Stage, i: int) -> list[Problem]:
    """What cannot be computed on several devices, or where each holds a part of every parameter."""
    devices, where = stage.trainer.devices, f"stages[{i}]"
    if devices == 1:
        return []
    problems = []
    if stage.batch_size < 2 * devices:
        message = f"{devices} devices need 2 scans each, found a batch of {stage.batch_size}"
        problems.append(Problem(f"{where}.batch_size", message))
    return problems + (_fsdp_problems(stage, where) if stage.trainer.strategy == "fsdp" else [])


def _fsdp_problems(stage: Stage, where: str) -> list[Problem]:
    objective = stage.objective.model_dump()
    named = [*terms_of(objective), *([("combine", objective["combine"])] if objective["combine"] else [])]
    message = "{} looks at whole parameters, of which fsdp holds parts"
    problems = [
        Problem(f"{where}.objective.{path}", message.format(registry.class_name(spec)), EXPECTED_DDP)
        for path, spec in named
        if registry.class_name(spec) in WHOLE_PARAMETERS
    ]
    if stage.tuning != Tuning():
        problems.append(Problem(f"{where}.tuning", "fsdp trains the whole encoder at once", EXPECTED_DDP))
    if stage.strategy in ("frozen", "direct"):
        message = f"fsdp divides an encoder that trains, and with '{stage.strategy}' it does not"
        problems.append(Problem(f"{where}.strategy", message, EXPECTED_DDP))
    return problems


def _primary_problems(stage: Stage, objective: dict, where: str) -> list[Problem]:
    primary, problems = objective["primary"], []
    if primary and "class_path" not in primary:
        for name in primary:
            if name not in stage.targets:
                message = "no target of this stage is called so"
                problems.append(Problem(f"{where}.primary.{name}", message, nearest(name, stage.targets)))
        beside = [spec for spec in primary.values() if _is_beside(spec)]
    else:
        beside = [primary] if primary and stage.targets and _is_beside(primary) else []
    for spec in beside:
        message = f"{registry.class_name(spec)} stands beside the loss of a target"
        problems.append(Problem(f"{where}.primary", message, "name it under objective.auxiliary"))
    if primary and "class_path" in primary and stage.targets and says(primary, "on_images", False):
        names = ", ".join(stage.targets)
        message = f"{registry.class_name(primary)} learns from images alone; nothing would teach {names}"
        problems.append(Problem(f"{where}.primary", message, "name it under objective.auxiliary"))
    if objective["combine"] and len(stage.targets) < 2:
        message = f"makes one loss of several targets', and this stage has {', '.join(stage.targets) or 'none'}"
        problems.append(Problem(f"{where}.combine", message, "leave it out, or name more targets"))
    weights = (objective["combine"] or {"init_args": {}})["init_args"].get("weights")
    for name in weights if isinstance(weights, dict) else ():
        if name not in stage.targets:
            message = "no target of this stage is called so"
            hint = nearest(name, stage.targets)
            problems.append(Problem(f"{where}.combine.init_args.weights.{name}", message, hint))
    by_gradients = objective["combine"] and registry.class_name(objective["combine"]) in ("GradNorm", "PCGrad")
    if by_gradients and stage.strategy in ("frozen", "direct"):
        message = f"compares gradients of the encoder, which never trains with strategy '{stage.strategy}'"
        problems.append(Problem(f"{where}.combine", message, "leave it out"))
    return problems


def _is_beside(spec: dict) -> bool:
    """Whether a class of tlimb can only be an auxiliary term."""
    own = registry.locate("objective", spec["class_path"]).startswith("tlimb.")
    return own and not _is_loss(spec) and not says(spec, "on_images", False)


def _mixing_problems(stage: Stage, objective: dict, i: int) -> list[Problem]:
    """Mixed images belong to two persons, of whom a second set or a label column would say two things."""
    mixed = [j for j, s in enumerate(stage.data.augment) if registry.locate("augment", s.class_path) == MIXUP]
    columns = any("column" in term["init_args"] for _, term in terms_of(objective))
    two = second_of(stage.data.model_dump()) is not None
    reason = "beside a second set of scans" if two else "with terms that look at a label column"
    return [
        Problem(f"stages[{i}].data.augment[{j}]", f"MixUp cannot be used {reason}", "leave it out")
        for j in mixed
        if two or columns
    ]


def _pretrained(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    if starts:
        return None
    message = f"looks back at a pretrained encoder, and stage '{stage.name}' starts from scratch"
    return message, f"give strategy and objective together, as variants of one key such as 'stages.{stage.name}'"


def _whole(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    between = [f"tuning.{name}" for name in ("reinitialise", "adapter") if getattr(stage.tuning, name)]
    between += ["weights.part"] if stage.weights and stage.weights.part else []
    if not (starts and between):
        return None
    message = "keeps the whole encoder near where it starts, and {} brings weights that have no such place"
    return message.format(between[0]), "leave out one of the two"


def _moving(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    if stage.strategy not in ("frozen", "direct"):
        return None
    return f"changes nothing: with strategy '{stage.strategy}' the encoder stays as it is", "leave it out"


def _unlabelled(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    if second_of(stage.data.model_dump()) is None:
        return "needs a second set of scans, without labels", SECOND_SET
    if stage.scenario and registry.locate("scenario", stage.scenario.class_path).endswith(".Sequential"):
        return "needs both sets of scans at once, which Sequential does not show", "expected Simultaneous"
    return None


def _several(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    return None if len(stage.targets) > 1 else ("needs two targets or more", "name them under `targets`")


def _target(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    message = "compares predictions of targets, and the stage has none"
    return None if stage.targets else (message, "it stands beside the loss of a target")


def _fisher(stage: Stage, starts: bool, before: Stage | None, term) -> tuple[str, str] | None:
    if not starts or (before is not None and before.fisher):
        return None
    if before is None:
        return "needs what a stage before keeps of its scans, and published weights bring none", "expected L2SP"
    return "needs the Fisher information of the stage before", f"set stages.{before.name}.fisher to true"


def _source_head(stage: Stage, starts: bool, before: Stage | None, term) -> tuple[str, str] | None:
    if not starts or (before is not None and before.targets):
        return None
    return "needs a stage before with a target of classes or a head of bins", "name its `targets`"


def _column(stage: Stage, starts: bool, before, term) -> tuple[str, str] | None:
    column = term["init_args"].get("column")
    if not isinstance(column, str):
        return "needs the name of a label column", 'set init_args.column, such as "site"'
    if column in stage.targets and not says(term, "on_images", False):
        return f"would remove '{column}', which the stage is to learn", "name another label column"
    return None


NEEDS = {
    "pretrained": _pretrained,
    "whole": _whole,
    "moving": _moving,
    "unlabelled": _unlabelled,
    "target": _target,
    "targets": _several,
    "fisher": _fisher,
    "source_head": _source_head,
    "column": _column,
}
"""What a class may say that it needs -> what is wrong where a stage lacks it, with a hint; None where it does not."""
