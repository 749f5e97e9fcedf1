"""What a reader must know of the figures: sentences that follow the answer, and notes."""

import numpy as np
import pandas as pd

from tlimb.evaluation.metrics import WITHOUT_INTERVAL
from tlimb.ranking.answer import WORDS, decimals, number_text, range_text
from tlimb.ranking.compare import Measure, persons_of
from tlimb.ranking.comparisons import other_sizes
from tlimb.ranking.gap import optimism
from tlimb.ranking.results import Results, key_of
from tlimb.ranking.starts import published_notes
from tlimb.ranking.training_chance import trainings

Tables = dict[tuple, pd.DataFrame]


def cautions(
    results: Results,
    candidates: list[dict],
    test: dict[str, Tables],
    found: dict,
    target: str,
    measure: Measure,
) -> tuple[list[str], list[str]]:
    """The keys `cautions` and `notes` of ranking.json.

    candidates: rows of ranking.json. test: selected candidate -> its test tables by key. found: `nested`, `gap` and
    `comparisons` of ranking.json.
    """
    best, nested = candidates[0], found["nested"]
    tested = persons_of(test.get(best["candidate"], {}).values())
    chosen_on = persons_of(results.tables(best["trials"], "validation", target).values())
    said, notes = _reused(candidates, nested, len(tested), len(np.intersect1d(tested, chosen_on)))
    told, lacking = _nested(nested, measure)
    names = {row["candidate"]: row["name"] for row in candidates}
    notes += lacking + _constant({names[key]: tables for key, tables in test.items()})
    notes += _of_other_sizes(candidates, found["comparisons"]) + _of_the_search(results, candidates)
    said = [*optimism(found["gap"], candidates, measure), *said, *told]
    return said, notes + published_notes([*results.models.values(), *results.encoders.values()])


def _reused(candidates: list[dict], nested: dict | None, tested: int, reused: int) -> tuple[list[str], list[str]]:
    """Where folds share their people: `reused` of the `tested` persons took part in the choice."""
    compared = sum(row["validation_mean"] is not None for row in candidates)
    if not reused or compared < 2 or candidates[0]["test_mean"] is None:
        return [], []
    way_out = "the nested estimate repeats the choice inside each outer fold and is the figure to report"
    if nested is None:
        way_out = "the split scheme 'nested' repeats the choice inside each outer fold"
    note = (
        f"{reused} of {tested} test persons are validation persons in other folds, where the best of {compared} "
        f"candidates was chosen: its test figure is optimistic, the more so the more were compared; {way_out}."
    )
    return ["Its test persons also took part in the choice, in other folds, so its test figure is optimistic."], [note]


def _nested(nested: dict | None, measure: Measure) -> tuple[list[str], list[str]]:
    said, notes = [], []
    if nested is not None and nested["value"] is not None:
        digits = decimals(nested["low"], nested["high"])
        said.append(
            f"Choosing anew inside each of {len(nested['folds'])} outer folds gives {WORDS[measure.metric]} "
            f"{number_text(nested['value'], digits)} ({measure.confidence * 100:g}% interval "
            f"{range_text(nested, '', digits)})."
        )
    lacking = sum(one["test"] is None for one in nested["folds"]) if nested else 0
    if lacking:
        some = f"{lacking} of {len(nested['folds'])} outer folds have no test score"
        notes.append(f"{some} and are left out of the nested estimate.")
    return said, notes


def _constant(test: dict[str, Tables]) -> list[str]:
    """Models that say one thing of everybody. test: name of a candidate -> its test tables."""
    notes = []
    for name, tables in test.items():
        constant = sum(len(table) > 1 and _says_one_thing(table) for table in tables.values())
        if constant:
            notes.append(
                f"{name}: {constant} of {len(tables)} models say the same of every person tested, as a model does that "
                "has learned nothing; their scores have no interval."
            )
    return notes


def no_interval(tables: list[pd.DataFrame], measure: Measure) -> str:
    """Why the mean score on these prediction tables has no interval."""
    if measure.metric in WITHOUT_INTERVAL:
        return f"samples of the persons do not tell how sure a {WORDS[measure.metric]} is"
    if _constant_for(measure.metric, tables):
        return "its predictions are the same for everybody"
    if len(persons_of(tables)) == 1:
        return "there is only one person"
    return "samples of these persons give one value only, or mostly none"


def _constant_for(metric: str, tables: list[pd.DataFrame]) -> bool:
    """Does each of these models predict the same for everybody, as far as the metric looks?"""
    if metric.endswith(("auroc", "auprc")):
        return all(_says_one_thing(table) for table in tables)
    return all(table["prediction"].nunique() == 1 for table in tables)


def _of_other_sizes(candidates: list[dict], comparisons: list[dict]) -> list[str]:
    """Where a test over splits is left out since one side learnt from more people than the other."""
    rows = {row["candidate"]: row for row in candidates}
    names = [rows[one["b"]]["name"] for one in comparisons if other_sizes(rows[one["a"]], rows[one["b"]])]
    if not names or len({(trial["repeat"], trial["fold"]) for trial in candidates[0]["trials"]}) < 2:
        return []
    return [
        f"The best is not compared with {'; '.join(names)} by the corrected resampled t-test: they were trained on "
        "other numbers of people, and what that test knows of splits holds for one size of training set."
    ]


def _says_one_thing(table: pd.DataFrame) -> bool:
    if table["prediction"].nunique(dropna=False) > 1:
        return False
    known = table["probabilities"].dropna()
    return len({tuple(row) for row in known}) <= 1


def _of_the_search(results: Results, candidates: list[dict]) -> list[str]:
    notes = []
    if results.repeated:
        lines = f"{results.repeated} lines of trials.jsonl"
        notes.append(f"{lines} repeat a trial of their own round; each trial counts once.")
    finished = [key_of(one) for row in candidates for one in row["trials"] if one["status"] == "ok"]
    count = len(set(trainings(finished)))
    if len({key[0] for key in finished}) == 1:
        of = "people" if count == 1 else "people and other training samples"
        notes.append(
            "Every trial that finished has one seed: how much of a difference is the luck of a start is not known, and "
            f"intervals speak of other {of} only."
        )
    if count == 2:
        notes.append(
            "Two trainings tell little of how much training anew would change a difference: of equally good candidates "
            "too many are told apart. Three seeds, or training samples, are enough."
        )
    dropped = sum(row["budget"] < row["epochs"] for row in candidates)
    if dropped:
        notes.append(
            f"{dropped} of {len(candidates)} candidates were trained for fewer epochs than asked for, as halving does; "
            "they stand after those that were trained in full, whatever their score."
        )
    return notes
