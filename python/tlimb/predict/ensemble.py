"""Trained models and what was fitted for them on validation: temperature, threshold, conformal sets and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.dropout import dropout_layers
from tlimb.evaluation.fitted import fit, read_fitted
from tlimb.evaluation.predict import Model, read_model
from tlimb.evaluation.together import together
from tlimb.labels import CLASSES
from tlimb.predict.models import Models

VALIDATION = "predictions-validation.parquet"


@dataclass(frozen=True)
class Member:
    """One model, its fitted.json (None where there is none) and its predictions of validation (None likewise)."""

    model: Model
    fitted: dict | None
    validation: pd.DataFrame | None


@dataclass(frozen=True)
class Ensemble:
    """Models that are averaged; a single one is an ensemble of one.

    fitted: target -> what fitted.json says of it, for the mean of the members. notes: what is missing, in words.
    """

    members: list[Member]
    fitted: dict[str, dict]
    notes: list[str]

    @property
    def targets(self) -> list[Target]:
        """The targets of the first member; kind and classes are those of all."""
        return self.members[0].model.targets

    @property
    def drops(self) -> bool:
        """Whether any network has dropout layers."""
        return any(dropout_layers(member.model.network) for member in self.members)


def read_ensemble(models: Models, coverage: float | None, trusted: Sequence[str] = ()) -> Ensemble:
    """The models with their weights, and what was fitted for them.

    fitted.json lies in a model's folder or where a run publishes it, `../../scores/<id>/`. What holds for the mean of
    several models, or for a `coverage` other than the fitted one, is fitted anew on the predictions of validation that
    lie beside it. Raises InputError for weights that do not fit, and for a `coverage` that cannot be had.
    """
    members = [_member(folder, facts, trusted) for folder, facts in zip(models.folders, models.facts)]
    own = members[0].fitted
    if len(members) == 1 and own and coverage in (None, *_coverages(own)):
        return Ensemble(members, own["targets"], [])
    wanted = coverage or max((level for one in members for level in _coverages(one.fitted)), default=None)
    validation, lacking = _mean_validation(members) if wanted else (None, "there is no fitted.json")
    if lacking and coverage is not None:
        raise InputError([Problem("--confidence", f"cannot be had: {lacking}")])
    if lacking:
        said = f"{lacking}: probabilities are as the network gives them, without sets and intervals"
        return Ensemble(members, {}, [said])
    found = fit(validation, members[0].model.targets, Evaluate(coverage=wanted))["targets"]
    return Ensemble(members, {name: facts | _threshold(members, name) for name, facts in found.items()}, [])


def _member(folder: Path, facts: dict, trusted) -> Member:
    scores = folder.resolve().parent.parent / "scores" / facts["id"]
    place = folder if (folder / "fitted.json").exists() else scores
    table = place / VALIDATION
    validation = pd.read_parquet(table) if table.exists() else None
    return Member(read_model(folder, trusted), read_fitted(place), validation)


def _coverages(fitted: dict | None) -> list[float]:
    targets = fitted["targets"].values() if fitted else ()
    return [facts["conformal"]["coverage"] for facts in targets if facts["conformal"]]


def _mean_validation(members: list[Member]) -> tuple[pd.DataFrame | None, str]:
    """The mean of the members' predictions of validation, and why there is none."""
    tables = [member.validation for member in members]
    if any(table is None for table in tables):
        return None, f"no {VALIDATION} beside the fitted.json of each model"
    first = tables[0]
    keys = ["target", "scan_id"]
    if any(not table[keys].equals(first[keys]) for table in tables):
        return None, "the models were validated on different scans"
    means = [_mean([table[table["target"] == of.name] for table in tables], of) for of in members[0].model.targets]
    return pd.concat(means, ignore_index=True), ""


def _mean(tables: list[pd.DataFrame], target: Target) -> pd.DataFrame:
    """The rows of one target with the mean of several models' predictions."""
    predictions, classes = np.stack([table["prediction"].to_numpy(float) for table in tables]), None
    if target.kind in CLASSES:
        classes = np.stack([np.stack(table["probabilities"]) for table in tables])
    prediction, probabilities, _ = together(target.kind, predictions, classes)
    given = [None] * len(predictions[0]) if probabilities is None else list(probabilities)
    return tables[0].assign(prediction=prediction, probabilities=pd.Series(given, tables[0].index, dtype=object))


def _threshold(members: list[Member], target: str) -> dict:
    """The threshold that all members share; none is fitted for their mean, since what it was to reach is not known."""
    found = {(member.fitted or {"targets": {}})["targets"].get(target, {}).get("threshold") for member in members}
    return {"threshold": found.pop() if len(found) == 1 else None}
