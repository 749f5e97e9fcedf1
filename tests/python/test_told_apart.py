"""The candidates that can't be told apart from the best on validation, and intervals of many candidates."""

import shutil

import numpy as np
import pandas as pd
import pytest
from results_tree import write_results_tree

from tlimb.evaluation.bootstrap import interval
from tlimb.files import read_json
from tlimb.ranking import told_apart
from tlimb.ranking.compare import Measure, bootstrap_means, mean_with_interval, paired_difference
from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results
from tlimb.ranking.told_apart import model_confidence_set


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_results_tree(tmp_path_factory.mktemp("tree"), seeds=2, persons=90)


def errors(rng, n, shifts, shared=0.7):
    """Bootstrap of mean errors of n persons: losses (k,), drawn (400, k)."""
    common = rng.normal(size=(n, 1))
    each = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(n, len(shifts))) + np.array(shifts)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=400) / n
    return each.mean(axis=0), weights @ each


def plain_confidence_set(losses, drawn):
    """The same procedure with loops, candidate by candidate."""
    left, p, highest = list(range(len(losses))), {}, 0.0
    while len(left) > 1:
        t, e = {}, {}
        for i in left:
            d = losses[i] - np.mean([losses[j] for j in left])
            d_drawn = drawn[:, i] - np.mean([drawn[:, j] for j in left], axis=0)
            e[i] = (d_drawn - d_drawn.mean()) / d_drawn.std()
            t[i] = d / d_drawn.std()
        worst = max(left, key=lambda i: t[i])
        beyond = sum(max(e[i][b] for i in left) >= t[worst] for b in range(len(drawn)))
        highest = max(highest, (beyond + 1) / (len(drawn) + 1))
        p[worst] = highest
        left.remove(worst)
    return [p.get(i, 1.0) for i in range(len(losses))]


def test_the_confidence_set_is_that_of_the_procedure_step_by_step():
    losses, drawn = errors(np.random.default_rng(0), 80, [0, 0.05, 0.1, 0.4, 0.2, 0])
    np.testing.assert_allclose(model_confidence_set(losses, drawn), plain_confidence_set(losses, drawn))


def test_a_candidate_that_is_clearly_worse_is_told_apart_and_an_equal_one_is_not():
    losses, drawn = errors(np.random.default_rng(1), 200, [0, 0, 1.0, 2.0])
    p = model_confidence_set(losses, drawn)
    assert (p[:2] > 0.05).all() and (p[2:] < 0.05).all() and p.max() == 1


def test_the_same_predictions_twice_are_never_told_apart():
    losses, drawn = errors(np.random.default_rng(2), 50, [0.0])
    twice = model_confidence_set(np.repeat(losses, 3), np.repeat(drawn, 3, axis=1))
    assert twice.tolist() == [1.0, 1.0, 1.0]


def test_the_order_of_candidates_and_lost_resamples_change_nothing():
    losses, drawn = errors(np.random.default_rng(3), 60, [0, 0.1, 0.2, 0.3, 0.6])
    order = np.random.default_rng(4).permutation(5)
    expected = model_confidence_set(losses, drawn)
    np.testing.assert_allclose(model_confidence_set(losses[order], drawn[:, order]), expected[order])
    holes = np.vstack([drawn, np.full((30, 5), np.nan)])
    np.testing.assert_allclose(model_confidence_set(losses, holes), expected)


def test_one_bootstrap_of_many_candidates_gives_the_intervals_of_each_alone():
    rng = np.random.default_rng(5)
    measure = Measure("mae", "regression", 200, 0.9, 3)
    facts = {"scan_id": [f"s{i}" for i in range(40)], "person": [f"p{i % 30}" for i in range(40)], "truth": 0.0}
    groups = [[pd.DataFrame(facts | {"prediction": rng.normal(size=40)}) for _ in range(size)] for size in (1, 3, 2)]
    values, drawn, persons = bootstrap_means(groups, measure)
    assert persons == 30
    for group, value, column in zip(groups, values, drawn.T):
        alone = mean_with_interval(group, measure)
        assert value == alone["mean"]
        assert interval(column, 0.9, 30) == (alone["low"], alone["high"])
    pair = paired_difference(list(zip(groups[1][:2], groups[2])), measure)
    one, two = bootstrap_means([groups[1][:2], groups[2]], measure)[1].T
    assert interval(one - two, 0.9, 30) == pytest.approx((pair["low"], pair["high"]))


def test_the_answer_names_how_many_cannot_be_told_apart_and_the_rows_say_which(tree):
    ranking = rank(read_results(**tree))
    assert any(note.startswith("Two trainings tell little") for note in ranking.notes)
    alike = [row["candidate"] for row in ranking.candidates if row["told_apart"] is False]
    assert ranking.indistinguishable["candidates"] == alike
    complete = [row for row in ranking.candidates if not row["failed"]]
    assert ranking.indistinguishable["compared"] == len(complete)
    assert ranking.candidates[0]["told_apart"] is None and ranking.candidates[0]["p"] is None
    for row in ranking.candidates[1:]:
        assert (row["p"] is None) == (row["failed"] > 0) and row["told_apart"] == (row["p"] and row["p"] < 0.05)
    assert all(row["interval"] == ("joint" if row["validation_mean"] else "") for row in ranking.candidates)
    assert 0 < len(alike) < len(complete) - 1
    number = f"{len(alike)} of the next {len(complete) - 1} can't be told apart from it there"
    assert number in ranking.answer


def test_beyond_the_first_an_interval_is_the_mean_of_those_that_evaluate_wrote(tree, monkeypatch):
    monkeypatch.setattr(told_apart, "MOST", 2)
    ranking = rank(read_results(**tree))
    rows = [row for row in ranking.candidates if row["interval"] == "trials"]
    assert rows and not any(row["selected"] for row in rows) and all(row["rank"] > 2 for row in rows)
    for row in rows:
        lows = [
            read_json(tree["scores"] / one["id"] / "scores-validation.json")["targets"]["diagnosis"]["metrics"][
                "balanced_accuracy"
            ]["low"]
            for one in row["trials"]
            if one["status"] == "ok"
        ]
        assert row["validation_low"] == pytest.approx(np.mean(lows)) and row["told_apart"] is None
    joint = {row["candidate"]: row for row in rank(read_results(**tree)).candidates[:2]}
    assert ranking.indistinguishable["compared"] == 2
    assert joint.keys() == {row["candidate"] for row in ranking.candidates[:2]}


def test_validation_persons_of_one_class_leave_nothing_to_compare(tree, tmp_path):
    shutil.copytree(tree["search"].parent, tmp_path / "tree")
    copy = {name: tmp_path / "tree" / path.name for name, path in tree.items()}
    for path in copy["scores"].glob("*/predictions-validation.parquet"):
        pd.read_parquet(path).assign(truth=1.0, truth_label="patient").to_parquet(path)
    ranking = rank(read_results(**copy))
    assert ranking.indistinguishable["candidates"] == [] and "give no value" in ranking.indistinguishable["reason"]
    assert all(row["validation_low"] is None for row in ranking.candidates)


def test_a_difference_that_no_resample_changes_is_told_apart():
    """A faultless candidate, and two that say the same of everybody: 1 and 0.5 in every resample."""
    losses = np.array([0.0, 0.5, 0.5])
    p = model_confidence_set(losses, np.tile(losses, (1000, 1)))
    assert p[0] == 1 and (p[1:] < 0.01).all()
