"""Checks of files against assets/schemas, for the tests of every writer and reader."""

import json
import re
from pathlib import Path

import jsonschema
import pandas as pd

SCHEMAS = Path(__file__).parents[2] / "assets" / "schemas"


def check_json(name: str, value) -> None:
    """Fail unless `value` is what the schema `name` (``model`` for model.schema.json) says."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(value)


def check_table(name: str, frame: pd.DataFrame) -> None:
    """Fail unless a table has the fields, types and constraints of the schema ``<name>.table.schema.json``."""
    schema = json.loads((SCHEMAS / f"{name}.table.schema.json").read_text())
    fields = schema["fields"]
    names = [field["name"] for field in fields]
    assert list(frame.columns[: len(names)]) == names, f"{name}: expected {names}, found {list(frame.columns)}"
    assert schema["additionalFields"] or len(frame.columns) == len(names), f"{name}: fields beyond {names}"
    for field in fields:
        _check_field(name, field, frame[field["name"]])


def _check_field(table: str, field: dict, column: pd.Series) -> None:
    where, constraints, present = f"{table}.{field['name']}", field.get("constraints", {}), column.dropna()
    if constraints.get("required"):
        assert len(present) == len(column), f"{where}: null values"
    if constraints.get("unique"):
        assert present.is_unique, f"{where}: repeated values"
    for value in present:
        _check_value(where, field["type"], constraints, value)


def _check_value(where: str, kind: str, constraints: dict, value) -> None:
    if kind == "string":
        assert isinstance(value, str), f"{where}: {value!r} is no text"
        assert re.search(constraints.get("pattern", ""), value), f"{where}: {value!r} does not match"
    elif kind == "array":
        assert len(value) > 0, f"{where}: empty list"
    else:
        assert float(value) == value and (kind == "number" or float(value).is_integer()), f"{where}: {value!r} is no {kind}"
        assert constraints.get("minimum", float("-inf")) <= value <= constraints.get("maximum", float("inf")), f"{where}: {value}"
    assert value in constraints.get("enum", [value]) if kind != "array" else True, f"{where}: {value!r} not allowed"
