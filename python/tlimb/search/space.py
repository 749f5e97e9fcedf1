"""The search space: a path into the trial for each key, a list of variants for each path, a grid over all."""

import copy
import itertools

from tlimb import registry, splits
from tlimb.config import ClassSpec, Split, Stage, Sweep, TrialBase
from tlimb.errors import InputError, Problem, nearest
from tlimb.files import digest
from tlimb.parse import parse
from tlimb.search.classes import class_problems
from tlimb.search.combinations import VOLUME_MODULES, combination_problems, comparison_problems, first_of, is_fitted

SPACE_ROOTS = ("architecture", "stages", "split")
WHOLE_VOLUMES = ClassSpec(class_path="BaseDataModule").model_dump()
EARLIER_SPLIT = Split(validation=0.1, test=0.1)
"""How the cohort of a stage before the last is divided where the sweep does not say."""


def grid(sweep: Sweep, trusted=(), files: dict | None = None) -> list[dict]:
    """The canonical specs of every distinct point and seed, seeds innermost, in the order of the space.

    Points that come to the same trial (scratch, whatever the pretraining would have been) stand once. The split of a
    spec stands as the sweep has it: `expand` makes the trials of its folds and replicates. files: those that the sweep
    names, as in cohort.json. Raises InputError with every problem of the space, its variants and their combinations.
    """
    base = _base(sweep)
    problems = _base_problems(sweep, trusted) + _space_problems(sweep, base, trusted)
    if problems:
        raise InputError(problems)
    specs = {}
    for point in itertools.product(*sweep.search.space.values()):
        trial = base
        for key, variant in zip(sweep.search.space, point):
            trial, _ = assign(trial, key, variant)
        checked = parse(TrialBase, trial)
        found = combination_problems(checked, sweep.recipes)
        problems += found
        for seed in sweep.search.seeds if not found else []:
            spec = resolve(checked, seed, files)
            specs.setdefault(digest(spec), spec)
    problems += comparison_problems(specs.values())
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list(specs.values())


def expand(spec: dict, sites=(), file_folds: int = 1) -> list[dict]:
    """The trials of one point and seed: one for each repeat, fold, inner fold and replicate of its split.

    sites, file_folds: as for `tlimb.splits.resolved`, which raises ValueError for a pick that is out of range.
    """
    return [spec | {"split": split} for split in splits.resolved(spec["split"], sites, file_folds)]


def resolve(trial: TrialBase, seed: int, files: dict | None = None) -> dict:
    """The canonical spec of a trial: defaults filled in, and only what changes its numbers.

    Stages before the last one that starts from scratch or from published weights leave no trace in the result, so they
    are dropped. files: path as the sweep writes it -> {"digest"}.
    """
    architecture = trial.architecture.model_dump()
    stages = [stage.model_dump() for stage in trial.stages]
    if is_fitted(architecture):
        stages = [_fitted(stages[-1])]
    else:
        stages = stages[first_of(trial.stages) :]
    for i, stage in enumerate(stages):
        anew = i == 0 and not _from_file(stage)
        stage["strategy"] = "scratch" if anew else stage["strategy"] or "full"
        stage["weights"] = None if anew else _with_digest(stage["weights"], files or {})
        earlier = stage is not stages[-1]
        stage["architecture"] = None if stage["architecture"] == architecture else stage["architecture"]
        stage["split"] = splits.resolved(stage["split"] or EARLIER_SPLIT.model_dump())[0] if earlier else None
    stages[-1]["disjoint"] = False
    return {"architecture": architecture, "seed": seed, "split": trial.split.model_dump(), "stages": stages}


def _from_file(stage: dict) -> bool:
    """Whether a stage starts from published weights."""
    named = stage["weights"] is not None and stage["weights"]["path"] is not None
    return named and stage["strategy"] != "scratch"


def _with_digest(weights: dict | None, files: dict) -> dict | None:
    """The weights of a stage with a digest of the files that they stand in."""
    if weights is None or weights["path"] is None:
        return weights
    named = [name for name in (weights["path"], weights["map"]) if isinstance(name, str) and name in files]
    return weights | {"digest": digest([files[name]["digest"] for name in named], 16)}


def _fitted(stage: dict) -> dict:
    """The stage of a network that is fitted and not trained, without what only training looks at; it takes volumes
    whole, whatever part of them others are shown."""
    data = stage["data"] | {"augment": []}
    if registry.locate("module", data["module"]["class_path"]) in VOLUME_MODULES:
        data["module"] = WHOLE_VOLUMES
    usual = Stage(name=stage["name"], targets=stage["targets"], epochs=1, data=data).model_dump()
    return usual | {key: stage[key] for key in ("split", "disjoint")}


def candidate_of(spec: dict) -> str:
    """The id of the candidate of a trial: its spec without the seed and what tells folds and replicates apart."""
    return digest(splits.candidate_spec(spec))


def assign(trial: dict, key: str, variant) -> tuple[dict, list[Problem]]:
    """A copy of `trial` with `variant` at every path of `key`, and the paths that lead nowhere as problems.

    An object without `class_path` is merged into what stands there; anything else replaces it. The key ``*`` is the
    whole trial: its variants are objects of paths and values that belong together.
    """
    trial = copy.deepcopy(trial)
    if key == "*" and not isinstance(variant, dict):
        return trial, [Problem("search.space.'*'", f"expected objects of paths and values, found {variant!r}")]
    problems = []
    for paths, value in variant.items() if key == "*" else [(key, variant)]:
        for path in paths.split(","):
            parts = path.strip().split(".")
            if parts[0] in SPACE_ROOTS:
                problems += _assign(trial, parts, value, paths)
            else:
                problems.append(_lost(paths, parts[0], SPACE_ROOTS))
    return trial, problems


def _assign(node, parts: list[str], variant, key: str, free: bool = False) -> list[Problem]:
    """Set `variant` below `node`; `free` where any name may be set, as in init_args."""
    name, rest = parts[0], parts[1:]
    if isinstance(node, dict) and (name in node or free):
        places = [name]
    elif isinstance(node, list):
        places = _items(node, name)
    else:
        places = []
    problems = [] if places else [_lost(key, name, _names(node))]
    for place in places:
        old = node.get(place) if isinstance(node, dict) else node[place]
        if not rest:
            node[place] = _merged(old, variant)
            continue
        node[place] = {} if old is None else old
        problems += _assign(node[place], rest, variant, key, free=name == "init_args" or old is None)
    return problems


def _items(node: list, name: str) -> list[int]:
    """The indices that ``*``, a number or the name of a stage mean in a list."""
    if name == "*":
        return list(range(len(node)))
    return [i for i, item in enumerate(node) if name in (str(i), item.get("name") if isinstance(item, dict) else None)]


def _names(node) -> list[str]:
    if isinstance(node, list):
        return [item["name"] for item in node if isinstance(item, dict) and "name" in item]
    return list(node) if isinstance(node, dict) else []


def _merged(old, variant):
    if isinstance(old, dict) and isinstance(variant, dict) and "class_path" not in variant:
        return {**old, **{key: _merged(old.get(key), value) for key, value in variant.items()}}
    return copy.deepcopy(variant)


def _lost(key: str, name: str, valid) -> Problem:
    message = f"the path leads nowhere: nothing is called '{name}' there"
    return Problem(f"search.space.{key!r}", message, nearest(name, valid))


def _base(sweep: Sweep) -> dict:
    return sweep.model_dump(include={"architecture", "stages", "split"})


def _base_problems(sweep: Sweep, trusted) -> list[Problem]:
    problems = class_problems(_base(sweep), trusted)
    for i, stage in enumerate(sweep.stages):
        if stage.data.recipe not in sweep.recipes:
            hint = nearest(stage.data.recipe, sweep.recipes)
            problems.append(Problem(f"stages[{i}].data.recipe", f"unknown recipe '{stage.data.recipe}'", hint))
    if sweep.stages[-1].split is not None:
        where = f"stages[{len(sweep.stages) - 1}].split"
        problems.append(Problem(where, "the last stage is divided by the sweep's own 'split'"))
    return problems


def _space_problems(sweep: Sweep, base: dict, trusted) -> list[Problem]:
    """Each variant tried alone on the base trial, so that its problems are named by its own place."""
    problems = []
    known = {str(problem) for problem in class_problems(base, trusted)}
    for key, variants in sweep.search.space.items():
        if not variants:
            problems.append(Problem(f"search.space.{key!r}", "expected at least one variant, found an empty list"))
        for i, variant in enumerate(variants):
            where = f"search.space.{key!r}[{i}]"
            trial, lost = assign(base, key, variant)
            if lost:
                problems += lost
                break
            problems += _variant_problems(trial, where, sweep, known, trusted)
    return problems


def _variant_problems(trial: dict, where: str, sweep: Sweep, known: set, trusted) -> list[Problem]:
    try:
        checked = parse(TrialBase, trial, where)
    except InputError as error:
        return error.problems
    found = [p for p in class_problems(checked.model_dump(), trusted) if str(p) not in known]
    found = [Problem(f"{where}: {problem.where}", problem.message, problem.hint) for problem in found]
    lost = {stage.data.recipe for stage in checked.stages} - set(sweep.recipes)
    return found + [Problem(where, f"unknown recipe '{name}'", nearest(name, sweep.recipes)) for name in sorted(lost)]
