"""Ranking a finished search: names, selection on validation, intervals, comparisons, failures, the answer."""

import math
import re
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table
from results_tree import rewrite_json, write_results_tree

from tlimb.errors import InputError
from tlimb.evaluation.metrics import metric
from tlimb.files import read_json, read_jsonl, write_jsonl
from tlimb.ranking.answer import answer, decimals, number_text, verdict
from tlimb.ranking.compare import Measure, grouped_mean, mean_with_interval, paired_difference
from tlimb.ranking.effects import marginal_means
from tlimb.ranking.figures import axis, curves, loss_axis
from tlimb.ranking.names import candidate_names, encoder_names, pretraining_names, strategy_of, trial_name
from tlimb.ranking.quality import outliers, summary
from tlimb.ranking.rank import COLUMNS, rank
from tlimb.ranking.results import read_results
from tlimb.ranking.write import write_ranking

MEASURE = Measure("mae", "regression", 400, 0.95, 0)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Arguments of read_results for a tree with failures."""
    return write_results_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def ranking(tree):
    return rank(read_results(**tree))


@pytest.fixture(scope="module")
def nested_tree(tmp_path_factory):
    """Three outer and two inner folds of two seeds."""
    split = {"scheme": "nested", "folds": 3, "inner_folds": 2, "validation": 0.2, "test": 0.2}
    return write_results_tree(tmp_path_factory.mktemp("nested"), seeds=2, split=split)


@pytest.fixture(scope="module")
def nested_ranking(nested_tree):
    return rank(read_results(**nested_tree))


@pytest.fixture
def copy(tree, tmp_path):
    """The same tree, to be changed."""
    return copied(tree, tmp_path / "tree")


def copied(tree, folder):
    shutil.copytree(tree["search"].parent, folder)
    return {name: folder / path.name for name, path in tree.items()}


def trial(strategy="full", auxiliary=(), lr=0.001, init="e1", **last):
    stages = [{"name": "pretrain", "optimizer": {"class_path": "AdamW", "init_args": {"lr": last.pop("early", lr)}}}]
    objective = {"primary": None, "auxiliary": list(auxiliary)}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}}
    stage = {"name": "finetune", "strategy": strategy, "objective": objective, "optimizer": optimizer} | last
    architecture = {"class_path": "ResNet", "init_args": {"depth": 18}}
    spec = {"architecture": architecture, "seed": 0, "split": {"seed": 0}, "stages": [*(stages if init else []), stage]}
    return {"init": init, "spec": spec}


def l2sp(**args):
    return [{"class_path": "L2SP", "init_args": args}]


def names_of(*trials):
    return list(candidate_names({f"{index:012d}": one for index, one in enumerate(trials)}).values())


def test_a_strategy_names_its_auxiliary_terms_and_scratch_is_what_transfers_nothing():
    assert strategy_of(trial("full", l2sp(alpha=0.1))) == "full + L2SP"
    assert strategy_of(trial("frozen")) == "frozen"
    assert strategy_of(trial("full", init="")) == "scratch"


def test_names_say_what_differs_and_no_more():
    found = names_of(trial(lr=0.01), trial(), trial("full", l2sp(alpha=0.01)), trial("scratch", init=""))
    assert found == ["full, lr 0.01", "full, lr 0.001", "full, lr 0.001, L2SP", "scratch, lr 0.001"]
    weights = [trial(auxiliary=l2sp(alpha=alpha)) for alpha in (0.1, 1.0)]
    assert names_of(*weights) == ["L2SP alpha 0.1", "L2SP alpha 1"]
    assert names_of(trial(lr=0.1), trial(lr=0.2)) == ["lr 0.1", "lr 0.2"]


def test_a_stage_is_named_where_two_stages_vary_the_same_setting_apart():
    found = names_of(*[trial(lr=lr, early=early) for lr in (0.1, 0.2) for early in (1e-5, 1e-4)])
    assert found[0] == "lr 0.1, pretrain lr 1e-05" and len(set(found)) == 4


def test_names_are_never_empty_and_never_equal():
    assert names_of(trial()) == ["full"]
    assert names_of(trial(), trial(auxiliary=l2sp(alpha=0.1))) == ["full", "full, L2SP"]
    deep = trial()
    deep["spec"]["architecture"]["init_args"] = {"depth": 18, "width": 0.5}
    assert names_of(trial(), deep) == ["full", "full, width 0.5"]
    assert names_of(trial(early_stopping=None), trial(early_stopping={"patience": 5})) == [
        "full, no early stopping",
        "full, patience 5",
    ]


def test_pretrainings_are_named_by_stage_and_difference():
    lines = {}
    for epochs in (5, 10):
        spec = {"architecture": {"class_path": "SFCN"}, "stage": {"name": "pretrain", "epochs": epochs}}
        lines[str(epochs)] = {"parent": "", "stage": "pretrain", "spec": spec}
    assert pretraining_names(lines) == {"5": "pretrain, epochs 5", "10": "pretrain, epochs 10"}
    assert pretraining_names({"5": lines["5"]}) == {"5": "pretrain"}


def test_encoders_that_differ_in_their_seed_are_named_by_it():
    spec = {"architecture": {"class_path": "SFCN"}, "stage": {"name": "pretrain", "epochs": 5}}
    line = {"parent": "", "stage": "pretrain", "spec": spec}
    lines = [line | {"id": f"{seed:012d}", "seed": seed} for seed in (0, 1)]
    assert list(encoder_names(lines).values()) == ["pretrain, seed 0", "pretrain, seed 1"]
    assert list(encoder_names(lines[:1]).values()) == ["pretrain"] and encoder_names([]) == {}
    again = lines[0] | {"id": "a" * 12, "parent": "b" * 12}
    assert list(encoder_names([lines[0], again]).values()) == ["pretrain, seed 0 (000000)", "pretrain, seed 0 (aaaaaa)"]


def test_candidates_stand_in_the_order_of_their_mean_on_validation(ranking):
    places = [(row["failed"] > 0, -round(row["validation_mean"], 12)) for row in ranking.candidates]
    assert places == sorted(places) and any(failed for failed, _ in places)
    assert [row["rank"] for row in ranking.candidates] == list(range(1, 9))
    for row in ranking.candidates:
        finished = [trial["validation"] for trial in row["trials"] if trial["status"] == "ok"]
        assert row["validation_mean"] == pytest.approx(np.mean(finished))
        spread = statistics.stdev(finished) if len(finished) > 1 else None
        assert row["validation_sd"] == pytest.approx(spread)
        assert row["validation_low"] < row["validation_mean"] < row["validation_high"]


def test_test_scores_stand_only_where_a_candidate_is_selected(ranking):
    assert [row["selected"] for row in ranking.selected()][0] == "best"
    assert sorted(row["strategy"] for row in ranking.selected()) == ["frozen", "full", "full + L2SP", "scratch"]
    for row in ranking.candidates:
        assert (row["test_mean"] is not None) == bool(row["selected"])
        assert any(trial["test"] is not None for trial in row["trials"]) == bool(row["selected"])


def test_rows_and_document_hold_what_the_contract_says(ranking):
    assert all(list(row) == COLUMNS for row in ranking.rows())
    assert set(ranking.document()) == {
        "metric", "direction", "target", "answer", "best", "candidates", "comparisons", "failures", "nested", "oracle", "notes", "cautions",
        "ties", "indistinguishable", "gap", "friedman", "cost", "groups", "calibration", "conformal", "age_bias", "ensembles",
        "transferability", "harmonised", "learning_curves",
    }  # fmt: skip
    assert set(ranking.candidates[0]) == {*COLUMNS, "spec"}
    assert "seed" not in ranking.candidates[0]["spec"]


def test_the_tree_and_the_ranking_keep_to_the_schemas(tree, ranking, tmp_path):
    for schema, files in {
        "model": tree["models"].glob("*/model.json"),
        "encoder": tree["encoders"].glob("*/encoder.json"),
        "scores": tree["scores"].glob("*/scores-*.json"),
        "sweep": [tree["sweep"]],
        "cohort": [tree["cohort"]],
    }.items():
        for path in files:
            check_json(schema, read_json(path))
    for line in read_jsonl(tree["search"] / "round-1" / "trials.jsonl"):
        check_json("trial", line)
    check_table("predictions", pd.read_parquet(next(tree["scores"].glob("*/predictions-test.parquet"))))
    check_json("ranking", ranking.document())
    write_ranking(ranking, "", tmp_path)
    check_json("ranking", read_json(tmp_path / "ranking.json"))
    check_table("ranking", pd.read_csv(tmp_path / "ranking.csv", dtype={"selected": "str"}))


def rank_with_permuted_test_labels(tree):
    rng = np.random.default_rng(0)
    for path in tree["scores"].glob("*/predictions-test.parquet"):
        frame = pd.read_parquet(path)
        frame["truth"] = rng.permutation(frame["truth"])
        frame.to_parquet(path)
    return rank(read_results(**tree))


def test_permuted_test_labels_change_no_selection(copy, ranking):
    permuted = rank_with_permuted_test_labels(copy)
    assert permuted.best == ranking.best
    for before, after in zip(ranking.candidates, permuted.candidates, strict=True):
        same = [name for name in before if not name.startswith("test_") and name != "trials"]
        assert {name: before[name] for name in same} == {name: after[name] for name in same}
    assert [row["test_mean"] for row in permuted.selected()] != [row["test_mean"] for row in ranking.selected()]


def test_no_test_file_of_a_candidate_that_is_not_selected_is_read(copy, ranking):
    selected = {trial["id"] for row in ranking.selected() for trial in row["trials"]}
    for folder in copy["scores"].iterdir():
        if folder.name not in selected:
            for path in folder.glob("*-test.*"):
                path.write_bytes(b"never read")
    assert rank(read_results(**copy)).document() == ranking.document()


def test_failed_trials_pretrainings_and_scans_are_listed_with_their_reasons(tree, ranking):
    failures = ranking.failures
    broken = [line["id"] for line in failures["pretrainings"]]
    dependants = [one for one in read_jsonl(tree["search"] / "round-1" / "trials.jsonl") if one["init"] in broken]
    assert len(broken) == 1 and failures["pretrainings"][0]["trials"] == len(dependants) == 3
    assert {one["id"] for one in dependants} < {one["id"] for one in failures["trials"]}
    assert len(failures["trials"]) == 4 == sum(row["failed"] for row in ranking.candidates)
    assert {one["reason"] for one in failures["scans"]} == {"all voxels are equal", "registration did not converge"}


def test_a_candidate_without_a_finished_trial_goes_last_and_is_never_selected(copy, ranking):
    best = ranking.candidates[0]
    for one in best["trials"]:
        rewrite_json(copy["models"] / one["id"] / "model.json", status="failed", reason="out of memory")
    again = rank(read_results(**copy))
    last = again.candidates[-1]
    assert last["candidate"] == best["candidate"] and last["selected"] == "" and last["validation_mean"] is None
    assert last["failed"] == len(last["trials"]) and again.best == ranking.candidates[1]["candidate"]


def test_a_trial_that_wrote_nothing_counts_as_failed(copy, ranking):
    lost, unscored = [one["id"] for one in ranking.candidates[0]["trials"]][:2]
    shutil.rmtree(copy["models"] / lost)
    shutil.rmtree(copy["scores"] / unscored)
    outcomes = {one["id"]: one for row in rank(read_results(**copy)).candidates for one in row["trials"]}
    assert outcomes[lost]["reason"] == "no result was written"
    assert outcomes[unscored]["reason"] == "no validation scores were written"


def test_where_nothing_finished_the_answer_says_why(copy):
    for path in copy["models"].glob("*/model.json"):
        rewrite_json(path, status="failed", reason="loss became NaN")
    ranking = rank(read_results(**copy))
    assert ranking.best is None and ranking.comparisons == []
    assert "nothing can be ranked" in ranking.answer and "loss became NaN" in ranking.answer


def test_ties_go_to_fewer_parameters_then_to_the_lower_id(copy, ranking):
    for path in copy["scores"].glob("*/scores-validation.json"):
        scores = read_json(path)
        if scores["status"] == "ok":
            scores["targets"]["diagnosis"]["metrics"]["balanced_accuracy"]["value"] = 0.7
            rewrite_json(path, targets=scores["targets"])
    small = [row for row in ranking.candidates if not row["failed"]][-1]
    for one in small["trials"]:
        rewrite_json(copy["models"] / one["id"] / "model.json", parameters={"total": 10, "trainable": 10})
    finished = [row["candidate"] for row in ranking.candidates if not row["failed"] and row is not small]
    order = [row["candidate"] for row in rank(read_results(**copy)).candidates]
    assert order[: len(finished) + 1] == [small["candidate"], *sorted(finished)]


def test_a_metric_to_be_minimised_ranks_the_smallest_first(copy):
    sweep = read_json(copy["sweep"])
    rewrite_json(copy["sweep"], search=sweep["search"] | {"metric": "log_loss"})
    ranking = rank(read_results(**copy))
    places = [(row["failed"] > 0, row["validation_mean"]) for row in ranking.candidates]
    assert ranking.direction == "min" and places == sorted(places)


def test_a_metric_of_another_kind_of_target_is_refused(copy):
    sweep = read_json(copy["sweep"])
    rewrite_json(copy["sweep"], search=sweep["search"] | {"metric": "mae"})
    with pytest.raises(InputError, match="'mae' is no metric of classification, the kind of 'diagnosis'"):
        rank(read_results(**copy))


def test_a_search_without_trials_and_a_missing_store_are_named(copy, tmp_path):
    with pytest.raises(InputError, match="holds no store"):
        read_results(**copy | {"store": tmp_path / "none"})
    write_jsonl(copy["search"] / "round-1" / "trials.jsonl", [])
    with pytest.raises(InputError, match="holds no trial"):
        read_results(**copy)


def test_a_sweep_from_scratch_only_needs_no_encoders(copy, tmp_path):
    path = copy["search"] / "round-1" / "trials.jsonl"
    write_jsonl(path, [one for one in read_jsonl(path) if not one["init"]])
    write_jsonl(path.with_name("pretrainings.jsonl"), [])
    ranking = rank(read_results(**copy | {"encoders": tmp_path / "none"}))
    assert {row["strategy"] for row in ranking.candidates} == {"scratch"} and ranking.comparisons == []


def table(persons, error, scans=None):
    scans = [f"{person}/{index}" for index, person in enumerate(persons)] if scans is None else scans
    columns = {"scan_id": scans, "person": persons, "target": "age", "truth": 50.0}
    return pd.DataFrame(columns | {"prediction": 50.0 + np.asarray(error), "probabilities": None})


def test_the_interval_of_one_trial_is_the_interval_of_its_scores(tree, ranking):
    row = ranking.candidates[0]
    sweep = read_json(tree["sweep"])["evaluate"]
    measure = Measure("balanced_accuracy", "classification", 100, sweep["confidence"], sweep["seed"])
    for one in [one for one in row["trials"] if one["status"] == "ok"]:
        scores = read_json(tree["scores"] / one["id"] / "scores-test.json")["targets"]["diagnosis"]["metrics"]
        rows = pd.read_parquet(tree["scores"] / one["id"] / "predictions-test.parquet")
        found = mean_with_interval([rows], measure)
        expected = scores["balanced_accuracy"]
        assert [found["mean"], found["low"], found["high"]] == pytest.approx(
            [expected["value"], expected["low"], expected["high"]]
        )


def test_the_interval_of_a_mean_error_agrees_with_its_closed_form():
    rng = np.random.default_rng(2)
    persons = [f"p{i}" for i in range(400)]
    tables = [table(persons, rng.normal(size=400)) for _ in range(3)]
    mean_error = np.mean([one["prediction"].sub(50).abs() for one in tables], axis=0)
    half = 1.96 * mean_error.std() / math.sqrt(400)
    found = mean_with_interval(tables, replace(MEASURE, resamples=4000))
    assert found["mean"] == pytest.approx(mean_error.mean()) and found["n_persons"] == 400
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.05)


def test_a_paired_difference_is_surer_than_two_separate_intervals():
    rng = np.random.default_rng(3)
    persons = [f"p{i}" for i in range(100)]
    hard = rng.normal(size=100)
    pairs = [(table(persons, hard + 0.1 * rng.normal(size=100)), table(persons, hard * 1.2)) for _ in range(2)]
    found = paired_difference(pairs, MEASURE)
    each = [metric("mae", a["truth"], a["prediction"]) - metric("mae", b["truth"], b["prediction"]) for a, b in pairs]
    assert found["difference"] == pytest.approx(np.mean(each)) and found["trials"] == 2 and found["n_persons"] == 100
    alone = mean_with_interval([pairs[0][0]], MEASURE)
    assert found["high"] - found["low"] < (alone["high"] - alone["low"]) / 2
    assert paired_difference([(two, one) for one, two in pairs], MEASURE)["difference"] == pytest.approx(-np.mean(each))


def test_only_scans_that_both_predicted_are_compared():
    one = table(list("abc"), [1, 1, 100], ["1", "2", "3"])
    two = table(list("dba"), [7, 2, 2], ["9", "2", "1"])
    found = paired_difference([(one, two)], MEASURE)
    assert found["difference"] == -1.0 and found["n_persons"] == 2
    assert paired_difference([(one, table(["z"], [0], ["z"]))], MEASURE) is None


def test_the_comparison_with_scratch_is_over_the_seeds_that_both_finished(ranking):
    names = {row["candidate"]: row for row in ranking.candidates}
    for one in ranking.comparisons:
        sides = [{t["seed"] for t in names[one[side]]["trials"] if t["test"] is not None} for side in "ab"]
        assert one["trials"] == len(sides[0] & sides[1]) and one["set"] == "test" and one["n_persons"] == 120
    assert {one["b"] for one in ranking.comparisons} == {row["candidate"] for row in ranking.selected()[1:]}


def row_of(candidate, strategy, test, rank_):
    values = {"validation_mean": 0.8, "test_mean": test, "test_low": test - 0.05, "test_high": test + 0.05}
    facts = {"candidate": candidate, "name": strategy, "strategy": strategy, "rank": rank_, "failed": 0, "selected": "x"}
    facts |= {"budget": 9, "epochs": 9, "spec": {"stages": [{"data": {"source": None}}]}}
    return facts | values | {"trials": [{}] * 5}


def sentence(low, high, metric="balanced_accuracy", strategies=("full", "scratch")):
    rows = [row_of(name, name, 0.7, place) for place, name in enumerate(strategies, 1)]
    comparison = {"a": strategies[0], "b": strategies[1], "difference": (low + high) / 2, "low": low, "high": high}
    return answer(rows, [comparison], Measure(metric, "", 1000, 0.95, 0), "sex", 120)


def test_the_answer_claims_no_more_than_the_interval_allows():
    apart = "which can't be told apart from training from scratch on these persons (difference +0.01"
    assert apart in sentence(-0.03, 0.05)
    assert ", 0.05 better than training from scratch" in sentence(0.02, 0.08)
    assert ", 0.05 worse than training from scratch" in sentence(-0.08, -0.02)
    assert ", 0.05 better than training from scratch" in sentence(-0.08, -0.02, "mae")
    assert ", 0.05 worse than training from scratch" in sentence(0.02, 0.08, "mae")
    assert "better than frozen" in sentence(0.02, 0.08, strategies=("scratch", "frozen"))
    assert "70 on 120 test persons (95% interval 0.65 to 0.75, mean of 5 trials)" in sentence(0.02, 0.08)


@pytest.mark.parametrize(
    ("alike", "compared", "tried", "said"),
    [
        (1, 2, 5, "the next one can't be told apart from it there."),
        (0, 2, 5, "it is told apart from the next one there."),
        (1, 2, 2, "the other one can't be told apart from it there."),
        (0, 2, 2, "it is told apart from the other one there."),
        (3, 6, 6, "3 of the 5 others can't be told apart from it there."),
        (1, 6, 9, "1 of the next 5 can't be told apart from it there."),
        (0, 6, 6, "it is told apart from all others there."),
        (0, 6, 9, "it is told apart from all of the next 5 there."),
        (5, 6, 6, "none of the others can be told apart from it there."),
        (5, 6, 9, "none of the next 5 can be told apart from it there."),
    ],
)
def test_the_answer_says_in_plain_words_who_is_alike(alike, compared, tried, said):
    rows = [row_of(str(place), "full", 0.7, place) for place in range(tried)]
    found = {"candidates": [row["candidate"] for row in rows[1 : 1 + alike]], "compared": compared, "reason": ""}
    told = answer(rows, [], Measure("auroc", "", 1000, 0.95, 0), "sex", 120, alike=found)
    assert told.endswith(f"it had 0.80, and {said}")


def test_numbers_of_the_answer_have_a_true_minus_sign():
    rows = [row_of(name, name, -0.1, 1) | {"validation_mean": -0.2} for name in ("full", "scratch")]
    comparison = {"a": "full", "b": "scratch", "difference": -0.01, "low": -0.03, "high": 0.01}
    told = answer(rows, [comparison], Measure("r2", "", 1000, 0.95, 0), "sex", 120)
    assert "R² −0.10 on 120 test persons (95% interval −0.15 to −0.05" in told and "it had −0.20" in told
    assert "(difference −0.01, interval −0.03 to 0.01)" in told and "-0" not in told
    assert [number_text(value, 2) for value in (-0.001, -0.5)] == ["0.00", "−0.50"]
    assert number_text(-0.001, 2, sign="+") == "+0.00"


def test_an_interval_that_touches_zero_tells_nothing_apart():
    assert verdict({"low": 0.0, "high": 0.1}, "auroc") == "can't be told apart"
    assert verdict({"low": None, "high": None}, "auroc") == "can't be told apart"


def test_decimals_follow_the_width_of_the_interval():
    assert [decimals(0, width) for width in (0.005, 0.04, 0.3, 3.0, 40.0)] == [3, 2, 2, 1, 1]
    assert decimals(None, None) == decimals(0.5, 0.5) == 2


def test_marginal_means_are_means_over_the_candidates_with_a_value(tree, ranking):
    effects = {one["name"]: one["values"] for one in marginal_means(ranking.candidates, read_results(**tree).trials)}
    assert set(effects) == {"strategy", "lr", "L2SP"}
    by_name = {row["name"]: row["validation_mean"] for row in ranking.candidates}
    low = next(group for group in effects["lr"] if group["value"] == "0.001")
    assert low["mean"] == pytest.approx(np.mean([value for name, value in by_name.items() if "lr 0.001" in name]))
    assert {group["value"]: len(group["scores"]) for group in effects["L2SP"]} == {"no": 6, "yes": 2}


def test_many_values_are_put_into_quarters():
    trials = [trial(lr=10.0 ** -(index / 4)) | {"candidate": str(index)} for index in range(20)]
    rows = [{"candidate": str(index), "validation_mean": float(index)} for index in range(20)]
    (effect,) = marginal_means(rows, trials)
    assert [len(group["scores"]) for group in effect["values"]] == [5, 5, 5, 5]


def test_outliers_stand_worst_first_and_only_in_the_bad_direction(tree):
    scans = read_results(**tree).scans
    found = outliers(scans)
    assert {row["scan_id"] for row in found[:2]} == {"clinic/sub-007/1/T1w", "lifespan/sub-007/1/T1w"}
    assert [row["deviations"] for row in found] == sorted((row["deviations"] for row in found), reverse=True)
    better = scans.assign(warnings="", mask_overlap=scans["mask_overlap"].where(scans.index != 3, 0.999))
    assert better.loc[3, "scan_id"] not in [row["scan_id"] for row in outliers(better)]
    assert summary(scans)[0] | {"mask_overlap": 0, "snr": 0, "displacement": 0, "metric": 0} == {
        "recipe": "default", "ok": 598, "warned": 2, "failed": 2,
        "mask_overlap": 0, "snr": 0, "displacement": 0, "metric": 0,
    }  # fmt: skip


@pytest.mark.parametrize("values", [[0.61, 0.83], [-3.0, 250.0], [5.0], [], [0.1, math.nan, None], [1e-7, 3e-7]])
def test_an_axis_holds_its_values_and_round_ticks(values):
    scale = axis(values)
    finite = [value for value in values if value is not None and math.isfinite(value)]
    assert all(0 <= scale.place(value) <= 100 for value in finite)
    assert len(scale.ticks) >= 2 and all(-0.01 <= at <= 100.01 for at, _ in scale.ticks)
    for at, text in scale.ticks:
        assert scale.place(float(text.replace("−", "-"))) == pytest.approx(at, abs=0.01)


def test_a_loss_that_spans_decades_is_drawn_on_a_logarithmic_axis():
    scale = loss_axis([0.5, 1e6])
    assert scale.log and scale.place(0.5) < scale.place(100.0) < scale.place(1e6)
    assert not loss_axis([0.5, 1.5]).log and not loss_axis([-1.0, 1e6]).log


def test_curves_break_where_a_loss_is_not_finite_and_mark_the_best_epoch():
    losses = [1.0, 0.5, math.nan, 0.7, 0.8]
    history = pd.DataFrame({"epoch": range(1, 6), "train_loss": 0.9, "validation_loss": losses})
    found = curves({"seed 0": history, "seed 1": history.iloc[:0]})
    pieces = next(line["pieces"] for line in found["lines"] if line["set"] == "validation")
    assert [len(piece.split()) for piece in pieces] == [2, 2]
    assert [(mark["epoch"], mark["loss"]) for mark in found["marks"]] == [(2, 0.5)]
    assert curves({"seed 1": history.iloc[:0]}) is None


def test_a_holdout_has_no_nested_estimate_and_its_test_persons_chose_nothing(ranking):
    assert ranking.nested is None and ranking.notes == ranking.cautions == []


def outer_folds(tree, ranking):
    """(fold, candidate) -> mean on validation and mean on test of its finished inner trials, from the files alone."""
    found = {}
    for row in ranking.candidates:
        for fold in range(3):
            own = [one for one in row["trials"] if one["fold"] == fold and one["status"] == "ok"]
            assert len(own) <= 4 and {one["inner_fold"] for one in own} <= {0, 1}
            values = [
                [read_json(tree["scores"] / one["id"] / f"scores-{name}.json")["targets"]["diagnosis"]["metrics"]["balanced_accuracy"]["value"] for one in own]
                for name in ("validation", "test")
            ]
            failed = len(own) < 4
            found[fold, row["candidate"]] = (failed, *map(np.mean, values)) if own else (True, -1, -1)
    return found


def test_nested_selection_is_repeated_in_each_outer_fold_on_its_own_validation(nested_tree, nested_ranking):
    found, nested = outer_folds(nested_tree, nested_ranking), nested_ranking.nested
    assert [(one["repeat"], one["fold"]) for one in nested["folds"]] == [(0, 0), (0, 1), (0, 2)]
    for one in nested["folds"]:
        here = {candidate: values for (fold, candidate), values in found.items() if fold == one["fold"]}
        best = max(here, key=lambda candidate: (not here[candidate][0], here[candidate][1]))
        assert one["candidate"] == best and one["test"] == pytest.approx(here[best][2])
        assert one["name"] == next(row["name"] for row in nested_ranking.candidates if row["candidate"] == best)
    assert nested["value"] == pytest.approx(np.mean([one["test"] for one in nested["folds"]]))
    assert nested["low"] < nested["value"] < nested["high"] and nested["metric"] == "balanced_accuracy"
    check_json("ranking", nested_ranking.document())


def test_where_the_choice_saw_the_test_persons_the_ranking_says_so(nested_ranking):
    (note,) = nested_ranking.notes
    assert "120 of 120 test persons are validation persons in other folds" in note and "optimistic" in note
    assert "the nested estimate repeats the choice" in note
    assert f"Choosing anew inside each of 3 outer folds gives balanced accuracy {nested_ranking.nested['value']:.2f}" in nested_ranking.cautions[-1]


def test_permuted_test_labels_change_no_choice_in_any_outer_fold(nested_tree, nested_ranking, tmp_path):
    copy = copied(nested_tree, tmp_path / "tree")
    permuted = rank_with_permuted_test_labels(copy)
    assert permuted.best == nested_ranking.best
    before, after = nested_ranking.nested, permuted.nested
    assert [one["candidate"] for one in before["folds"]] == [one["candidate"] for one in after["folds"]]
    assert before["value"] != after["value"]


def test_nested_reads_no_test_file_but_those_of_the_chosen(nested_tree, nested_ranking, tmp_path):
    copy = copied(nested_tree, tmp_path / "tree")
    chosen = {(one["candidate"], one["fold"]) for one in nested_ranking.nested["folds"]}
    for row in nested_ranking.candidates:
        for one in row["trials"]:
            if not row["selected"] and (row["candidate"], one["fold"]) not in chosen:
                for path in (copy["scores"] / one["id"]).glob("*-test.*"):
                    path.write_bytes(b"never read")
    assert rank(read_results(**copy)).document() == nested_ranking.document()


def test_an_outer_fold_without_test_scores_is_left_out_and_told(nested_tree, nested_ranking, tmp_path):
    copy = copied(nested_tree, tmp_path / "tree")
    first = nested_ranking.nested["folds"][0]
    row = next(row for row in nested_ranking.candidates if row["candidate"] == first["candidate"])
    for one in [one for one in row["trials"] if one["fold"] == 0]:
        for path in (copy["scores"] / one["id"]).glob("*-test.*"):
            path.unlink()
    again = rank(read_results(**copy))
    assert again.nested["folds"][0]["test"] is None and "1 of 3 outer folds have no test score" in again.notes[-1]
    assert again.nested["value"] == pytest.approx(np.mean([one["test"] for one in nested_ranking.nested["folds"][1:]]))


def test_folds_are_averaged_compared_in_pairs_and_said_to_be_optimistic(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, split={"scheme": "kfold", "folds": 4, "test": 0.2}, failing=False)
    ranking = rank(read_results(**tree))
    best = ranking.candidates[0]
    assert [(one["fold"], one["repeat"], one["inner_fold"], one["replicate"]) for one in best["trials"]] == [(k, 0, None, None) for k in range(4)]
    assert best["test_mean"] == pytest.approx(np.mean([one["test"] for one in best["trials"]]))
    assert {(one["n_persons"], one["trials"]) for one in ranking.comparisons} == {(120, 4)}
    assert ranking.nested is None and "the split scheme 'nested' repeats the choice" in ranking.notes[0]
    assert "so its test figure is optimistic" in ranking.cautions[-1] and "on 120 test persons" in ranking.answer
    assert "fold" not in best["spec"]["split"] and "seed" in best["spec"]["split"]


def test_replicates_are_trials_of_one_candidate_and_n_tells_candidates_apart(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, persons=24, split={"n": 10, "replicates": 3}, failing=False)
    ranking = rank(read_results(**tree))
    assert all([one["replicate"] for one in row["trials"]] == [0, 1, 2] for row in ranking.candidates)
    assert len(ranking.candidates) == 8
    assert ranking.notes[0].startswith("Every trial that finished has one seed") and len(ranking.notes) == 1


def test_trials_are_named_by_what_tells_them_apart():
    one = {"seed": 3, "repeat": 0, "fold": None, "inner_fold": None, "replicate": None}
    assert trial_name(one) == "seed 3"
    assert trial_name(one | {"repeat": 1, "fold": 0, "inner_fold": 2}) == "seed 3, repeat 1, fold 0, inner fold 2"
    assert trial_name(one | {"replicate": 11}) == "seed 3, replicate 11"


def test_the_interval_over_folds_of_different_persons_agrees_with_its_closed_form():
    """Independent folds: the variance of a mean of F fold means is the sum of their variances over F squared."""
    rng = np.random.default_rng(4)
    sizes, spreads = (100, 200, 400), (1.0, 2.0, 4.0)
    people = [[f"{size}-{i}" for i in range(size)] for size in sizes]
    tables = [table(persons, spread * rng.normal(size=len(persons))) for persons, spread in zip(people, spreads)]
    errors = [one["prediction"].sub(50).abs() for one in tables]
    half = 1.96 * math.sqrt(sum(error.var() / len(error) for error in errors)) / 3
    found = mean_with_interval(tables, replace(MEASURE, resamples=4000))
    assert found["mean"] == pytest.approx(np.mean([error.mean() for error in errors])) and found["n_persons"] == 700
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.05)


def test_a_person_who_is_tested_in_two_trials_is_drawn_for_both():
    """The same fold twice is no more evidence than once; two folds of other persons with the same errors are."""
    errors = np.random.default_rng(5).normal(size=200)
    one, two = (table([f"{name}{i}" for i in range(200)], errors) for name in "ab")
    widths = [
        (lambda found: found["high"] - found["low"])(mean_with_interval(tables, replace(MEASURE, resamples=4000)))
        for tables in ([one], [one, one], [one, two])
    ]
    assert widths[1] == pytest.approx(widths[0])
    assert widths[2] == pytest.approx(widths[0] / math.sqrt(2), rel=0.1)


def test_the_corrected_t_is_left_out_where_one_side_learnt_from_fewer_people_and_that_is_told(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, split={"scheme": "kfold", "folds": 4, "test": 0.2}, failing=False)
    before = rank(read_results(**tree))
    assert all(one["tests"]["resampled_t"] for one in before.comparisons)
    fewer, path = before.comparisons[0]["b"], tree["search"] / "round-1" / "trials.jsonl"
    lines = read_jsonl(path)
    for line in lines:
        line["spec"]["split"] |= {"n": 40} if line["candidate"] == fewer else {}
    write_jsonl(path, lines)
    after = rank(read_results(**tree))
    tests = {one["b"]: one["tests"]["resampled_t"] for one in after.comparisons}
    assert tests.pop(fewer) is None and all(tests.values())
    name = next(row["name"] for row in after.candidates if row["candidate"] == fewer)
    assert any(note.startswith(f"The best is not compared with {name} by the corrected") for note in after.notes)
    assert not any("corrected resampled t" in note for note in before.notes)


def test_the_answer_is_two_sentences_and_what_else_must_be_known_stands_apart(nested_ranking, ranking):
    for found in (nested_ranking, ranking):
        assert len(re.findall(r"\.(?= [A-Z]|$)", found.answer)) == 2
        assert all(one.endswith(".") and one not in found.answer for one in found.cautions)
    assert len(nested_ranking.cautions) >= 2


def test_groups_count_alike_however_many_trials_they_have():
    one, two = table(list("ab"), [1, 1]), table(list("cd"), [3, 3])
    assert grouped_mean([[one], [two, two, two]], MEASURE)["mean"] == 2.0
    assert grouped_mean([], MEASURE) == {"mean": None, "low": None, "high": None, "n_persons": 0}
