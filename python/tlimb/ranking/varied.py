"""What the space of a search varies, as paths of settings: names say it even where one candidate alone has it."""

from collections.abc import Iterator, Sequence

from tlimb.files import canonical_json
from tlimb.registry import class_name
from tlimb.search.grammar import RANGES, is_form

Path = tuple[str, ...]


def varied_paths(space: dict, stages: Sequence[str]) -> set[Path]:
    """The settings that take more than one value in a space, such as ("finetune", "objective", "auxiliary", "L2SP",
    "alpha").

    space: `search.space` of a sweep, presets written out. stages: their names. Paths are those of `names.settings_of`.
    """
    found: dict[Path, list[str]] = {}
    for addresses, form in _forms(space):
        for path in (path for address in addresses.split(",") for path in _inner(address, stages)):
            _collect(found, path, form)
    return {path for path, values in found.items() if len(set(values)) > 1 or _left_out(path, found)}


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
    """The paths of an address of a trial, without `init_args` and places in lists: one for each stage that it means."""
    parts = address.strip().split(".")
    rest = parts[2:] if parts[0] == "stages" else parts
    path = tuple(part for part in rest if part not in ("init_args", "*") and not part.lstrip("-").isdigit())
    if parts[0] != "stages":
        return [path]
    number = len(stages)
    meant = [name for i, name in enumerate(stages) if parts[1:2] and parts[1] in ("*", str(i), str(i - number), name)]
    return [(name, *path) for name in meant]


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
            found.setdefault(path, []).append(canonical_json(class_name(value)))
        inner = {name: item for name, item in value.items() if name not in ("class_path", "init_args")}
        for name, item in (inner | (value.get("init_args") or {})).items():
            _collect(found, (*path, *name.split(".")), item)
    elif isinstance(value, list) and value and all(isinstance(one, dict) and "class_path" in one for one in value):
        for one in value:
            _collect(found, (*path, class_name(one)), one)
    else:
        found.setdefault(path, []).append(canonical_json(value))
