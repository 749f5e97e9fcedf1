"""Ready parts of a space, by name."""

from pathlib import Path

from tlimb.config import Sweep
from tlimb.errors import Problem, nearest
from tlimb.files import read_json
from tlimb.search_settings import Search

FOLDER = Path(__file__).parent / "presets"
LAST = "stages.-1"


def preset_names() -> list[str]:
    """The names of the ready parts of a space."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def with_presets(search: Search, last: str, problems: list[Problem]) -> tuple[dict, list[dict]]:
    """The space and the conditions of `unless`, the sweep's own and those of its presets.

    last: name of the last stage, which presets call ``stages.-1``. Where the sweep has a key of a preset its own holds.
    Unknown names, and a key of two presets, are added to `problems`.
    """
    space, unless = dict(search.space), list(search.unless)
    origin: dict[str, str] = {}
    for i, name in enumerate(search.presets):
        if name not in preset_names():
            hint = nearest(name, preset_names())
            problems.append(Problem(f"search.presets[{i}]", f"no preset is called '{name}'", hint))
            continue
        preset = _renamed(read_json(FOLDER / f"{name}.json"), last)
        for key, variants in preset["space"].items():
            if key in origin:
                message = f"'{name}' and '{origin[key]}' both have the key {key!r}"
                problems.append(Problem(f"search.presets[{i}]", message, "set it in `space` yourself, or drop one"))
            origin[key] = name
            space.setdefault(key, variants)
        unless += preset.get("unless", [])
    return space, unless


def expanded(sweep: Sweep) -> Sweep:
    """The sweep with the keys of its presets written out in its own space."""
    space, unless = with_presets(sweep.search, sweep.stages[-1].name, [])
    search = sweep.search.model_copy(update={"space": space, "unless": unless, "presets": []})
    return sweep.model_copy(update={"search": search})


def _renamed(value, last: str):
    """A JSON value in which names of the last stage stand in keys of objects."""
    if isinstance(value, list):
        return [_renamed(item, last) for item in value]
    if not isinstance(value, dict):
        return value
    return {key.replace(LAST, f"stages.{last}"): _renamed(item, last) for key, item in value.items()}
