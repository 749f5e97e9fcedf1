"""Short names of points."""

from tlimb.files import canonical_json
from tlimb.ranking.names import value_text
from tlimb.ranking.varied import term_names
from tlimb.registry import class_name


def point_names(points: list[dict]) -> list[str]:
    """A name for each point that says what sets it apart: `lr 0.001, ResNet depth 18`.

    points: address -> value, as in study.json; what stands within a variant is told with it.
    """
    flat = [_flat(point) for point in points]
    keys = dict.fromkeys(key for one in flat for key in one)
    told = [key for key in keys if len({canonical_json(one.get(key)) for one in flat}) > 1]
    return [_name(one, [key for key in told if key in one]) or "the one candidate" for one in flat]


def _name(one: dict[tuple, object], told: list[tuple]) -> str:
    """A class is not named beside arguments of its own, which are told with its name."""
    inner = {key[:-1] for key in told}
    return ", ".join(_part(key, one[key]) for key in told if (*key, str(one[key])) not in inner)


def _flat(point: dict) -> dict[tuple, object]:
    found: dict[tuple, object] = {}
    for address, value in point.items():
        if "[" not in address:
            _collect(found, tuple(address.split(",")[0].strip().split(".")), value)
    return found


def _collect(found: dict, path: tuple, value) -> None:
    if isinstance(value, dict) and value.get("class_path"):
        found[path] = class_name(value)
        rest = {name: item for name, item in value.items() if name not in ("class_path", "init_args")}
        _collect(found, (*path, class_name(value)), rest | value.get("init_args", {}))
    elif isinstance(value, dict):
        for name, item in value.items():
            _collect(found, (*path, *name.split(".")), item)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "class_path" in item for item in value):
        for name, item in zip(term_names(value), value):
            _collect(found, path, item | {"class_path": name})
    else:
        found[path] = value


def _part(path: tuple, value) -> str:
    silent = ("strategy", "architecture", "class_path")
    if path[-1] in silent or (isinstance(value, str) and value[:1].isupper()):
        return str(value)
    if path[-1] in ("auxiliary", "augment", "callbacks") and not value:
        return f"no {path[-1]}"
    words = path[-2:] if path[-2:-1] and path[-2][:1].isupper() else path[-1:]
    text = f"{value:.3g}" if isinstance(value, float) else value_text(value)
    return " ".join([*words, text]).replace("_", " ")
