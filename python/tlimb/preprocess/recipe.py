"""The settings of preprocessing and the fingerprint of what they produce."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

from tlimb.errors import InputError, Problem, nearest
from tlimb.files import digest, read_json
from tlimb.preprocess.template import template_digest

VERSION = 3  # raise it whenever the same scan and recipe give other numbers
KEYS = {
    "volume": (
        "kind",
        "spacing",
        "shape",
        "orientation",
        "bias_field",
        "registration",
        "resampling",
        "mask",
        "intensity",
        "percentiles",
    ),
    "series": ("kind", "atlas", "timepoints", "tr", "detrend", "band_pass", "confounds", "standardise"),
}
"""The settings of a recipe by its kind."""


class Recipe(Protocol):
    """What preprocessing reads of a recipe of images, which is checked and given its defaults where sweeps are read.

    kind: volume.  spacing: mm.  shape: voxels, None for the template's own.  orientation: whether axes are turned to
    RAS.  bias_field: whether to correct it.  registration: affine, affine9, similarity, rigid or none.
    resampling: linear, bspline, nearest or none.  mask: template, own, learned or none.
    intensity: zscore, minmax, percentile or none.  percentiles: the lower and the upper one.
    """

    kind: str
    spacing: float
    shape: Sequence[int] | None
    orientation: bool
    bias_field: bool
    registration: str
    resampling: str
    mask: str
    intensity: str
    percentiles: Sequence[float]


def read_recipe(path: Path) -> Recipe:
    """The recipe, of images or of time series, in a JSON file that gives every setting.

    Raises InputError for each key that is missing or unknown.
    """
    settings = read_json(path)
    kinds = " or ".join(KEYS)
    if not isinstance(settings, dict):
        raise InputError([Problem(str(path), "expected an object with the settings of a recipe")])
    if settings.get("kind") not in KEYS:
        raise InputError([Problem(f"{path}: kind", f"expected {kinds}, found {settings.get('kind')!r}")])
    keys = KEYS[settings["kind"]]
    problems = [Problem(f"{path}: {key}", "missing") for key in keys if key not in settings]
    problems += [Problem(f"{path}: {key}", "unknown key", nearest(key, keys)) for key in settings if key not in keys]
    if problems:
        raise InputError(problems)
    return SimpleNamespace(**settings)


def settings_of(recipe: Recipe) -> dict:
    """A recipe, of images or of time series, as a JSON object."""
    settings = {key: getattr(recipe, key) for key in KEYS[recipe.kind]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def fingerprint(recipe: Recipe, atlas_digest: str = "") -> str:
    """12 hexadecimal digits that name a way of preprocessing: recipe, template or atlas, and version of this code.

    atlas_digest: of the atlas that a recipe of time series averages over, which stands for its path.
    """
    settings = settings_of(recipe)
    if recipe.kind == "series":
        return digest({"recipe": settings | {"atlas": ""}, "atlas": atlas_digest, "version": VERSION})
    settings |= {"spacing": float(recipe.spacing), "percentiles": [float(value) for value in recipe.percentiles]}
    facts = {"recipe": settings, "template": template_digest(), "version": VERSION}
    if recipe.mask == "learned":
        from tlimb.preprocess.mask import extractor_version

        facts["extractor"] = extractor_version()
    return digest(facts)
