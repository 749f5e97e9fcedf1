"""What harmonising frozen features over sites changes on test people: the key `harmonised` of explain.json.

A linear probe, ComBat and all their settings are fitted on training people, each scan as often as the split drew it;
labels of test people are used for the scores alone. Differences are paired: each resample of persons meets both.
"""

from collections.abc import Sequence

import pandas as pd

from tlimb.data.targets import Target
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.bootstrap import Bootstrap
from tlimb.evaluation.harmonised import harmonise
from tlimb.evaluation.linear_probe import METRICS, Labelled, Part, predicted, probed, says_nothing
from tlimb.evaluation.metrics import with_intervals
from tlimb.labels import ONE_CLASS
from tlimb.ranking.compare import Measure, paired_difference
from tlimb.search.scans import as_text
from tlimb.seeds import seed_for

FROZEN = ("frozen", "direct")
"""Strategies that leave the encoder as it was."""


def why_not(strategy: str, target: Target) -> str:
    """Why a model's features are not harmonised; empty where they are."""
    if strategy not in FROZEN:
        return f"training moved the encoder (strategy {strategy}); features of frozen encoders alone are harmonised"
    if target.kind not in METRICS:
        return f"'{target.name}' is of kind {target.kind}; a linear probe is for {', '.join(METRICS)}"
    return ""


def with_columns(rows: pd.DataFrame, cohort, columns: dict) -> pd.DataFrame:
    """Rows (scan_id) with label columns of cohort.parquet, classes as text. columns: name -> {"kind"}."""
    known = pd.read_parquet(cohort, columns=["scan_id", *columns]).set_index("scan_id").loc[rows["scan_id"]]
    texts = {name: as_text(known[name]) for name, facts in columns.items() if facts["kind"] in ONE_CLASS}
    known = known.assign(**texts)
    return rows.assign(**{name: known[name].to_numpy() for name in columns})


def left_out(reason: str, settings: Evaluate) -> dict:
    """The key where nothing is measured."""
    counts = {"train": 0, "test": 0, "persons": 0}
    about = {"status": "left out", "reason": reason, "column": settings.harmonise, "keeping": settings.keeping}
    return about | {"unharmonised": 0, "n": counts, "test": None, "site": None}


def on_test(train: Part, test: Part, target: Target, columns: dict, settings: Evaluate, metric: str) -> dict:
    """The key for training and test scans: a linear probe's metrics on test scans before and after ComBat.

    columns: as for `harmonise`. metric: what candidates are ranked by; those of a probe stand beside it.
    """
    counts = {"train": train.table["scan_id"].nunique(), "test": len(test.table)}
    about = left_out(says_nothing(train, test), settings)
    about |= {"n": counts | {"persons": len(set(test.labelled.persons))}}
    if about["reason"]:
        return about
    seed = seed_for(settings.seed, "probe")
    found = harmonise(train, test, target, columns, settings.harmonise, seed)
    about |= {"reason": found.reason, "unharmonised": found.unharmonised, "site": found.site}
    if found.train is None:
        return about
    sides = (train.labelled, test.labelled), (found.train, found.shown)
    tables = [_predictions(*side, test.table, target, seed) for side in sides]
    names = list(dict.fromkeys([metric, *METRICS[target.kind]]))
    return about | {"status": "ok", "test": _compared(tables, names, target.kind, settings)}


def _predictions(train: Labelled, test: Labelled, rows: pd.DataFrame, target: Target, seed: int) -> pd.DataFrame:
    """What a probe of the training scans says of test scans, as a prediction table."""
    outputs = probed(train, test.features, target.kind, len(target.classes), seed)
    prediction, shares = predicted(outputs, target.kind)
    table = pd.DataFrame({"scan_id": rows["scan_id"].to_numpy(), "person": test.persons, "truth": test.truth})
    probabilities = [None] * len(table) if shares is None else list(shares)
    return table.assign(prediction=prediction, probabilities=probabilities)


def _compared(tables: Sequence[pd.DataFrame], names: list[str], kind: str, settings: Evaluate) -> dict:
    """{"before", "after", "difference"}, each metric -> {"value", "low", "high"} or None where it can't be computed."""
    before, after = tables
    bootstrap = Bootstrap(settings.bootstrap, settings.confidence, settings.seed)
    found = {"before": with_intervals(names, before, kind, bootstrap)[0]}
    found |= {"after": with_intervals(names, after, kind, bootstrap)[0], "difference": {}}
    for name in names:
        measure = Measure(name, kind, settings.bootstrap, settings.confidence, settings.seed)
        row = paired_difference([(after, before)], measure)
        found["difference"][name] = row and {"value": row["difference"], "low": row["low"], "high": row["high"]}
    return found
