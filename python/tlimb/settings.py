"""What the models of a sweep's parts have in common: no unknown keys, no guessed types, and types that they share."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")


def plain(name: str) -> str:
    """A name that can stand in a path; raises ValueError for others."""
    if not NAME.match(name):
        raise ValueError("expected a name of a letter, then letters, digits, '_' or '-'")
    return name


class Settings(BaseModel):
    """Base of all models: unknown keys and wrong types are errors, never guesses."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _as_list(value):
    return [value] if isinstance(value, str) else value


ONE_OR_SEVERAL = BeforeValidator(_as_list, json_schema_input_type=str | list[str])
Names = Annotated[list[str], ONE_OR_SEVERAL, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
