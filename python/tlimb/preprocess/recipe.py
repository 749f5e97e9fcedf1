"""The settings of preprocessing and the fingerprint of what they produce."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import digest, read_json
from tlimb.preprocess.template import template_digest

VERSION = 2  # raise it whenever the same scan and recipe give other numbers
KEYS = ("spacing", "shape", "registration", "bias_field", "mask", "intensity")


class Recipe(Protocol):
    """What preprocessing reads of a recipe, which is checked and given its defaults where sweeps are read.

    spacing: mm.  shape: voxels, None for the template's own.  registration: affine, similarity, rigid or none.
    bias_field: whether to correct it.  mask: template, own or none.  intensity: zscore.
    """

    spacing: float
    shape: Sequence[int] | None
    registration: str
    bias_field: bool
    mask: str
    intensity: str


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file that gives every setting; raises InputError for each key that is missing or unknown."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError([Problem(str(path), f"expected an object with {', '.join(KEYS)}")])
    problems = [Problem(f"{path}: {key}", "missing") for key in KEYS if key not in settings]
    problems += [Problem(f"{path}: {key}", "unknown key", nearest(key, KEYS)) for key in settings if key not in KEYS]
    if problems:
        raise InputError(problems)
    return SimpleNamespace(**settings)


def settings_of(recipe: Recipe) -> dict:
    """A recipe as a JSON object."""
    settings = {key: getattr(recipe, key) for key in KEYS}
    return settings | {"shape": None if recipe.shape is None else list(recipe.shape)}


def fingerprint(recipe: Recipe) -> str:
    """12 hexadecimal digits that name a way of preprocessing: recipe, template and version of this code."""
    settings = settings_of(recipe) | {"spacing": float(recipe.spacing)}
    return digest({"recipe": settings, "template": template_digest(), "version": VERSION})
