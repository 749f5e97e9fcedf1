"""Combinations of settings that no single variant shows to be impossible."""

from tlimb import registry
from tlimb.config import ClassSpec, Split, TrialBase
from tlimb.errors import Problem
from tlimb.files import canonical_json
from tlimb.splits import ALWAYS, USED

NEEDS_PRETRAINED = {"tlimb.objectives.l2sp.L2SP"}
SERIES_MODULE = registry.SHORT_NAMES["module"]["SeriesDataModule"]
VOLUME_MODULES = {path for path in registry.SHORT_NAMES["module"].values() if path != SERIES_MODULE}
DIMENSIONS = {1: "time series", 2: "slices", 3: "volumes"}
REASONS = {
    "test": {
        "kfold": "each of the folds is the test part once",
        "nested": "each of the folds is the test part once",
        "site": "the test part is everybody of the site that is held out",
        "file": "the file says who is tested on",
    },
    "validation": {
        "nested": "each of the inner folds is the validation part once",
        "file": "the file says who is validated on",
    },
}
"""Why a scheme does not use a setting, where that is not plain."""


def combination_problems(trial: TrialBase, recipes: dict) -> list[Problem]:
    """What is wrong with the stages, the data and the split of one point of the space. recipes: those of the sweep."""
    problems = split_problems(trial.split, "split")
    if trial.stages[0].strategy == "frozen":
        problems.append(Problem("stages[0].strategy", "the first stage has no pretrained encoder to freeze"))
    for i, stage in enumerate(trial.stages):
        problems += _objective_problems(stage, i) + _module_problems(stage, recipes[stage.data.recipe].kind, i)
        problems += _axes_problems(trial.architecture, stage, i)
        if i and stage.strategy != "scratch":
            problems += _normaliser_problems(trial.stages[i - 1].data.normalise, stage.data.normalise, i)
        if stage.split is not None and i < len(trial.stages) - 1:
            problems += _earlier_split_problems(stage.split, f"stages[{i}].split")
    used = {stage.data.recipe for stage in trial.stages}
    if len(used) > 1:
        message = f"the stages of a trial must share one recipe, found {', '.join(sorted(used))}"
        problems.append(Problem("stages[*].data.recipe", message, "set 'stages.*.data.recipe' in the space"))
    return problems


def split_problems(split: Split, where: str) -> list[Problem]:
    """What is wrong within a split: settings that its scheme does not use, picks out of range, nobody left to train."""
    default, used = Split(), USED[split.scheme] | ALWAYS
    problems = []
    for name in Split.model_fields:
        if name not in used and getattr(split, name) != getattr(default, name):
            reason = REASONS.get(name, {}).get(split.scheme)
            message = f"scheme '{split.scheme}' does not use it" + (f": {reason}" if reason else "")
            problems.append(Problem(f"{where}.{name}", message, "leave it out"))
    counts = {"repeat": split.repeats, "fold": split.folds, "inner_fold": split.inner_folds}
    counts = {name: count for name, count in counts.items() if name in used}
    if split.scheme in ("site", "file"):
        del counts["fold"]
    if split.replicates is None and split.replicate is not None:
        problems.append(Problem(f"{where}.replicate", "picks one of `replicates`, which is not set"))
    elif split.replicates is not None:
        counts["replicate"] = split.replicates
    for name, count in counts.items():
        if getattr(split, name, None) is not None and getattr(split, name) >= count:
            message = f"found {getattr(split, name)}, expected a number below {count}, counted from 0"
            problems.append(Problem(f"{where}.{name}", message))
    if split.scheme == "file" and split.file is None:
        problems.append(Problem(f"{where}.file", "missing; the scheme 'file' needs a table of persons and roles"))
    return problems + _share_problems(split, where)


def _share_problems(split: Split, where: str) -> list[Problem]:
    held_out = {"holdout": [split.validation, split.test], "kfold": [split.validation, 1 / split.folds]}
    shares = held_out.get(split.scheme, [])
    if shares and all(isinstance(share, float) for share in shares) and sum(shares) >= 1:
        parts = "validation and test" if split.scheme == "holdout" else "validation and a fold"
        return [Problem(where, f"{parts} together leave nobody to train on; expected a sum below 1")]
    return []


def _earlier_split_problems(split: Split, where: str) -> list[Problem]:
    """A stage before the last is trained once for each trial, so its own split is one holdout."""
    problems = []
    if split.scheme != "holdout":
        message = f"expected 'holdout', found '{split.scheme}'; folds are those of the sweep's own split"
        problems.append(Problem(f"{where}.scheme", message))
    for name in ("repeats", "repeat", "replicates", "replicate", "n"):
        if getattr(split, name) != getattr(Split(), name):
            hint = "data.labelled.n draws fewer persons" if name == "n" else "leave it out"
            problems.append(Problem(f"{where}.{name}", "only the sweep's own split has it", hint))
    return problems if problems else split_problems(split, where)


def _objective_problems(stage, i: int) -> list[Problem]:
    if i and stage.strategy != "scratch":
        return []
    return [
        Problem(
            f"stages[{i}].objective.auxiliary",
            f"{term.class_path} keeps weights near a pretrained encoder, and stage '{stage.name}' starts from scratch",
            f"give strategy and objective together, as variants of one key such as 'stages.{stage.name}'",
        )
        for term in stage.objective.auxiliary
        if registry.locate("objective", term.class_path) in NEEDS_PRETRAINED
    ]


def _module_problems(stage, kind: str, i: int) -> list[Problem]:
    """tlimb's own modules present either images or time series; a user's may present anything."""
    where, name = f"stages[{i}].data.module", stage.data.module.class_path
    path = registry.locate("module", name)
    if kind == "series" and path in VOLUME_MODULES:
        message = f"{name} presents images, and recipe '{stage.data.recipe}' makes time series"
        return [Problem(where, message, "expected SeriesDataModule")]
    if kind == "volume" and path == SERIES_MODULE:
        message = f"{name} presents time series, and recipe '{stage.data.recipe}' makes images"
        return [Problem(where, message, 'a recipe of "kind": "series" makes time series')]
    return []


def _axes_problems(architecture, stage, i: int) -> list[Problem]:
    """A network for slices on volumes, or the other way round; of tlimb's own classes this is known beforehand."""
    takes = {"ResNet": architecture.init_args.get("dims", 3), "SFCN": 3}.get(architecture.class_path)
    module = stage.data.module
    sliced = 2 if module.init_args.get("slices") else 3
    given = {"CropCenterDataModule": sliced, "BaseDataModule": 3, "SeriesDataModule": 1}.get(module.class_path)
    if takes is None or given is None or given == takes:
        return []
    network = f"{architecture.class_path} takes {DIMENSIONS.get(takes, takes)}"
    hint = "give both together, as variants of the key '*': `slices` of CropCenterDataModule, `dims` of ResNet"
    return [Problem(f"stages[{i}].data.module", f"{network}, and this module gives {DIMENSIONS[given]}", hint)]


def _normaliser_problems(earlier: ClassSpec | None, own: ClassSpec | None, i: int) -> list[Problem]:
    """An encoder knows intensities on the scale it was trained with; another one must be asked for with `refit`."""
    before, now = (registry.normaliser_key(spec and spec.model_dump()) for spec in (earlier, own))
    if before == now or (own is not None and own.init_args.get("refit")):
        return []
    before, found = ("none" if spec is None else canonical_json(spec.model_dump()) for spec in (earlier, own))
    message = f"expected that of stages[{i - 1}], from whose encoder it starts, {before}, found {found}"
    return [Problem(f"stages[{i}].data.normalise", message, "set stages.*.data.normalise")]


def comparison_problems(specs) -> list[Problem]:
    """Candidates are ranked on the same people by the same target, so these must not vary."""
    problems = []
    for where, part in {
        "stages[-1].targets": lambda spec: spec["stages"][-1]["targets"],
        "stages[-1].data.labelled": lambda spec: spec["stages"][-1]["data"]["labelled"],
        "split": lambda spec: {key: value for key, value in spec["split"].items() if key != "n"},
    }.items():
        if len({canonical_json(part(spec)) for spec in specs}) > 1:
            message = "varies in the space; candidates would not be measured on the same people and target"
            problems.append(Problem(where, message))
    return problems
