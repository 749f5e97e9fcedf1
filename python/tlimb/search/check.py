"""Sweep and cohorts read and held against each other, so that everything wrong is told at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from tlimb.cohort import Cohort, read_cohort
from tlimb.config import Sweep, read_sweep
from tlimb.errors import InputError
from tlimb.search.about import about_of
from tlimb.search.named_files import content_digest
from tlimb.search.named_presets import expanded
from tlimb.search.planner import Planner
from tlimb.search.preprocessed import all_fine
from tlimb.search.published import weights_problems
from tlimb.search.scans import with_cohort
from tlimb.search.space import Candidates, grid
from tlimb.search.study import Study
from tlimb.search.suggest import Proposal, suggest
from tlimb.search.uses import file_problems, scans_by_recipe


@dataclass(frozen=True)
class Files:
    """Where the cohorts are described: a samplesheet or BIDS folder, tables of more labels, a file of splits.

    weights: files of weights and maps by their path as the sweep writes it: where each lies now, and where it lay.
    """

    samplesheet: Path
    label_tables: Sequence[Path] = ()
    split_file: Path | None = None
    weights: dict[str, tuple[Path, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """What a run starts from, and what it will do if every scan passes preprocessing.

    sweep: with the recipes that are used, and presets written out. scans: recipe -> the rows of the cohort's table that
    it prepares.
    """

    sweep: Sweep
    cohort: Cohort
    proposal: Proposal
    scans: dict[str, pd.DataFrame]


def check_inputs(document, files: Files, trusted=(), earlier: Study | None = None) -> Inputs:
    """The checked inputs. document: the sweep's JSON document. earlier: the study of a search that it extends, taken
    to be of the same people.

    Raises InputError with every problem of the sweep, of the cohorts, and, where both can be read, of the two together.
    """
    problems, sweep, cohort = [], None, None
    try:
        sweep = read_sweep(document)
    except InputError as error:
        problems += error.problems
    try:
        cohort = read_cohort(files.samplesheet, sweep.labels if sweep else {}, files.label_tables, files.split_file)
    except InputError as error:
        problems += error.problems
    if sweep and not cohort:
        problems += _space_problems(sweep, trusted)
    if problems:
        raise InputError(problems)
    named = {name: {"digest": content_digest(path), "file": file} for name, (path, file) in files.weights.items()}
    summary, recipes = cohort.summary | {"files": named}, all_fine(cohort.table, sweep.recipes)
    known = {"split_file": summary["split_file"], "files": named}
    if earlier is not None:
        labels = with_cohort(summary["labels"], cohort.table)
        planner = Planner(sweep, cohort.table, labels, recipes, known["split_file"])
        earlier = _of_these_people(earlier, sweep, planner, trusted, named)
    proposal = suggest(sweep, cohort.table, summary["labels"], recipes, trusted=trusted, earlier=earlier, **known)
    scans = scans_by_recipe(sweep, proposal.specs, cohort.table)
    problems = file_problems(sweep, scans) + weights_problems(proposal, sweep, files.weights)
    if problems:
        raise InputError(problems)
    unused = [f"recipe '{name}' is used by no stage" for name in sweep.recipes if name not in scans]
    told = replace(cohort, summary=summary | {"warnings": summary["warnings"] + unused})
    used = sweep.model_copy(update={"recipes": {name: sweep.recipes[name] for name in scans}})
    return Inputs(expanded(used), told, proposal, scans)


def _of_these_people(earlier: Study, sweep: Sweep, planner: Planner, trusted, files: dict) -> Study:
    """The study as one of the people, scans and labels that are there now: before scans are prepared nothing tells
    whether they are the same."""
    try:
        people = about_of(Candidates(sweep, trusted, files), planner)["people"]
    except InputError:  # told with all that is wrong
        return earlier
    return earlier.model_copy(update={"about": earlier.about | {"people": people}})


def _space_problems(sweep: Sweep, trusted) -> list:
    try:
        grid(sweep, trusted) if sweep.search.method == "grid" else Candidates(sweep, trusted)
    except InputError as error:
        return error.problems
    return []
