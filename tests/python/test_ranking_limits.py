"""Rankings of runs that are not as one would wish: other orders, duplicates, ties, rungs, lost and odd results."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from results_tree import rewrite_json, write_results_tree

from tlimb.evaluation.metrics import metric, prediction_arrays
from tlimb.files import read_json, read_jsonl, write_jsonl
from tlimb.ranking.pareto import on_front
from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_results_tree(tmp_path_factory.mktemp("tree"), seeds=2, persons=60)


@pytest.fixture(scope="module")
def ranking(tree):
    return rank(read_results(**tree))


@pytest.fixture
def copy(tree, tmp_path):
    """The same tree, to be changed."""
    shutil.copytree(tree["search"].parent, tmp_path / "tree")
    return {name: tmp_path / "tree" / path.name for name, path in tree.items()}


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """A ranking over five folds of one seed."""
    split = {"scheme": "kfold", "folds": 5, "test": 0.2}
    tree = write_results_tree(tmp_path_factory.mktemp("folds"), seeds=1, persons=60, split=split, failing=False)
    return tree, rank(read_results(**tree))


def of(row):
    return [one["id"] for one in row["trials"]]


def change_scores(tree, trials, name, value):
    for trial in trials:
        path = tree["scores"] / trial / f"scores-{name}.json"
        targets = read_json(path)["targets"]
        metrics = targets["diagnosis"]["metrics"]
        metrics["balanced_accuracy"] = value and metrics["balanced_accuracy"] | value
        rewrite_json(path, targets=targets)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_ranking_is_the_same_whatever_the_order_of_lines_and_folders(tree, ranking, tmp_path, seed):
    rng = np.random.default_rng(seed)
    for name, path in tree.items():
        if path.is_file():
            shutil.copy(path, tmp_path / path.name)
        for child in rng.permutation(sorted(path.iterdir())) if path.is_dir() else []:
            shutil.copytree(child, tmp_path / path.name / child.name)
    for name in ("trials", "pretrainings"):
        path = tmp_path / "search" / "round-1" / f"{name}.jsonl"
        path.write_text("".join(line + "\n" for line in rng.permutation(path.read_text().splitlines())))
    again = rank(read_results(**{name: tmp_path / path.name for name, path in tree.items()}))
    assert json.dumps(again.document()) == json.dumps(ranking.document())


def test_a_line_that_stands_twice_counts_once_and_is_told(copy, ranking):
    path = copy["search"] / "round-1" / "trials.jsonl"
    write_jsonl(path, [*read_jsonl(path), *read_jsonl(path)[:3]])
    again = rank(read_results(**copy))
    assert again.candidates == ranking.candidates
    assert "3 lines of trials.jsonl repeat a trial of their own round; each trial counts once." in again.notes


def test_a_trial_of_several_rounds_counts_with_its_last_line(copy, ranking):
    """As in halving: all start with 5 epochs, the three that lead go on to 20."""
    path = copy["search"] / "round-1" / "trials.jsonl"
    lines = read_jsonl(path)
    going_on = [row["candidate"] for row in ranking.candidates[2:5]]
    write_jsonl(path, [one | {"budget": 5} for one in lines])
    later = [one | {"round": 2} for one in lines if one["candidate"] in going_on]
    write_jsonl(copy["search"] / "round-2" / "trials.jsonl", later)
    again = rank(read_results(**copy))
    assert [row["candidate"] for row in again.candidates[:3]] == going_on
    assert [row["budget"] for row in again.candidates] == [20] * 3 + [5] * 5 and again.best == going_on[0]
    assert [row["pareto"] for row in again.candidates[3:]] == [None] * 5
    assert again.indistinguishable["compared"] == sum(not row["failed"] for row in again.candidates[:3])
    assert any("5 of 8 candidates were trained for fewer epochs" in note for note in again.notes)
    assert "repeat a trial" not in " ".join(again.notes)


def test_an_equal_score_is_said_and_named(copy, ranking):
    first, second = ranking.candidates[:2]
    change_scores(copy, of(first) + of(second), "validation", {"value": 0.9})
    again = rank(read_results(**copy))
    assert set(again.ties) | {again.best} == {first["candidate"], second["candidate"]}
    assert "exactly as" in again.answer and "of equals the one with fewer parameters" in again.answer
    assert ranking.ties == [] and "exactly as" not in ranking.answer


def test_a_score_that_is_no_number_makes_a_trial_a_failed_one(copy, ranking):
    lost = of(ranking.candidates[0])[0]
    change_scores(copy, [lost], "validation", None)
    outcomes = {one["id"]: one for row in rank(read_results(**copy)).candidates for one in row["trials"]}
    assert outcomes[lost]["reason"] == "balanced_accuracy can't be computed on validation"


def test_a_best_that_promised_more_than_it_kept_is_told(copy, ranking):
    assert ranking.gap["test"] - ranking.gap["validation"] == pytest.approx(ranking.gap["difference"])
    change_scores(copy, of(ranking.candidates[0]), "validation", {"value": 0.99})
    again = rank(read_results(**copy))
    assert again.gap["optimistic"] and "optimism of selection" in again.cautions[0]
    change_scores(copy, of(ranking.candidates[0]), "validation", {"value": again.gap["test"]})
    for row in ranking.candidates[1:]:
        finished = [one["id"] for one in row["trials"] if one["status"] == "ok"]
        change_scores(copy, finished, "validation", {"value": 0.1})
    kept = rank(read_results(**copy))
    assert kept.best == again.best and not kept.gap["optimistic"] and kept.cautions == []


def test_models_that_say_the_same_of_everybody_are_told_and_have_no_interval(copy, ranking):
    best = ranking.candidates[0]
    for trial in of(best):
        path = copy["scores"] / trial / "predictions-test.parquet"
        table = pd.read_parquet(path)
        table.assign(prediction=1.0, probabilities=[[0.3, 0.7]] * len(table)).to_parquet(path)
    again = rank(read_results(**copy))
    assert any(f"{best['name']}: 2 of 2 models say the same of every person tested" in note for note in again.notes)
    row = again.candidates[0]
    assert row["test_mean"] == 0.5 and row["test_low"] is None
    assert "without an interval, since its predictions are the same for everybody; mean of 2 trials" in again.answer


def test_scores_that_lack_on_test_are_not_taken_for_a_strategy_that_was_not_tried(copy, ranking):
    for row in ranking.selected()[1:]:
        for trial in of(row):
            for path in (copy["scores"] / trial).glob("*-test.*"):
                path.unlink()
    again = rank(read_results(**copy))
    name = again.selected()[1]["name"]
    assert f"with nothing to compare with: {name} has no test scores" in again.answer
    assert "nothing from scratch" not in again.answer


def test_where_the_best_has_no_test_scores_the_answer_rests_on_validation(copy, ranking):
    for trial in of(ranking.candidates[0]):
        for path in (copy["scores"] / trial).glob("*-test.*"):
            path.unlink()
    again = rank(read_results(**copy))
    assert "by validation alone: it has no test scores" in again.answer
    assert again.gap is None and again.comparisons == []


def test_adaptation_says_that_the_choice_was_made_on_people_of_the_source(copy):
    path = copy["search"] / "round-1" / "trials.jsonl"
    lines = read_jsonl(path)
    for line in lines:
        data = line["spec"]["stages"][-1]["data"]
        data |= {"source": data["labelled"], "labelled": None, "target": {"cohort": ["elsewhere"], "n": None}}
    write_jsonl(path, lines)
    assert "On validation on people of the source (clinic), where it was chosen" in rank(read_results(**copy)).answer


def test_one_seed_is_told(tmp_path):
    ranking = rank(read_results(**write_results_tree(tmp_path, seeds=1, persons=12, failing=False)))
    assert ranking.notes[0].startswith("Every trial that finished has one seed")
    assert all(row["validation_sd"] is None for row in ranking.candidates)


def test_every_comparison_carries_three_tests_and_holms_correction(ranking, folds):
    for found, over_folds in ((ranking, False), (folds[1], True)):
        assert len(found.comparisons) == 3
        for name in ("bootstrap", "delong", "resampled_t") if over_folds else ("bootstrap", "delong"):
            tests = sorted((one["tests"][name]["p"], one["tests"][name]["p_holm"]) for one in found.comparisons)
            expected = np.maximum.accumulate([min(1, (3 - place) * p) for place, (p, _) in enumerate(tests)])
            assert [adjusted for _, adjusted in tests] == pytest.approx(expected.tolist())
        assert all((one["tests"]["resampled_t"] is None) != over_folds for one in found.comparisons)


def test_the_corrected_t_is_over_folds_with_the_scans_of_training_and_test(folds):
    tree, ranking = folds
    rows = {row["candidate"]: row for row in ranking.candidates}
    one = ranking.comparisons[0]
    d = np.array([a["test"] - b["test"] for a, b in zip(rows[one["a"]]["trials"], rows[one["b"]]["trials"])])
    train = read_json(tree["models"] / rows[one["a"]]["trials"][0]["id"] / "model.json")["n"]["train"]
    t = d.mean() / np.sqrt((1 / 5 + 12 / train) * d.var(ddof=1))
    assert one["tests"]["resampled_t"]["t"] == pytest.approx(t) and one["tests"]["resampled_t"]["df"] == 4


def test_delong_compares_the_areas_of_the_trials(tree, ranking):
    one = ranking.comparisons[-1]
    rows = {row["candidate"]: row for row in ranking.candidates}
    done = [{t["seed"]: t["id"] for t in rows[one[side]]["trials"] if t["test"] is not None} for side in "ab"]
    areas = []
    for seed in sorted(done[0].keys() & done[1].keys()):
        tables = [pd.read_parquet(tree["scores"] / side[seed] / "predictions-test.parquet") for side in done]
        areas.append(np.subtract(*[metric("auroc", *prediction_arrays(table, "classification")) for table in tables]))
    assert one["tests"]["delong"]["difference"] == pytest.approx(np.mean(areas))


def test_cost_is_summed_by_stage_and_by_candidate(tree, ranking):
    stages = {row["stage"]: row for row in ranking.cost["stages"]}
    assert list(stages) == ["pretrain", "finetune"] and stages["pretrain"]["kind"] == "pretraining"
    models = [read_json(path) for path in tree["models"].glob("*/model.json")]
    assert stages["finetune"]["seconds"] == pytest.approx(sum(one.get("seconds", 0) for one in models))
    assert ranking.cost["seconds"] == pytest.approx(sum(row["seconds"] for row in stages.values()))
    assert ranking.cost["gpu_seconds"] == 0
    scratch = next(row for row in ranking.candidates if row["strategy"] == "scratch")
    assert scratch["pretraining_seconds"] == 0
    shared = [row["pretraining_seconds"] for row in ranking.candidates if row["strategy"] != "scratch"]
    assert pytest.approx(2 * 93.0) in shared and all(one in (None, pytest.approx(2 * 93.0)) for one in shared)


def test_no_candidate_on_the_front_is_beaten_in_everything(ranking):
    rows = [row for row in ranking.candidates if row["pareto"] is not None]
    facts = [(-row["validation_mean"], row["seconds"] + row["pretraining_seconds"], row["parameters"]) for row in rows]
    for row, own in zip(rows, facts):
        beaten = any(all(a <= b for a, b in zip(other, own)) and other != own for other in facts)
        assert row["pareto"] is not beaten
    assert ranking.candidates[0]["pareto"] and any(row["pareto"] is None for row in ranking.candidates)
    assert on_front(np.array([[1.0, 2], [2, 1], [2, 2], [1, 2]])).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("split", "splits"), [({"repeats": 3}, 3), ({"replicates": 3, "n": 20}, None)])
def test_the_corrected_t_is_over_repeats_of_a_holdout_and_not_over_training_samples(tmp_path, split, splits):
    tree = write_results_tree(tmp_path, seeds=2, persons=40, split=split, failing=False)
    ranking = rank(read_results(**tree))
    found = ranking.comparisons[0]["tests"]["resampled_t"]
    assert (found and found["splits"]) == splits
    if found:
        rows = {row["candidate"]: row for row in ranking.selected()}
        one, two = ([t["test"] for t in rows[ranking.comparisons[0][side]]["trials"]] for side in "ab")
        differences = (np.array(one) - np.array(two)).reshape(2, 3).mean(axis=0)
        n = read_json(tree["models"] / ranking.candidates[0]["trials"][0]["id"] / "model.json")["n"]
        scans = read_json(tree["scores"] / ranking.candidates[0]["trials"][0]["id"] / "scores-test.json")["n"]["scans"]
        expected = differences.mean() / np.sqrt((1 / 3 + scans / n["train"]) * differences.var(ddof=1))
        assert found["t"] == pytest.approx(expected) and found["df"] == 2


def test_a_rival_that_halving_dropped_early_is_told_with_its_epochs(copy, ranking):
    path = copy["search"] / "round-1" / "trials.jsonl"
    scratch = {row["candidate"] for row in ranking.candidates if row["strategy"].startswith("scratch")}
    lines = read_jsonl(path)
    write_jsonl(path, [one | {"budget": 5} if one["candidate"] in scratch else one for one in lines])
    assert "training from scratch (after 5 of 20 epochs)" in rank(read_results(**copy)).answer


def test_a_test_score_that_can_not_be_computed_is_not_taken_for_a_lacking_one(copy, ranking):
    for trial in of(ranking.candidates[0]):
        path = copy["scores"] / trial / "predictions-test.parquet"
        table = pd.read_parquet(path)
        table[table["truth"] == 1].to_parquet(path)
    again = rank(read_results(**copy))
    assert "its balanced accuracy can't be computed on test for every trial" in again.answer


def test_a_metric_without_interval_claims_neither_likeness_nor_difference(copy):
    rewrite_json(copy["sweep"], search=read_json(copy["sweep"])["search"] | {"metric": "calibration_error"})
    found = rank(read_results(**copy))
    assert "how surely is not known" in found.answer and "told apart" not in found.answer
    assert "calibration error" in found.indistinguishable["reason"]
    assert all(one["ensemble"]["low"] is None and one["ensemble"]["value"] is not None for one in found.ensembles)
