"""The search space: a path into the trial for each key, a list of variants for each path, a grid over all."""

import copy
import itertools

from tlimb import registry
from tlimb.config import Split, Sweep, TrialBase, parse
from tlimb.errors import InputError, Problem, nearest
from tlimb.files import canonical_json, digest

SPACE_ROOTS = ("architecture", "stages", "split")
EARLIER_SPLIT = Split(validation=0.1, test=0.1)
"""How the cohort of a stage before the last is divided where the sweep does not say."""
NEEDS_PRETRAINED = {"tlimb.objectives.l2sp.L2SP"}


def grid(sweep: Sweep, trusted=()) -> list[dict]:
    """The canonical specs of every distinct trial, seeds innermost, in the order of the space.

    Points that come to the same trial (scratch, whatever the pretraining would have been) stand once.
    Raises InputError with every problem of the space, its variants and their combinations.
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
        problems += _combination_problems(checked)
        for seed in sweep.search.seeds:
            spec = resolve(checked, seed)
            specs.setdefault(digest(spec), spec)
    problems += _comparison_problems(specs.values())
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list(specs.values())


def resolve(trial: TrialBase, seed: int) -> dict:
    """The canonical spec of a trial: defaults filled in, and only what changes its numbers.

    Stages before the last one that starts from scratch leave no trace in the result, so they are dropped.
    """
    stages = [stage.model_dump() for stage in trial.stages]
    start = max((i for i, stage in enumerate(stages) if stage["strategy"] == "scratch"), default=0)
    stages = stages[start:]
    for i, stage in enumerate(stages):
        stage["strategy"] = "scratch" if i == 0 else stage["strategy"] or "full"
        stage["split"] = None if i == len(stages) - 1 else stage["split"] or EARLIER_SPLIT.model_dump()
    stages[-1]["disjoint"] = False
    return {
        "architecture": trial.architecture.model_dump(),
        "seed": seed,
        "split": trial.split.model_dump(),
        "stages": stages,
    }


def candidate_of(spec: dict) -> str:
    """The id of the candidate a trial belongs to: its spec without the seed."""
    return digest({key: value for key, value in spec.items() if key != "seed"})


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
    return Problem(f"search.space.{key!r}", f"the path leads nowhere: nothing is called '{name}' there", nearest(name, valid))


def _base(sweep: Sweep) -> dict:
    return sweep.model_dump(include={"architecture", "stages", "split"})


def _base_problems(sweep: Sweep, trusted) -> list[Problem]:
    problems = _class_problems(_base(sweep), "", trusted)
    for i, stage in enumerate(sweep.stages):
        if stage.data.recipe not in sweep.recipes:
            where = f"stages[{i}].data.recipe"
            problems.append(Problem(where, f"unknown recipe '{stage.data.recipe}'", nearest(stage.data.recipe, sweep.recipes)))
    if sweep.stages[-1].split is not None:
        problems.append(Problem(f"stages[{len(sweep.stages) - 1}].split", "the last stage is divided by the sweep's own 'split'"))
    return problems


def _space_problems(sweep: Sweep, base: dict, trusted) -> list[Problem]:
    """Each variant tried alone on the base trial, so that its problems are named by its own place."""
    problems = []
    known = {str(problem) for problem in _class_problems(base, "", trusted)}
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
    found = [p for p in _class_problems(checked.model_dump(), "", trusted) if str(p) not in known]
    found = [Problem(f"{where}: {problem.where}", problem.message, problem.hint) for problem in found]
    lost = {stage.data.recipe for stage in checked.stages} - set(sweep.recipes)
    return found + [Problem(where, f"unknown recipe '{name}'", nearest(name, sweep.recipes)) for name in sorted(lost)]


def _class_problems(trial: dict, where: str, trusted) -> list[Problem]:
    named = [("architecture", f"{where}architecture", trial["architecture"])]
    for i, stage in enumerate(trial["stages"]):
        at = f"{where}stages[{i}]"
        named.append(("module", f"{at}.data.module", stage["data"]["module"]))
        named.append(("optimizer", f"{at}.optimizer", stage["optimizer"]))
        named.append(("scheduler", f"{at}.scheduler", stage["scheduler"]))
        named.append(("objective", f"{at}.objective.primary", stage["objective"]["primary"]))
        for j, term in enumerate(stage["objective"]["auxiliary"]):
            named.append(("objective", f"{at}.objective.auxiliary[{j}]", term))
    return [
        problem
        for kind, at, spec in named
        if spec is not None
        for problem in registry.check(kind, spec["class_path"], spec["init_args"], at, trusted)
    ]


def _combination_problems(trial: TrialBase) -> list[Problem]:
    """Combinations that no single variant shows to be impossible."""
    problems = []
    if trial.stages[0].strategy == "frozen":
        problems.append(Problem("stages[0].strategy", "the first stage has no pretrained encoder to freeze"))
    for i, stage in enumerate(trial.stages):
        problems += _axes_problems(trial.architecture, stage, i)
        starts_fresh = i == 0 or stage.strategy == "scratch"
        for term in stage.objective.auxiliary:
            if starts_fresh and registry.locate("objective", term.class_path) in NEEDS_PRETRAINED:
                where = f"stages[{i}].objective.auxiliary"
                problems.append(
                    Problem(
                        where,
                        f"{term.class_path} keeps weights near a pretrained encoder, and stage '{stage.name}' starts from scratch",
                        "give strategy and objective together, as variants of one key such as 'stages." + stage.name + "'",
                    )
                )
    recipes = {stage.data.recipe for stage in trial.stages}
    if len(recipes) > 1:
        message = f"the stages of a trial must share one recipe, found {', '.join(sorted(recipes))}"
        problems.append(Problem("stages[*].data.recipe", message, "set 'stages.*.data.recipe' in the space"))
    if trial.split.validation + trial.split.test >= 1:
        problems.append(Problem("split", "validation and test together leave nobody to train on; expected a sum below 1"))
    return problems


def _axes_problems(architecture, stage, i: int) -> list[Problem]:
    """A network for slices on volumes, or one for volumes on slices; of tlimb's own classes this is known beforehand."""
    dims = {"ResNet": architecture.init_args.get("dims", 3), "SFCN": 3}.get(architecture.class_path)
    sliced = {"CropCenterDataModule": stage.data.module.init_args.get("slices"), "BaseDataModule": None}
    if dims is None or stage.data.module.class_path not in sliced:
        return []
    given = 2 if sliced[stage.data.module.class_path] else 3
    if given == dims:
        return []
    network = f"{architecture.class_path} takes {'slices' if dims == 2 else 'volumes'}"
    hint = "give both together, as variants of the key '*'; `slices` of CropCenterDataModule and `dims` of ResNet decide"
    return [Problem(f"stages[{i}].data.module", f"{network}, and this module gives {'slices' if given == 2 else 'volumes'}", hint)]


def _comparison_problems(specs) -> list[Problem]:
    """Candidates are ranked on the same people by the same target, so these must not vary."""
    problems = []
    for where, part in {
        "stages[-1].targets": lambda spec: spec["stages"][-1]["targets"],
        "stages[-1].data.labelled": lambda spec: spec["stages"][-1]["data"]["labelled"],
        "split": lambda spec: {key: value for key, value in spec["split"].items() if key != "n"},
    }.items():
        if len({canonical_json(part(spec)) for spec in specs}) > 1:
            problems.append(Problem(where, "varies in the space; candidates would not be measured on the same people and target"))
    return problems
