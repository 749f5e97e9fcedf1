"""Selection on validation, then test scores of what was selected and nothing else."""

import statistics
from dataclasses import asdict, dataclass, field

import numpy as np

from tlimb.evaluation.metrics import DIRECTIONS
from tlimb.ranking.age_bias import age_biases
from tlimb.ranking.answer import answer
from tlimb.ranking.calibrations import calibrations, coverages
from tlimb.ranking.cautions import cautions, no_interval
from tlimb.ranking.compare import Measure, mean_with_interval, persons_of
from tlimb.ranking.comparisons import compare_on_test
from tlimb.ranking.ensembles import ensembles
from tlimb.ranking.failures import failures
from tlimb.ranking.friedman import LEAST, friedman_of
from tlimb.ranking.gap import gap_of
from tlimb.ranking.groups import group_scores
from tlimb.ranking.harmonised import harmonised
from tlimb.ranking.learning_curves import learning_curves
from tlimb.ranking.nested import nested_estimate
from tlimb.ranking.oracle import oracle_choice
from tlimb.ranking.pareto import cost, mark_pareto
from tlimb.ranking.results import Results, key_of
from tlimb.ranking.selection import ranked_candidates, ranked_measure, select, tied
from tlimb.ranking.told_apart import compare_on_validation
from tlimb.ranking.transferability import transferability
from tlimb.scores import value_of

COLUMNS = (
    "rank, candidate, name, strategy, architecture, trials, failed, metric, validation_mean, validation_sd, "
    "validation_low, validation_high, selected, test_mean, test_low, test_high, parameters, trainable, seconds, "
    "pretraining_seconds, budget, epochs, interval, told_apart, p, pareto"
).split(", ")


@dataclass(frozen=True)
class Ranking:
    """ranking.json as an object: candidates (best on validation first), comparisons, failures and the answer.

    ties: candidates with the very score of the best. indistinguishable: those that can't be told apart from it on
    validation. cautions: sentences that follow the answer. gap: of the best, between validation and test. nested: the
    estimate with the selection repeated in each outer fold, null in other schemes. oracle: what a choice on labels of
    the target domain would give, null where nothing is adapted. friedman: the selected over test and external cohorts.
    notes: what a reader of the figures must know. Shapes stand at the top of the modules that make them.
    """

    metric: str
    direction: str
    target: str
    answer: str
    best: str | None
    candidates: list[dict]
    comparisons: list[dict]
    failures: dict[str, list[dict]]
    nested: dict | None = None
    oracle: dict | None = None
    cautions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    indistinguishable: dict | None = None
    gap: dict | None = None
    friedman: dict | None = None
    cost: dict | None = None
    groups: list[dict] = field(default_factory=list)
    calibration: list[dict] = field(default_factory=list)
    conformal: list[dict] = field(default_factory=list)
    age_bias: list[dict] = field(default_factory=list)
    ensembles: list[dict] = field(default_factory=list)
    transferability: dict | None = None
    harmonised: list[dict] = field(default_factory=list)
    learning_curves: dict | None = None

    def document(self) -> dict:
        """The content of ranking.json."""
        return asdict(self)

    def rows(self) -> list[dict]:
        """The rows of ranking.csv: a candidate each, without its spec, its trials one number."""
        return [
            {name: len(row["trials"]) if name == "trials" else row[name] for name in COLUMNS} for row in self.candidates
        ]

    def selected(self) -> list[dict]:
        """The candidates whose test scores were read, the best first."""
        return [row for row in self.candidates if row["selected"]]


def rank(results: Results) -> Ranking:
    """Rank the candidates of a finished search.

    Candidates are ordered as `ranked_candidates` says, by validation. Test scores are read for the best and for the
    first of every other strategy only. Raises InputError for a metric that the target can't have, or files that are
    missing.
    """
    target, measure = ranked_measure(results)
    candidates = ranked_candidates(results, target, measure)
    selected = select(candidates)
    alike = compare_on_validation(results, candidates, target, measure)
    mark_pareto(results, candidates, DIRECTIONS[measure.metric])
    test = {row["candidate"]: results.tables(row["trials"], "test", target) for row in selected}
    for row in selected:
        _add_test_scores(results, row, test[row["candidate"]], target, measure)
    return Ranking(
        metric=measure.metric,
        direction=DIRECTIONS[measure.metric],
        target=target,
        best=selected[0]["candidate"] if selected else None,
        candidates=candidates,
        indistinguishable=alike,
        failures=failures(results, candidates),
        cost=cost(results),
        **_told(results, candidates, selected, alike, test, target, measure),
        **_of_the_selected(results, candidates, selected, target, measure),
    )


def _told(
    results: Results, candidates: list, selected: list, alike: dict | None, test: dict, target: str, measure: Measure
) -> dict:
    """The answer with what it rests on: comparisons, ties, the gap to validation, the nested estimate, cautions."""
    direction = DIRECTIONS[measure.metric]
    found = {
        "comparisons": compare_on_test(results, selected, test, measure),
        "nested": nested_estimate(results, candidates, target, measure),
        "gap": gap_of(selected[0], direction) if selected else None,
    }
    ties = [row["candidate"] for row in tied(candidates, direction)]
    said, notes = cautions(results, candidates, test, found, target, measure)
    tables = list(test[selected[0]["candidate"]].values()) if selected else []
    facts = {"alike": alike, "ties": ties, "lacking": no_interval(tables, measure)}
    text = answer(candidates, found["comparisons"], measure, target, len(persons_of(tables)), **facts)
    return found | {"answer": text, "ties": ties, "cautions": said, "notes": notes}


def _of_the_selected(results: Results, candidates: list, selected: list, target: str, measure: Measure) -> dict:
    """What else is told of the selected candidates, and learning curves, which select for themselves."""
    return {
        "oracle": oracle_choice(results, candidates, target, measure),
        "friedman": _over_datasets(results, selected, target, measure),
        "groups": group_scores(results, selected, target, measure),
        "calibration": calibrations(results, selected, target, measure),
        "conformal": coverages(results, selected, target, measure),
        "age_bias": age_biases(results, selected, target, measure),
        "ensembles": ensembles(results, selected, target, measure),
        "transferability": transferability(results, selected, target, measure),
        "harmonised": harmonised(results, selected),
        "learning_curves": learning_curves(results, candidates, target, measure),
    }


def _add_test_scores(results: Results, row: dict, tables: dict, target: str, measure: Measure) -> None:
    for trial in row["trials"]:
        if key_of(trial) in tables:
            trial["test"] = value_of(results.scores(trial["id"], "test"), target, measure.metric)
    interval = mean_with_interval(list(tables.values()), measure)
    row["test_mean"], row["test_low"], row["test_high"] = interval["mean"], interval["low"], interval["high"]


def _over_datasets(results: Results, selected: list[dict], target: str, measure: Measure) -> dict | None:
    """Friedman's test of the selected over the test set and every external cohort that all of them have scores on."""
    rows = {}
    for name in ["test", *results.external_sets()]:
        values = [_mean_on(results, row, name, target, measure.metric) for row in selected]
        if None not in values:
            rows[name] = values
    if min(len(rows), len(selected)) < LEAST:
        return None
    candidates = [(row["candidate"], row["name"]) for row in selected]
    table = np.array(list(rows.values()), float)
    return friedman_of(candidates, list(rows), table, DIRECTIONS[measure.metric], 1 - measure.confidence)


def _mean_on(results: Results, row: dict, name: str, target: str, metric: str) -> float | None:
    finished = [one["id"] for one in row["trials"] if one["status"] == "ok"]
    values = [value_of(results.scores(trial, name), target, metric) for trial in finished]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
