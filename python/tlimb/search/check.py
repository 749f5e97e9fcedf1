"""Sweep and samplesheet read and held against each other, so that everything wrong is told at once."""

from dataclasses import dataclass
from pathlib import Path

from tlimb.cohort import Cohort, read_cohort
from tlimb.config import Sweep, read_sweep
from tlimb.errors import InputError
from tlimb.search.space import grid
from tlimb.search.suggest import Proposal, all_fine, suggest


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, and what it will do if every scan passes preprocessing."""

    sweep: Sweep
    cohort: Cohort
    proposal: Proposal


def check_inputs(document, samplesheet: Path, trusted=()) -> Inputs:
    """The checked inputs. document: the sweep's JSON document.

    Raises InputError with every problem of the sweep, of the samplesheet, and, where both can be read, of the two together.
    """
    problems, sweep, cohort = [], None, None
    try:
        sweep = read_sweep(document)
    except InputError as error:
        problems += error.problems
    try:
        cohort = read_cohort(samplesheet, sweep.labels if sweep else {})
    except InputError as error:
        problems += error.problems
    if sweep and not cohort:
        problems += _space_problems(sweep, trusted)
    if problems:
        raise InputError(problems)
    recipes = all_fine(cohort.table, sweep.recipes)
    return Inputs(sweep, cohort, suggest(sweep, cohort.table, cohort.summary["labels"], recipes, trusted=trusted))


def _space_problems(sweep: Sweep, trusted) -> list:
    try:
        grid(sweep, trusted)
    except InputError as error:
        return error.problems
    return []
