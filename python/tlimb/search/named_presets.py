"""Ready parts of a space, by name."""

from pathlib import Path

from tlimb.config import Sweep
from tlimb.errors import Problem, nearest
from tlimb.files import read_json
from tlimb.search.grammar import matches
from tlimb.search_settings import Search

FOLDER = Path(__file__).parent / "presets"
LAST = "stages.-1"


def preset_names() -> list[str]:
    """The names of the ready parts of a space."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def with_presets(search: Search, last: str, problems: list[Problem]) -> tuple[dict, list[dict]]:
    """The space and the conditions of `unless`, the sweep's own and those of its presets.

    last: name of the last stage, which presets call ``stages.-1``. Where the sweep has a key of a preset its own holds.
    Unknown names, and a key of two presets, are added to `problems`. Of the conditions (`when`) of a preset's keys
    those count whose keys are in the space and have a value that fulfils them.
    """
    space, unless = dict(search.space), list(search.unless)
    origin: dict[str, str] = {}
    added: list[str] = []
    written = {key.replace(LAST, f"stages.{last}"): key for key in search.space}
    for i, name in enumerate(search.presets):
        if name not in preset_names():
            hint = nearest(name, preset_names())
            problems.append(Problem(f"search.presets[{i}]", f"no preset is called '{name}'", hint))
            continue
        preset = _renamed(read_json(FOLDER / f"{name}.json"), last, written)
        for key, variants in preset["space"].items():
            if key in origin:
                message = f"'{name}' and '{origin[key]}' both have the key {key!r}"
                problems.append(Problem(f"search.presets[{i}]", message, "set it in `space` yourself, or drop one"))
            origin[key] = name
            if key not in space:
                added.append(key)
                space[key] = variants
        unless += preset.get("unless", [])
    return space | {key: _conditioned(space[key], space) for key in added}, unless


def _conditioned(form, space: dict):
    """What a preset has for a key, without the conditions that can't be fulfilled in a space."""
    if not isinstance(form, dict) or "when" not in form:
        return form
    when = {key: wanted for key, wanted in form["when"].items() if _may_hold(space.get(key), wanted)}
    rest = {name: item for name, item in form.items() if name != "when"}
    return rest | {"when": when} if when else rest


def _may_hold(form, wanted) -> bool:
    options = form.get("variants") if isinstance(form, dict) else form
    return any(matches(option, wanted) for option in options or [])


def expanded(sweep: Sweep) -> Sweep:
    """The sweep with the keys of its presets written out in its own space."""
    space, unless = with_presets(sweep.search, sweep.stages[-1].name, [])
    search = sweep.search.model_copy(update={"space": space, "unless": unless, "presets": []})
    return sweep.model_copy(update={"search": search})


def _renamed(value, last: str, written: dict[str, str]):
    """A JSON value in which names of the last stage stand in keys of objects, as they are `written` in the space."""
    if isinstance(value, list):
        return [_renamed(item, last, written) for item in value]
    if not isinstance(value, dict):
        return value
    named = {key: key.replace(LAST, f"stages.{last}") for key in value}
    return {written.get(named[key], named[key]): _renamed(item, last, written) for key, item in value.items()}
