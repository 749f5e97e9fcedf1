"""Features of training scans and of others without effects of their site, and how well a probe tells the site."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.evaluation.combat import LEAST, covariate_columns, fit_combat
from tlimb.evaluation.linear_probe import Labelled, Part, finite, measured, probed
from tlimb.search.scans import as_text


@dataclass(frozen=True)
class Harmonised:
    """Training scans and those shown after ComBat, None where it could not be fitted: `reason` says why.

    unharmonised: scans of both that stay as they are. site: balanced accuracy on scans shown of a linear probe that
    tells the site, {"before", "after", "chance"}.
    """

    unharmonised: int
    train: Labelled | None = None
    shown: Labelled | None = None
    site: dict[str, float | None] | None = None
    reason: str = ""


def harmonise(train: Part, shown: Part, target: Target, columns: dict, site: str, seed: int) -> Harmonised:
    """Features without effects of `site`: ComBat, as the probe of the site, is fitted on training scans alone.

    columns: label column -> {"kind"}, the site and the covariates whose effects are kept; the target is never one.
    Scans whose site has no two training scans, and those that lack a covariate or have a class of one that no training
    scan has, stay as they are.
    """
    kept = {name: facts["kind"] for name, facts in columns.items() if name not in (site, target.name)}
    texts = [site, *(name for name, kind in kept.items() if kind != "regression")]
    tables = [part.table.assign(**{name: as_text(part.table[name]) for name in texts}) for part in (train, shown)]
    own, known = _usable(tables, site, kept)
    left = sum(table.loc[~rows, "scan_id"].nunique() for table, rows in zip(tables, own))
    places = [table.loc[rows, site].to_numpy(str) for table, rows in zip(tables, own)]
    if len(set(places[0])) < 2:
        return Harmonised(left, reason=f"fewer than two values of '{site}' have {LEAST} training scans or more")
    covariates = [covariate_columns(table.loc[rows], known) for table, rows in zip(tables, own)]
    before = [train.labelled, shown.labelled]
    try:
        fitted = fit_combat(before[0].features[own[0]], places[0], covariates[0])
    except InputError as error:
        return Harmonised(left, reason="; ".join(map(str, error.problems)))
    after = []
    for labelled, rows, place, more in zip(before, own, places, covariates):
        features = labelled.features.copy()
        features[rows] = fitted.apply(features[rows], place, more)
        after.append(Labelled(features, labelled.truth, labelled.persons))
    told = {"before": _told(before, places, own, seed), "after": _told(after, places, own, seed)}
    chance = 1 / len(set(places[1])) if len(places[1]) else math.nan
    return Harmonised(left, *after, finite(told | {"chance": chance}))


def _usable(tables: Sequence[pd.DataFrame], site: str, kept: dict[str, str]) -> tuple[list[np.ndarray], dict]:
    """Of each table, which scans can be harmonised; {"kind", "classes"} of covariates, classes as training has them."""
    complete = [table[[site, *kept]].notna().all(axis=1).to_numpy() for table in tables]
    counts = tables[0].loc[complete[0]].drop_duplicates("scan_id")[site].value_counts()
    usable = counts.index[counts >= LEAST]
    own = [table[site].isin(usable).to_numpy() & rows for table, rows in zip(tables, complete)]
    known = {}
    for name, kind in kept.items():
        classes = [] if kind == "regression" else sorted(set(tables[0].loc[own[0], name]))
        known[name] = {"kind": kind, "classes": classes}
        if classes:
            own[1] &= tables[1][name].isin(classes).to_numpy()
    return own, known


def _told(parts: list[Labelled], places: list[np.ndarray], own: list[np.ndarray], seed: int) -> float:
    """Balanced accuracy on scans shown of a linear probe that tells the site from features of training scans."""
    names = sorted(set(places[0]))
    codes = [np.array([names.index(place) for place in part], dtype=float) for part in places]
    train = Labelled(parts[0].features[own[0]], codes[0], parts[0].persons[own[0]])
    shown = parts[1].features[own[1]]
    if not len(shown):
        return math.nan
    outputs = probed(train, shown, "classification", len(names), seed)
    return measured(outputs, codes[1], "classification")["balanced_accuracy"]
