"""Models and scans -> the table of predictions."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tlimb.errors import InputError, Problem
from tlimb.files import read_json
from tlimb.predict.models import Models, parted, read_models
from tlimb.predict.prepare import prepared
from tlimb.predict.scans import Scan, find_scans


@dataclass(frozen=True)
class Options:
    """How to predict. modality: which scans to take, the models' own where empty. atlas: the file that stands for the
    recipe's. coverage: of sets and intervals, None for the fitted one. dropout: passes of each model with dropout on.
    device: `cpu` or `cuda`, None for a GPU where one answers. keep: folder for the prepared scans."""

    modality: tuple[str, ...] = ()
    atlas: Path | None = None
    coverage: float | None = None
    dropout: int = 0
    threads: int = 1
    device: str | None = None
    keep: Path | None = None
    trusted: tuple[str, ...] = ()


def asked(paths: Sequence[Path], options: Options) -> tuple[Models, list[Scan], list[str]]:
    """The models and scans that are named, checked without reading weights or voxels, and what was chosen in words.

    Raises InputError with every problem of both; of scans only where the models' kind of recipe is known.
    """
    folders, others, notes = parted(paths)
    problems = []
    try:
        models = read_models(folders, options.atlas)
    except InputError as error:
        models, problems = None, error.problems
    kind = models.recipe.kind if models else _kind(folders)
    try:
        modality = options.modality or tuple(models.modality if models else ())
        scans, passed_over = find_scans(others, kind, modality) if kind else ([], [])
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return models, scans, [*notes, *passed_over]


def _kind(folders: Sequence[Path]) -> str | None:
    """The kind of recipe of the first model that says one."""
    for folder in folders:
        try:
            return read_json(folder / "model.json")["recipe"]["kind"]
        except (InputError, KeyError, TypeError):
            continue
    return None


def predicted(models: Models, scans: Sequence[Scan], options: Options) -> tuple[pd.DataFrame, list[str]]:
    """The table of predictions, a row a scan and target, and what is missing in words.

    A scan that cannot be prepared keeps its rows with the reason. Raises InputError for weights or options that do not
    fit the models.
    """
    import torch

    from tlimb.predict.ensemble import read_ensemble
    from tlimb.scenarios.device import find_device, set_up_torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError([Problem("--device cuda", "no GPU answers", "leave it out, or take cpu")])
    set_up_torch(options.threads, training=False)
    device = torch.device(options.device) if options.device else find_device()
    ensemble = read_ensemble(models, options.coverage, options.trusted)
    notes = [*ensemble.notes, *(f"{name}: {text}" for name, of in ensemble.fitted.items() for text in of["notes"])]
    if options.dropout and not ensemble.drops:
        notes.append("--dropout: the network has no dropout layer, so there is no spread to tell")
    return _table(models, ensemble, scans, options, device), notes


def _table(models: Models, ensemble, scans: Sequence[Scan], options: Options, device) -> pd.DataFrame:
    """Part by part: scans are prepared, pass the networks, and are forgotten."""
    from tlimb.predict.predictions import predict_scans
    from tlimb.predict.table import ordered, table_of, warnings_of

    seen = {person for facts in models.facts for person in facts["persons"]}
    given = {"regions": models.facts[0].get("regions"), "atlas": options.atlas, "threads": options.threads}
    tables, start = [], 0
    for store, index in prepared(scans, models.recipe, keep=options.keep, **given):
        part, start = scans[start : start + len(index)], start + len(index)
        rows, found, familiar = _rows(part, index), [], None
        if len(rows):
            passes = {"passes": options.dropout, "trusted": options.trusted}
            found, familiar = predict_scans(ensemble, store, rows, device, **passes)
        warnings = warnings_of(part, index, familiar, seen, models.modality)
        tables.append(table_of(part, index, list(models.targets), found, familiar, ensemble.fitted, warnings))
        if len(part) < len(scans):
            print(f"{start} of {len(scans)} scans", file=sys.stderr)
    return ordered(pd.concat(tables, ignore_index=True))


def _rows(scans: Sequence[Scan], index: pd.DataFrame) -> pd.DataFrame:
    """The scans that were prepared, as datasets are told of them."""
    rows = pd.DataFrame({"scan_id": [scan.name for scan in scans], "person": [scan.person for scan in scans]})
    return rows[(index["status"] == "ok").to_numpy()].reset_index(drop=True)
