"""The classes and functions that a trial names, found and checked without importing them."""

import ast
from importlib.util import find_spec
from pathlib import Path

from tlimb import registry
from tlimb.errors import Problem, nearest


def class_problems(trial: dict, trusted=()) -> list[Problem]:
    """What is wrong with the classes, their arguments and the hooks of a trial (a dumped TrialBase), by JSON path."""
    named = [("architecture", "architecture", trial["architecture"])]
    hooks = []
    for i, stage in enumerate(trial["stages"]):
        named += _of_stage(stage, f"stages[{i}]")
        hooks += [(f"stages[{i}].data.hooks.{name}", path) for name, path in stage["data"]["hooks"].items() if path]
    problems = [
        problem
        for kind, where, spec in named
        if spec is not None
        for problem in registry.check(kind, spec["class_path"], spec["init_args"], where, trusted)
    ]
    return problems + [problem for where, path in hooks for problem in function_problems(path, where, trusted)]


def _of_stage(stage: dict, where: str) -> list[tuple[str, str, dict | None]]:
    """(kind, JSON path, class or None) of every class that a stage names."""
    data, objective = stage["data"], stage["objective"]
    named = [(kind, f"{where}.data.{kind}", data[kind]) for kind in ("module", "dataset", "sampler", "normalise")]
    named += [("augment", f"{where}.data.augment[{j}]", step) for j, step in enumerate(data["augment"])]
    named += [(kind, f"{where}.{kind}", stage[kind]) for kind in ("optimizer", "scheduler")]
    named.append(("objective", f"{where}.objective.primary", objective["primary"]))
    return named + [("objective", f"{where}.objective.auxiliary[{j}]", t) for j, t in enumerate(objective["auxiliary"])]


def function_problems(path: str, where: str, trusted=()) -> list[Problem]:
    """The problems of a function named by import path: its module's trust, and that it is defined there."""
    module, _, name = path.rpartition(".")
    root = path.split(".")[0]
    if not module:
        return [Problem(where, f"expected the import path of a function, found '{path}'", "as in my_lab.hooks.jitter")]
    if root not in (*registry.TRUSTED, *trusted):
        return [Problem(where, f"module '{root}' is not trusted", f"name it in trusted_modules to allow {path}")]
    source = _source(module)
    if source is None:
        return [Problem(where, f"no module {module} is found")]
    body = ast.parse(source.read_text(encoding="utf-8")).body
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    return [] if name in functions else [Problem(where, f"no function {path} is defined", nearest(name, functions))]


def _source(module: str) -> Path | None:
    """The file of a module; only its top-level package is looked up, nothing is imported."""
    root, *rest = module.split(".")
    spec = find_spec(root)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    bases = [Path(place, *rest) for place in spec.submodule_search_locations or []]
    files = [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py")]
    return next((file for file in files if file.is_file()), None)
