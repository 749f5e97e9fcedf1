"""The classes and functions that a trial names, found and checked without importing them."""

import ast
from collections.abc import Collection

from tlimb import registry
from tlimb.errors import Problem, nearest
from tlimb.search.scans import terms_of


def class_problems(trial: dict, trusted=(), varied: Collection[str] = ()) -> list[Problem]:
    """What is wrong with the classes, their arguments and the hooks of a trial (a dumped TrialBase), by JSON path.

    varied: JSON paths of what may be otherwise: a class is not held to refuse, or to lack, what follows from them.
    """
    named = _of_architecture("architecture", trial["architecture"])
    hooks, passed = [], {}
    for i, stage in enumerate(trial["stages"]):
        named += _of_stage(stage, f"stages[{i}]")
        hooks += [(f"stages[{i}].data.hooks.{name}", path) for name, path in stage["data"]["hooks"].items() if path]
        passed[f"stages[{i}].scheduler"] = {"epochs": stage["epochs"]}
    problems = []
    for kind, where, spec in named:
        if spec is not None:
            fitting = registry.fitting(kind, spec["class_path"], spec["init_args"], where, trusted)
            problems += fitting or _whole_problems(kind, where, spec, passed.get(where, {}), varied)
    return problems + [problem for where, path in hooks for problem in function_problems(path, where, trusted)]


def _whole_problems(kind: str, where: str, spec: dict, passed: dict, varied: Collection[str]) -> list[Problem]:
    """What a class refuses of its arguments together and lacks, as far as that does not follow from what is varied."""
    name, arguments = spec["class_path"], spec["init_args"]
    given = f"{where}.init_args"
    if given in varied or any(_within(f"{where}.class_path", path) for path in varied):
        return []
    inner = [path.removeprefix(f"{given}.") for path in varied if path.startswith(f"{given}.")]
    unknown = {path.split(".")[0].split("[")[0] for path in inner}
    if f"{where.rpartition('.')[0]}.epochs" in varied:
        unknown |= passed.keys()
    problems = registry.refused(kind, name, arguments, where, passed, unknown)
    if kind == "optimizer" and not problems:
        problems = _rate_problems({key: value for key, value in arguments.items() if key not in unknown}, where)
    return problems or registry.missing(kind, name, {*arguments, *unknown}, where)


def _within(path: str, outer: str) -> bool:
    """Whether a JSON path is another one or leads further."""
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


def _rate_problems(arguments: dict, where: str) -> list[Problem]:
    """Rates below 0, which no optimizer can mean, for those whose class does not refuse them."""
    rates = [(name, arguments[name]) for name in ("lr", "weight_decay") if isinstance(arguments.get(name), int | float)]
    message = "expected a number of at least 0, found {}"
    return [Problem(f"{where}.init_args.{name}", message.format(rate)) for name, rate in rates if rate < 0]


def _of_architecture(where: str, spec: dict | None) -> list[tuple[str, str, dict | None]]:
    """(kind, JSON path, class or None) of a network and of the network of slices within it."""
    within = spec["init_args"].get("slice_encoder") if spec else None
    named = {"class_path": within} if isinstance(within, str) else within
    if not isinstance(named, dict) or not isinstance(named.get("class_path"), str):
        return [("architecture", where, spec)]
    inner = {"class_path": named["class_path"], "init_args": named.get("init_args", {})}
    return [("architecture", where, spec), ("architecture", f"{where}.init_args.slice_encoder", inner)]


def _of_stage(stage: dict, where: str) -> list[tuple[str, str, dict | None]]:
    """(kind, JSON path, class or None) of every class that a stage names."""
    data, objective = stage["data"], stage["objective"]
    own = _of_architecture(f"{where}.architecture", stage["architecture"])
    own += [("head", f"{where}.heads.{name}", head) for name, head in stage["heads"].items() if head["class_path"]]
    own.append(("adapter", f"{where}.tuning.adapter", stage["tuning"]["adapter"]))
    named = own + [(kind, f"{where}.data.{kind}", data[kind]) for kind in ("module", "dataset", "sampler", "normalise")]
    named += [("augment", f"{where}.data.augment[{j}]", step) for j, step in enumerate(data["augment"])]
    named += [(kind, f"{where}.{kind}", stage[kind]) for kind in ("optimizer", "scheduler")]
    named += [("scenario", f"{where}.scenario", stage["scenario"])]
    named += [("callback", f"{where}.callbacks[{j}]", spec) for j, spec in enumerate(stage["callbacks"])]
    named.append(("combination", f"{where}.objective.combine", objective["combine"]))
    for path, term in terms_of(objective):
        named += [("objective", f"{where}.objective.{path}", term), *_views(f"{where}.objective.{path}", term)]
    return named


def _views(where: str, term: dict) -> list[tuple[str, str, dict]]:
    """(kind, JSON path, class) of the augmentations that a term names for views of its own."""
    found = []
    for name in ("views", "weak", "strong"):
        listed = term["init_args"].get(name)
        for j, step in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(step, dict) and isinstance(step.get("class_path"), str):
                spec = {"class_path": step["class_path"], "init_args": step.get("init_args", {})}
                found.append(("augment", f"{where}.init_args.{name}[{j}]", spec))
    return found


def function_problems(path: str, where: str, trusted=()) -> list[Problem]:
    """The problems of a function named by import path: its module's trust, and that something is so called there.

    What a module imports or assigns may be a function; the import of it will tell.
    """
    module, _, name = path.rpartition(".")
    if not module:
        return [Problem(where, f"expected the import path of a function, found '{path}'", "as in my_lab.hooks.jitter")]
    problems = registry.trust_problems(path, where, trusted)
    if problems:
        return problems
    try:
        body = registry.statements(module)
    except SyntaxError as error:
        return [registry.syntax_problem(where, error)]
    if body is None:
        return [Problem(where, f"no module {module} is found")]
    names = [name for node in body for name in _bound(node)]
    known = name in names or "*" in names
    return [] if known else [Problem(where, f"no function {path} is defined", nearest(name, names))]


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement binds to what may be a function; "*" for any."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
