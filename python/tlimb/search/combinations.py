"""Combinations of settings that no single variant shows to be impossible."""

from tlimb import registry
from tlimb.config import ClassSpec, Split, Stage, TrialBase
from tlimb.errors import Problem, nearest
from tlimb.files import canonical_json
from tlimb.search.scans import asked_of, terms_of
from tlimb.search.terms import (
    device_problems,
    heads_of_terms,
    learns_from_images,
    says,
    scenario_problems,
    term_problems,
)
from tlimb.search.tuning_problems import tuning_problems
from tlimb.splits import ALWAYS, USED

FITTED = {registry.SHORT_NAMES["architecture"][name] for name in ("LinearBaseline", "BoostedBaseline")}
"""Networks that are fitted, not trained: what only training looks at is dropped from their trials."""

AXES = {"SFCN": 3, "SliceSet": 3, "SliceLSTM": 3, "CNN3D": 3, "SliceCNN": 2, "Timm": 2} | {
    **dict.fromkeys(("CNN1D", "TemporalTransformer", "GRU"), 1),
    **dict.fromkeys(("ResNet", "DenseNet", "ViT", "Swin", "CAE", "SRCAE", "VAE"), "dims"),
}
"""Axes of space that tlimb's own networks take, "dims" where their argument says so (3 unless set)."""

KL_DIVERGENCE = registry.SHORT_NAMES["objective"]["KLDivergence"]
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
    last = len(trial.stages) - 1
    for i, stage in enumerate(trial.stages):
        starts = stage.strategy != "scratch" and bool(i or _published(stage))
        before = trial.stages[i - 1] if i and _starts_from_stage(stage) else None
        problems += term_problems(stage, i, starts, before) + scenario_problems(stage, i, last=i == last)
        problems += device_problems(stage, i)
        problems += _module_problems(stage, recipes[stage.data.recipe].kind, i)
        problems += _label_problems(stage, i, is_last=i == last) + _start_problems(trial, i)
        if i >= first_of(trial.stages):
            architecture = stage.architecture or trial.architecture
            problems += _axes_problems(architecture, stage, i) + _network_problems(architecture, stage, i)
        anew = i == 0 and not _published(stage)
        strategy, where = "scratch" if anew else stage.strategy or "full", f"stages[{i}].tuning"
        problems += tuning_problems(stage.tuning.model_dump(), strategy, where, epochs=stage.epochs)
        if i and _starts_from_stage(stage):
            problems += _normaliser_problems(trial.stages[i - 1].data.normalise, stage.data.normalise, i)
        if stage.split is not None and i < last:
            problems += _earlier_split_problems(stage.split, f"stages[{i}].split")
    used = {stage.data.recipe for stage in trial.stages}
    if len(used) > 1:
        message = f"the stages of a trial must share one recipe, found {', '.join(sorted(used))}"
        problems.append(Problem("stages[*].data.recipe", message, "set 'stages.*.data.recipe' in the space"))
    return problems


def first_of(stages: list[Stage]) -> int:
    """The first stage that leaves a trace in the result: the last one that starts from scratch or published weights."""
    return max((i for i, stage in enumerate(stages) if stage.strategy == "scratch" or _published(stage)), default=0)


def is_fitted(architecture: dict) -> bool:
    """Whether a network is fitted and not trained."""
    return registry.locate("architecture", architecture["class_path"]) in FITTED


def _published(stage: Stage) -> bool:
    """Whether a stage names published weights."""
    return stage.weights is not None and stage.weights.path is not None


def _starts_from_stage(stage: Stage) -> bool:
    """Whether a stage, if there is one before it, starts from that one's encoder."""
    return stage.strategy != "scratch" and not _published(stage)


def _label_problems(stage: Stage, i: int, is_last: bool) -> list[Problem]:
    """A stage with targets needs labelled scans and one without a primary term that needs no labels."""
    where, data = f"stages[{i}]", stage.data
    if not stage.targets and is_last:
        return [Problem(f"{where}.targets", "missing; the last stage is what is measured, by its first target")]
    if stage.targets and data.labelled is None and data.source is None:
        message = f"missing; {', '.join(stage.targets)} must be known to learn it"
        return [Problem(f"{where}.data.labelled", message, "rename `unlabelled`, or leave out `targets`")]
    if not stage.targets and not learns_from_images(stage):
        message = "a stage without targets needs a primary term that learns from images alone"
        return [Problem(f"{where}.objective.primary", message, "such as Reconstruction")]
    if not stage.targets and (data.source is not None or data.labelled is not None):
        role = "source" if data.source is not None else "labelled"
        message = "a stage without targets has one set of scans"
        return [Problem(f"{where}.data.{role}", message, "expected `unlabelled`")]
    known = [*stage.targets, *heads_of_terms(stage)]
    message = "no target of this stage, and no head of a term, is called so"
    unknown = [] if _has_own_terms(stage) else [name for name in stage.heads if name not in known]
    return [Problem(f"{where}.heads.{name}", message, nearest(name, known)) for name in unknown]


def _has_own_terms(stage: Stage) -> bool:
    """Whether a user's own class is among the terms: what heads it asks for may be known to its instances alone."""
    paths = [registry.locate("objective", term["class_path"]) for _, term in terms_of(stage.objective.model_dump())]
    return not all(path.startswith(("tlimb.", "torch.")) for path in paths)


def _part_problems(stage: Stage, where: str) -> list[Problem]:
    """Weights for a part of the encoder leave the rest at random values, which must not stay fixed there."""
    if stage.weights is None or stage.weights.part is None:
        return []
    fixing = {f"strategy {stage.strategy}": stage.strategy in ("frozen", "direct")}
    fixing |= {f"tuning.{name}": getattr(stage.tuning, name) is not None for name in ("only", "adapter")}
    message = f"only '{stage.weights.part}' has weights to start from; {{}} would keep the rest at random values"
    hint = "expected strategy full; tuning.freeze_up_to keeps the blocks before one as they are"
    return [Problem(f"{where}.weights.part", message.format(name), hint) for name, fixed in fixing.items() if fixed]


def _start_problems(trial: TrialBase, i: int) -> list[Problem]:
    """Whether there is something to start from, for a stage that says so, and that it can be taken over."""
    stage, where = trial.stages[i], f"stages[{i}]"
    if i == len(trial.stages) - 1 and stage.architecture is not None:
        message = "the last stage's network is the sweep's own"
        return [Problem(f"{where}.architecture", message, "set `architecture` beside `stages`")]
    if stage.strategy == "scratch":
        return []
    problems = _part_problems(stage, where)
    if _published(stage):
        return problems
    if i == 0:
        reasons = {
            "frozen": "the first stage has no pretrained encoder to freeze",
            "direct": "the first stage has no pretrained network to use as it is",
        }
        problems += [Problem(f"{where}.strategy", reasons[stage.strategy])] if stage.strategy in reasons else []
        if stage.weights is not None:
            problems.append(Problem(f"{where}.weights.path", "missing; there is no stage before to take weights from"))
        return problems
    before = trial.stages[i - 1]
    own, earlier = (item.architecture or trial.architecture for item in (stage, before))
    if own != earlier and not is_fitted(own.model_dump()) and not (stage.weights and stage.weights.part):
        message = f"missing; the stage before trains a {earlier.class_path} and this one a {own.class_path}"
        hint = 'name the part that takes its weights, such as "slice_encoder"'
        problems.append(Problem(f"{where}.weights.part", message, hint))
    lacking = [name for name in stage.targets if name not in before.targets]
    if stage.strategy == "direct" and lacking:
        message = f"needs the heads of the stage before, which has {', '.join(before.targets) or 'no targets'}"
        problems.append(Problem(f"{where}.strategy", f"direct {message} and not {', '.join(lacking)}"))
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


def _network_problems(architecture: ClassSpec, stage: Stage, i: int) -> list[Problem]:
    """Terms that tlimb's own networks cannot serve."""
    problems = []
    for path, term in terms_of(stage.objective.model_dump()):
        where, known = f"stages[{i}].objective.{path}", architecture.class_path in AXES
        path = registry.locate("objective", term["class_path"])
        if path == KL_DIVERGENCE and known and architecture.class_path != "VAE":
            message = f"{term['class_path']} needs a network with a posterior, found {architecture.class_path}"
            problems.append(Problem(where, message, "expected VAE"))
        if "tokens" in says(term, "needs", ()) and known and architecture.class_path != "ViT":
            message = f"{term['class_path']} passes some patches alone, which {architecture.class_path} cannot"
            problems.append(Problem(where, message, "expected ViT, or Reconstruction with `masked`"))
    return problems


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
    takes = AXES.get(architecture.class_path)
    takes = architecture.init_args.get("dims", 3) if takes == "dims" else takes
    module = stage.data.module
    sliced = 2 if module.init_args.get("slices") else 3
    given = {"CropCenterDataModule": sliced, "BaseDataModule": 3, "SeriesDataModule": 1}.get(module.class_path)
    if takes is None or given is None or given == takes:
        return []
    network = f"{architecture.class_path} takes {DIMENSIONS.get(takes, takes)}"
    hint = "give both together, as variants of the key '*': `slices` of CropCenterDataModule, `dims` of the network"
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
        "stages[-1].data": lambda spec: _measured(spec["stages"][-1]["data"]),
        "split": lambda spec: {key: value for key, value in spec["split"].items() if key != "n"},
    }.items():
        if len({canonical_json(part(spec)) for spec in specs}) > 1:
            message = "varies in the space; candidates would not be measured on the same people and target"
            problems.append(Problem(where, message))
    return problems


def _measured(data: dict) -> list:
    """What decides on whom a stage is measured: the scans that are divided, and those of a target domain."""
    return [asked_of(data), data["target"]]
