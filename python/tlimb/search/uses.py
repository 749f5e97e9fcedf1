"""Which scans each recipe has to prepare: those that a stage of a trial, or an external cohort, may use with it."""

import pandas as pd

from tlimb.config import Sweep
from tlimb.errors import Problem
from tlimb.labels import some
from tlimb.modality import kind_of
from tlimb.search.scans import asked_of, second_of


def scans_by_recipe(sweep: Sweep, specs: list[dict], table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Recipe -> the rows of the cohort's table that it prepares; recipes that no stage uses are left out.

    Whole cohorts are taken, whatever number of persons a stage draws from them, so that changing that number prepares
    nothing anew. A recipe for images takes no time series and the other way round.
    """
    kinds = table["modality"].map(kind_of)
    wanted: dict[str, pd.Series] = {}
    for recipe, cohorts, modalities in _choices(sweep, specs):
        chosen = table["cohort"].isin(cohorts) & (kinds == sweep.recipes[recipe].kind)
        if modalities is not None:
            chosen &= table["modality"].isin(modalities)
        wanted[recipe] = wanted.get(recipe, False) | chosen
    return {name: table[wanted[name]] for name in sweep.recipes if name in wanted}


def _choices(sweep: Sweep, specs: list[dict]) -> set[tuple]:
    """(recipe, cohorts, modalities or None) of all stages, each once: folds and replicates choose the same scans."""
    external = [item.cohort for item in sweep.evaluate.external]
    choices = set()
    for spec in specs:
        for stage in spec["stages"]:
            data, asked, second = stage["data"], asked_of(stage["data"]), second_of(stage["data"])
            cohorts = [*asked["cohort"], *(external if stage is spec["stages"][-1] else [])]
            for wanted, modality in [(cohorts, asked["modality"]), *([_of(second[1])] if second else [])]:
                choices.add((data["recipe"], tuple(wanted), modality and tuple(modality)))
    return choices


def _of(asked: dict) -> tuple[list[str], list[str] | None]:
    return asked["cohort"], asked["modality"]


def file_problems(sweep: Sweep, scans: dict[str, pd.DataFrame]) -> list[Problem]:
    """Scans without the mask or the table of confounds that their recipe asks for. scans: as of `scans_by_recipe`."""
    problems = []
    for name, rows in scans.items():
        recipe = sweep.recipes[name]
        asked = recipe.kind == "volume" and recipe.mask == "own", recipe.kind == "series" and bool(recipe.confounds)
        for key in [key for key, wanted in zip(("mask", "confounds"), asked) if wanted]:
            lacking = rows.loc[rows[key].isna(), "scan_id"]
            if len(lacking):
                message = f"{len(lacking)} of {len(rows)} scans have none: {some(lacking)}"
                problems.append(Problem(f"recipes.{name}.{key}", message, f"fill the samplesheet's column '{key}'"))
    return problems
