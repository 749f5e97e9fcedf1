"""Paths into a trial, and values set where they lead."""

import copy

from tlimb.errors import Problem, nearest
from tlimb.search.grammar import breadth

SPACE_ROOTS = ("architecture", "stages", "split")


def assign(trial: dict, key: str, variant, free: bool = False) -> tuple[dict, list[Problem]]:
    """A copy of `trial` with `variant` at every path of `key`, and the paths that lead nowhere as problems.

    An object without `class_path` is merged into what stands there; anything else replaces it. The key ``*`` is the
    whole trial: its variants are objects of paths and values that belong together. free: whether names may be set that
    an object lacks, as objects that variants of other keys put there leave out what they do not change.
    """
    trial = {root: copy.deepcopy(value) for root, value in trial.items()}
    if key == "*" and not isinstance(variant, dict):
        return trial, [Problem("search.space.'*'", f"expected objects of paths and values, found {variant!r}")]
    problems = []
    for paths in sorted(variant, key=breadth) if key == "*" else [key]:
        value = variant[paths] if key == "*" else variant
        for path in paths.split(","):
            parts = path.strip().split(".")
            if parts[0] in SPACE_ROOTS:
                problems += _assign(trial, parts, value, paths, free)
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
        problems += _assign(node[place], rest, variant, key, free or name == "init_args" or old is None)
    return problems


def _items(node: list, name: str) -> list[int]:
    """The indices that ``*``, a number (negative ones count from the end) or the name of a stage mean in a list."""
    if name == "*":
        return list(range(len(node)))
    named = [item.get("name") if isinstance(item, dict) else None for item in node]
    return [i for i in range(len(node)) if name in (str(i), str(i - len(node)), named[i])]


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
