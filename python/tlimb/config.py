"""What a user writes in a sweep, as typed models; errors carry the JSON path and the nearest valid name."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from tlimb.errors import InputError, Problem, nearest

PIPELINE_KEYS = frozenset(
    {"state_dir", "trials_per_task", "chunk_size", "max_failed_scans", "trusted_modules", "preset", "help"}
)
"""Parameters of the pipeline that may stand in a sweep file beside the sweep's own keys."""

NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")


def _plain(name: str) -> str:
    """A name that can stand in a path; raises ValueError for others."""
    if not NAME.match(name):
        raise ValueError("expected a name of a letter, then letters, digits, '_' or '-'")
    return name


class Settings(BaseModel):
    """Base of all models: unknown keys and wrong types are errors, never guesses."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _as_list(value):
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class ClassSpec(Settings):
    """A class by its short name or full import path, with the arguments the user sets."""

    class_path: str
    init_args: dict = {}


class Recipe(Settings):
    """Named preprocessing settings; spacing in mm, shape in voxels of the template's grid."""

    spacing: Annotated[float, Field(ge=0.5, le=8)] = 2.0
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    registration: Literal["affine", "similarity", "rigid", "none"] = "affine"
    bias_field: bool = False
    mask: Literal["template", "own", "none"] = "template"
    intensity: Literal["zscore"] = "zscore"


class Labelled(Settings):
    """The labelled scans of a stage: cohorts, an optional number of persons drawn from them, and what to do
    with a scan that lacks a needed label."""

    cohort: Names
    n: Count | None = None
    missing: Literal["error", "drop"] = "error"


class Data(Settings):
    """The data of a stage: who, preprocessed how, presented how."""

    labelled: Labelled
    recipe: str = "default"
    module: ClassSpec = ClassSpec(class_path="BaseDataModule")


class Objective(Settings):
    """One primary term (chosen by the kind of target where null) and any number of auxiliary ones."""

    primary: ClassSpec | None = None
    auxiliary: list[ClassSpec] = []


class EarlyStopping(Settings):
    """Stop after `patience` epochs without an improvement of the monitored value by more than `min_delta`."""

    patience: Count = 5
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class Split(Settings):
    """How persons are divided; `n` is the number of training persons kept after splitting."""

    scheme: Literal["holdout"] = "holdout"
    validation: Share = 0.2
    test: Share = 0.2
    stratify: list[str] = []
    seed: int = 0
    n: Count | None = None


class Stage(Settings):
    """One training: data, targets, objective, schedule."""

    name: str
    targets: Names
    epochs: Count
    data: Data
    batch_size: Count = 16
    strategy: Literal["scratch", "frozen", "full"] | None = None
    objective: Objective = Objective()
    optimizer: ClassSpec = ClassSpec(class_path="AdamW", init_args={"lr": 1e-3})
    scheduler: ClassSpec | None = None
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    early_stopping: EarlyStopping | None = None
    monitor: str = "validation_loss"
    split: Split | None = None
    disjoint: bool = False

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return _plain(name)


class External(Settings):
    """A cohort that is only ever tested on."""

    cohort: str


class Evaluate(Settings):
    """How test scores are computed: bootstrap resamples over persons, confidence of the intervals."""

    external: list[External] = []
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: int = 0


class Search(Settings):
    """What is tried: every combination of the variants in `space`, once for each seed."""

    method: Literal["grid"] = "grid"
    metric: str | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    space: dict[str, list] = {}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds are repeated; expected distinct whole numbers")
        return seeds


class Sweep(Settings):
    """The whole document: cohorts, preprocessing, the base trial and the space around it."""

    input: str
    outdir: str = "results"
    labels: dict[str, Literal["regression", "classification"]] = {}
    recipes: Annotated[dict[Annotated[str, AfterValidator(_plain)], Recipe], Field(min_length=1)] = {"default": Recipe()}
    architecture: ClassSpec = ClassSpec(class_path="ResNet")
    stages: Annotated[list[Stage], Field(min_length=1, max_length=4)]
    split: Split = Split()
    evaluate: Evaluate = Evaluate()
    search: Search = Search()

    @field_validator("stages")
    @classmethod
    def _unique(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names are repeated: {', '.join(names)}")
        return stages


class TrialBase(Settings):
    """The part of a sweep that a point of the search space fixes."""

    architecture: ClassSpec
    stages: list[Stage]
    split: Split


def parse(model: type[BaseModel], value, where: str = ""):
    """`value` checked against `model`; raises InputError with one problem for each thing that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError([_problem(model, where, item) for item in error.errors()]) from None


def read_sweep(document, where: str = "sweep") -> Sweep:
    """A sweep from its JSON document (a dict); pipeline parameters beside its keys are passed over."""
    if not isinstance(document, dict):
        raise InputError([Problem(where, f"expected a JSON object, found {type(document).__name__}")])
    return parse(Sweep, {key: value for key, value in document.items() if key not in PIPELINE_KEYS})


def json_path(loc) -> str:
    """('stages', 1, 'epochs') as ``stages[1].epochs``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the document"


def _problem(model, where: str, item: dict) -> Problem:
    loc = tuple(part for part in item["loc"] if not _is_type_tag(part))
    path = ": ".join(filter(None, [where, json_path(loc)]))
    kind, found = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return Problem(path, "unknown key", nearest(str(loc[-1]), _keys_at(model, loc[:-1])))
    if kind == "missing":
        return Problem(path, "missing; it is needed and has no default")
    if kind == "literal_error":
        expected = item["ctx"]["expected"]
        return Problem(path, f"expected {expected}, found {found!r}", nearest(str(found), re.findall(r"'([^']*)'", expected)))
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    shown = "" if len(str(found)) > 60 else f", found {found!r}"
    return Problem(path, message[0].lower() + message[1:] + shown)


def _is_type_tag(part) -> bool:
    return isinstance(part, str) and (part.startswith(("constrained-", "function-", "list[")))


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


def sweep_schema() -> dict:
    """The JSON Schema of a sweep, as it stands in assets/schemas/sweep.schema.json."""
    schema = Sweep.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tlimb sweep", **schema}
