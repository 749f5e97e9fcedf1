"""Translations of names: read from a sweep, checked, applied. Nothing here needs torch."""

import re
from collections.abc import Iterable
from pathlib import Path

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import read_json
from tlimb.weights.ready_maps import READY_MAPS

Pairs = tuple[tuple[str, str | None], ...]


def is_map_file(name) -> bool:
    """Whether a sweep's `map` is the path of a file, and not the name of a ready map."""
    return isinstance(name, str) and name.endswith(".json")


def read_pairs(written, where: str, file: Path | None = None) -> Pairs:
    """The pairs (pattern, replacement or None) of a sweep's `map`.

    written: the name of a ready map, the path of a JSON file, or pairs as a dict. file: where that path lies now. The
    file holds an object {pattern: replacement} or a list of pairs. Raises InputError naming what is wrong.
    """
    if is_map_file(written):
        content, where = read_json(file), str(written)
    elif isinstance(written, str):
        if written not in READY_MAPS:
            message = f"no ready map is called '{written}'; expected one or a .json file"
            raise InputError([Problem(where, message, nearest(written, READY_MAPS))])
        return READY_MAPS[written].pairs
    else:
        content = written
    pairs = list(content.items()) if isinstance(content, dict) else content
    problems = _shape_problems(pairs, where) or [one for pair in pairs for one in _pair_problems(pair, where)]
    if problems:
        raise InputError(problems)
    return tuple((pattern, replacement) for pattern, replacement in pairs)


def _shape_problems(pairs, where: str) -> list[Problem]:
    listed = isinstance(pairs, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs)
    if listed:
        return []
    return [Problem(where, 'expected an object {"pattern": "replacement"} or a list of such pairs')]


def _pair_problems(pair, where: str) -> list[Problem]:
    pattern, replacement = pair
    if not isinstance(pattern, str) or not (replacement is None or isinstance(replacement, str)):
        return [Problem(f"{where}, {pair!r}", "expected a pattern and a replacement as text, or null to drop the name")]
    try:
        compiled = re.compile(pattern)
        if replacement is not None:
            compiled.sub(replacement, "")
    except (re.error, IndexError) as error:
        return [Problem(f"{where}, '{pattern}'", f"is no pattern with this replacement: {error}")]
    return []


def translated(names: Iterable[str], pairs: Pairs, where: str = "weights") -> dict[str, str]:
    """New name -> name in the file. Every pair is applied to every name, in order; dropped names are left out.

    Raises InputError where two names become one.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in pairs]
    found: dict[str, str] = {}
    problems = []
    for name in names:
        new: str | None = name
        for pattern, replacement in compiled:
            if pattern.search(new):
                new = None if replacement is None else pattern.sub(replacement, new)
            if new is None:
                break
        if new is None:
            continue
        if new in found:
            problems.append(Problem(where, f"the map makes '{new}' of both '{found[new]}' and '{name}'"))
        found[new] = name
    if problems:
        raise InputError(problems[:10])
    return found
