"""A JSON value checked against a model: every problem at once, with its JSON path and the nearest valid name."""

import re
from typing import get_args

from pydantic import BaseModel, ValidationError

from tlimb.errors import InputError, Problem, nearest


def parse(model: type[BaseModel], value, where: str = ""):
    """`value` checked against `model`; raises InputError with one problem for each thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError([_problem(model, where, item) for item in error.errors()]) from None


def json_path(loc) -> str:
    """('stages', 1, 'epochs') as ``stages[1].epochs``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the document"


def _problem(model, where: str, item: dict) -> Problem:
    loc = item["loc"]
    loc = tuple(part for place, part in enumerate(loc) if not (_is_type_tag(part) or _is_recipe_tag(loc, place)))
    path = ": ".join(filter(None, [where, json_path(loc)]))
    kind, found = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return Problem(path, "unknown key", nearest(str(loc[-1]), _keys_at(model, loc[:-1])))
    if kind == "missing":
        return Problem(path, "missing; it is needed and has no default")
    if kind == "union_tag_invalid":
        return Problem(f"{path}.kind", f"expected {item['ctx']['expected_tags']}, found '{item['ctx']['tag']}'")
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        valid = re.findall(r"'([^']*)'", expected)
        return Problem(path, f"expected {expected}, found {found!r}", nearest(str(found), valid))
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    shown = "" if len(str(found)) > 60 else f", found {found!r}"
    return Problem(path, message[0].lower() + message[1:] + shown)


def _is_type_tag(part) -> bool:
    return isinstance(part, str) and (part.startswith(("constrained-", "function-", "list[")))


def _is_recipe_tag(loc, place: int) -> bool:
    return place == 2 and loc[0] == "recipes" and loc[2] in ("volume", "series") and len(loc) > 2


def _keys_at(model, loc) -> list[str]:
    """The valid keys of the model that a path leads to; list indices and names of recipes lead no deeper."""
    for part in loc:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
