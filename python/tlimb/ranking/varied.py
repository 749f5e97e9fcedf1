"""What the space of a search varies, as paths of settings: names say it even where one candidate alone has it."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from tlimb.files import canonical_json
from tlimb.registry import class_name
from tlimb.search.grammar import RANGES, is_form

Path = tuple[str, ...]


def varied_paths(space: dict, stages: Sequence[str], settings: Collection[dict[Path, object]] = ()) -> set[Path]:
    """The settings that take more than one value in a space, such as ("finetune", "objective", "auxiliary", "L2SP",
    "alpha").

    space: `search.space` of a sweep, presets written out. stages: their names. settings: those of the candidates, by
    `names.settings_of`, whose paths these are; they say which class stands at a place of a list.
    """
    found: dict[Path, list[str]] = {}
    for addresses, form in _forms(space):
        for path in (path for address in addresses.split(",") for path in _inner(address, stages)):
            _collect(found, path, form)
    varied = {path for path, values in found.items() if len(set(values)) > 1 or _left_out(path, found)}
    return {known for path in varied for known in _without_places(path, settings)}


def term_names(terms: list[dict]) -> list[str]:
    """The classes of a list, numbered where one of the same class stands before: `L2SP`, `BSS`, `L2SP 2`."""
    names, before = [], Counter()
    for name in map(class_name, terms):
        before[name] += 1
        names.append(name if before[name] == 1 else f"{name} {before[name]}")
    return names


def _forms(space: dict) -> Iterator[tuple[str, object]]:
    """(addresses, what stands there), of the variants of the whole trial, too."""
    for key, form in space.items():
        form = {"variants": form} if isinstance(form, list) else form
        if key != "*":
            yield key, form
            continue
        variants = [one for one in form.get("variants", []) if isinstance(one, dict)]
        for addresses in dict.fromkeys(name for one in variants for name in one):
            yield addresses, {"variants": [one[addresses] for one in variants if addresses in one]}


def _inner(address: str, stages: Sequence[str]) -> list[Path]:
    """The paths of an address of a trial, without `init_args`: one for each stage that it means."""
    parts = address.strip().split(".")
    rest = parts[2:] if parts[0] == "stages" else parts
    path = tuple(part for part in rest if part != "init_args")
    if parts[0] != "stages":
        return [path]
    number = len(stages)
    meant = [name for i, name in enumerate(stages) if parts[1:2] and parts[1] in ("*", str(i), str(i - number), name)]
    return [(name, *path) for name in meant]


def _is_place(part: str) -> bool:
    return part == "*" or part.lstrip("-").isdigit()


def _without_places(path: Path, settings: Collection[dict[Path, object]]) -> set[Path]:
    """The paths that a path with places in lists means: each place is the class that a candidate has there, or left out
    where the list holds no classes."""
    place = next((i for i, part in enumerate(path) if _is_place(part)), None)
    if place is None:
        return {path}
    before, after = path[:place], path[place + 1 :]
    classes = {tuple(one[place] for one in own if len(one) == place + 1 and one[:place] == before) for own in settings}
    meant = {(*before, name, *after) for names in classes for name in _at(names, path[place])}
    return {known for one in meant or {before + after} for known in _without_places(one, settings)}


def _at(names: Sequence[str], part: str) -> Sequence[str]:
    """What stands at a place of a list: one, all for `*`, nothing beyond its ends."""
    if part == "*":
        return names
    place = int(part)
    return names[place:][:1] if -len(names) <= place else ()


def _left_out(path: Path, found: dict[Path, list[str]]) -> bool:
    """Whether a term of a list has an argument here and leaves it at its default there."""
    terms = found.get(path[:-1], [])
    return set(terms) == {canonical_json(path[-2])} and len(found[path]) < len(terms) if len(path) > 1 else False


def _collect(found: dict[Path, list[str]], path: Path, value) -> None:
    """Every value that a setting may take; a distribution counts as two."""
    if is_form(value):
        (kind,) = (name for name in value if name != "when")
        if kind in RANGES:
            found.setdefault(path, []).extend(map(canonical_json, value[kind]))
        for variant in value.get("variants", []):
            _collect(found, path, variant)
    elif isinstance(value, dict) and "ramp" in value:
        found.setdefault(path, []).append(canonical_json(value))
    elif isinstance(value, dict):
        if value.get("class_path") is not None:
            path = (*path[:-1], class_name(value)) if _is_place(path[-1]) else path
            found.setdefault(path, []).append(canonical_json(class_name(value)))
        inner = {name: item for name, item in value.items() if name not in ("class_path", "init_args")}
        for name, item in (inner | (value.get("init_args") or {})).items():
            _collect(found, (*path, *name.split(".")), item)
    elif isinstance(value, list) and value and all(isinstance(one, dict) and "class_path" in one for one in value):
        for name, one in zip(term_names(value), value):
            _collect(found, (*path, name), one)
    else:
        found.setdefault(path, []).append(canonical_json(value))
