"""What harmonisation over sites changes: a linear probe on features before and after ComBat, and how well they tell the
site."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.evaluation.combat import LEAST, covariate_columns, fit_combat
from tlimb.evaluation.linear_probe import Labelled, cross_validated, finite, fit_probe, measured
from tlimb.search.scans import as_text


@dataclass(frozen=True)
class Part:
    """Scans of a role: their rows (labels, site, covariates) and, in the same order, features and truth."""

    table: pd.DataFrame
    labelled: Labelled


def harmonised(train: Part, validation: Part, target: Target, columns: dict, site: str, seed: int) -> dict:
    """The key `harmonised` of probe.json: validation scores of a linear probe on features without effects of `site`.

    columns: label column -> {"kind", "classes"}, the site and the covariates that are kept. ComBat and probe are fitted
    on training scans alone. Scans whose site has no two training scans, or that lack a covariate, stay as they are and
    are counted.
    """
    kept = {name: facts for name, facts in columns.items() if name not in (site, target.name)}
    parts = [Part(one.table.assign(**{site: as_text(one.table[site])}), one.labelled) for one in (train, validation)]
    own = _known(parts, [site, *kept], site)
    about = {"column": site, "validation": None, "site": None}
    about |= {"unharmonised": int(sum((~rows).sum() for rows in own)), "reason": ""}
    places = [part.table.loc[rows, site].to_numpy(str) for part, rows in zip(parts, own)]
    if len(set(places[0])) < 2:
        return about | {"reason": f"fewer than two values of '{site}' have {LEAST} training scans or more"}
    covariates = [covariate_columns(part.table.loc[rows], kept) for part, rows in zip(parts, own)]
    try:
        fitted = fit_combat(train.labelled.features[own[0]], places[0], covariates[0])
    except InputError as error:
        return about | {"reason": "; ".join(map(str, error.problems))}
    new = []
    for part, rows, place, more in zip(parts, own, places, covariates):
        features = part.labelled.features.copy()
        features[rows] = fitted.apply(features[rows], place, more)
        new.append(Labelled(features, part.labelled.truth, part.labelled.persons))
    told = {"before": _told([one.labelled for one in parts], places, own, seed), "after": _told(new, places, own, seed)}
    chance = 1 / len(set(places[1])) if len(places[1]) else math.nan
    return about | {"validation": _reached(new, target, seed), "site": finite(told | {"chance": chance})}


def _known(parts: list[Part], needed: list[str], site: str) -> list[np.ndarray]:
    """Of each part, which scans have all that is needed and a site with enough training scans."""
    complete = [part.table[needed].notna().all(axis=1).to_numpy() for part in parts]
    counts = parts[0].table.loc[complete[0]].drop_duplicates("scan_id")[site].value_counts()
    usable = counts.index[counts >= LEAST]
    return [part.table[site].isin(usable).to_numpy() & rows for part, rows in zip(parts, complete)]


def _reached(parts: list[Labelled], target: Target, seed: int) -> dict[str, float | None]:
    train, shown = parts
    _, penalty = cross_validated(train, target.kind, len(target.classes), seed)
    fitted = fit_probe(train.features, train.truth, target.kind, len(target.classes), penalty)
    return finite(measured(fitted(shown.features), shown.truth, target.kind))


def _told(parts: list[Labelled], places: list[np.ndarray], own: list[np.ndarray], seed: int) -> float:
    """Balanced accuracy on validation scans of a linear probe that tells the site from features of training scans."""
    names = sorted(set(places[0]))
    codes = [np.array([names.index(place) for place in part], dtype=float) for part in places]
    train = Labelled(parts[0].features[own[0]], codes[0], parts[0].persons[own[0]])
    shown = parts[1].features[own[1]]
    if not len(shown):
        return math.nan
    _, penalty = cross_validated(train, "classification", len(names), seed)
    outputs = fit_probe(train.features, train.truth, "classification", len(names), penalty)(shown)
    return measured(outputs, codes[1], "classification")["balanced_accuracy"]
