"""Candidates that are fitted in one epoch beside networks that pause after rungs; studies that are not one's own."""

import pytest
from test_rounds import RATE, told

from tlimb.config import read_sweep
from tlimb.files import write_json, write_jsonl
from tlimb.ranking.results import read_results
from tlimb.ranking.selection import ranked_candidates, ranked_measure
from tlimb.search.jobs import write_round
from tlimb.search.preprocessed import all_fine
from tlimb.search.study import Round, extended, tell
from tlimb.search.suggest import suggest

NETWORKS = 8


@pytest.fixture
def recipes(table):
    return all_fine(table, ["default"])


@pytest.fixture
def beside(document):
    """A sweep of one linear baseline and eight networks, halved over 1, 3 and 9 epochs."""
    network = {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 3}}
    for stage in document["stages"]:
        del stage["data"]["module"]
    document["stages"][1]["epochs"] = 9
    document["architecture"] = network
    space = {"architecture": [{"class_path": "LinearBaseline"}, network]}
    rates = {"variants": [0.001 * (i + 1) for i in range(NETWORKS)], "when": {"architecture": {"class_path": "ResNet"}}}
    document["search"] = {"method": "halving", "seeds": [0, 1], "space": space | {RATE: rates}}
    return document


def is_baseline(spec: dict) -> bool:
    return spec["architecture"]["class_path"] == "LinearBaseline"


def halved(sweep, table, labels, recipes, tmp_path, worth):
    """Every round of a search, told what each of its trials is worth; what is written lies in tmp_path/search."""
    study, rounds, told_of = None, [], {}
    while study is None or not study.finished:
        proposal = suggest(sweep, table, labels, recipes, before=study)
        folder = tmp_path / "search" / f"round-{len(rounds) + 1}"
        write_round(folder, proposal, table, {"labels": labels, "files": {}}, 4)
        found = {trial["id"]: worth(trial) for trial in proposal.trials}  # as a pipeline, of this round alone
        told_of |= found
        study = tell(proposal.study, found)
        rounds.append(proposal)
    return rounds, study, told_of


def rank_of_networks(trial: dict) -> float:
    """The first network is best; the baseline lies between the first and the second."""
    if is_baseline(trial["spec"]):
        return 0.9
    return 1 - 0.15 * round(trial["spec"]["stages"][-1]["optimizer"]["init_args"]["lr"] / 0.001 - 1)


def test_a_baseline_is_asked_once_and_competes_in_every_rung_that_it_survives_to(beside, table, labels, recipes, tmp_path):
    rounds, study, _ = halved(read_sweep(beside), table, labels, recipes, tmp_path, rank_of_networks)
    lines = [[line for line in one.trials if is_baseline(line["spec"])] for one in rounds]
    assert [len(one) for one in lines] == [2, 0, 0] and {line["budget"] for line in lines[0]} == {1}
    assert [len(one.trials) for one in rounds] == [18, 4, 2]
    (baseline,) = {line["candidate"] for line in lines[0]}
    own = [[asked for asked in one.points if asked.candidate == baseline] for one in study.rounds]
    assert [(a.budget, a.why, a.value, a.failed) for one in own for a in one] == [
        (1, "startup", 0.9, 0), (3, "carried", 0.9, 0)
    ]  # fmt: skip
    assert own[1][0].trials == own[0][0].trials and own[1][0].values == [0.9, 0.9]
    assert [len(one.points) for one in study.rounds] == [9, 3, 1]


def test_a_baseline_that_wins_every_rung_leaves_rounds_without_jobs(beside, table, labels, recipes, tmp_path):
    def worth(trial):
        return 2.0 if is_baseline(trial["spec"]) else rank_of_networks(trial)

    rounds, study, _ = halved(read_sweep(beside), table, labels, recipes, tmp_path, worth)
    assert [len(one.trials) for one in rounds] == [18, 4, 0]
    assert not (tmp_path / "search" / "round-3" / "jobs").exists() and study.finished
    (last,) = study.rounds[2].points
    assert (last.budget, last.why, last.value) == (9, "carried", 2.0)


def test_a_baseline_counts_as_fully_trained_where_candidates_are_ranked(beside, table, labels, recipes, tmp_path):
    _, _, values = halved(read_sweep(beside), table, labels, recipes, tmp_path, rank_of_networks)
    for trial, value in values.items():
        about = {"id": trial, "status": "ok", "reason": "", "seconds": 1.0, "parameters": {"total": 1, "trainable": 1}}
        write_json(tmp_path / "models" / trial / "model.json", about)
        metrics = {"balanced_accuracy": {"value": value, "low": value, "high": value}}
        scores = {"status": "ok", "targets": {"diagnosis": {"metrics": metrics}}}
        write_json(tmp_path / "scores" / trial / "scores-validation.json", scores)
    write_json(tmp_path / "sweep.json", beside)
    write_json(tmp_path / "cohort.json", {"labels": labels})
    store = tmp_path / "store" / "default"
    store.mkdir(parents=True)
    recipes.index["default"].assign(reason="").to_parquet(store / "shard-all.parquet")
    write_json(store / "shard-all.json", {"chunk": "all", "fingerprint": "a"})
    folders = {name: tmp_path / name for name in ("search", "store", "encoders", "models", "scores")}
    results = read_results(sweep=tmp_path / "sweep.json", cohort=tmp_path / "cohort.json", **folders)
    rows = ranked_candidates(results, *ranked_measure(results))
    assert [(row["architecture"], row["budget"], row["epochs"]) for row in rows[:3]] == [
        ("ResNet", 9, 9), ("LinearBaseline", 1, 1), ("ResNet", 3, 9)
    ]  # fmt: skip


def bayes(document) -> dict:
    space = {RATE: {"log_uniform": [1e-4, 1e-2]}}
    return document | {"search": {"method": "bayes", "points": 4, "rounds": 2, "seeds": [0], "space": space}}


def test_a_study_of_another_trial_or_of_other_labels_is_passed_over(document, table, labels, recipes):
    document["split"]["stratify"] = []
    sweep = read_sweep(bayes(document))
    first = suggest(sweep, table, labels, recipes)
    study = first.study
    assert suggest(sweep, table, labels, recipes, earlier=study).study.given == 2

    def reason(document=document, table=table) -> str:
        again = suggest(read_sweep(bayes(document)), table, labels, recipes, earlier=study).study
        assert again.given == 0 and {asked.why for asked in again.rounds[0].points} == {"startup"}
        return again.reason

    deeper = document | {"architecture": {"class_path": "ResNet", "init_args": {"depth": 34, "dims": 2}}}
    assert reason(deeper) == "the study before was passed over: the sweep's own trial, which the space varies, is another"
    roles = first.splits[first.splits["split"] == first.trials[0]["split"]].set_index("scan_id")["role"]
    seen, held = (list(roles.index[roles == role]) for role in ("train", "test"))
    others = "the study before was passed over: the people, scans or labels of training and validation are others"
    assert reason(table=swapped(table, seen)) == others
    older = table.assign(age=table["age"].mask(table["cohort"] == "lifespan", 50.0 + table.index))
    assert reason(table=older) == others
    recipes.index["default"].loc[recipes.index["default"]["scan_id"] == seen[0], "digest"] = "f" * 16
    assert reason() == others
    recipes.index["default"]["digest"] = ""
    assert suggest(sweep, swapped(table, held), labels, recipes, earlier=study).study.given == 2
    assert extended(study, study.model_copy(update={"about": {}})).again == []


def swapped(table, scans):
    """The table in which those scans have each other's diagnosis."""
    rows = table["scan_id"].isin(scans)
    changed = table.copy()
    changed.loc[rows, "diagnosis"] = changed.loc[rows, "diagnosis"].to_numpy()[::-1]
    assert not changed["diagnosis"].equals(table["diagnosis"])
    return changed


def test_a_round_of_which_every_point_is_left_out_says_so_and_why(document, table, labels, recipes, tmp_path):
    table["site"] = [float(i // 2 % 3 + 1) for i in range(len(table))]
    table.loc[3, "site"] = None
    labels["site"] = {"kind": "classification", "classes": ["1", "2", "3"], "n": 59}
    document["stages"][1]["data"]["labelled"]["missing"] = "drop"
    document = bayes(document)
    study = told(suggest(read_sweep(document), table, labels, recipes), tmp_path)
    balanced = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    document["search"]["space"]["stages.finetune.data.sampler"] = [balanced]
    last = suggest(read_sweep(document), table, labels, recipes, before=study)
    assert last.trials == [] and last.study.finished and len(last.study.rounds[1].left_out) == 2
    assert last.study.rounds[1] == Round(round=2, left_out=last.study.rounds[1].left_out)
    assert "2 candidates in 2 rounds; all 2 points of round 2 were left out: " in last.study.reason
    assert "candidates would not be measured on the same people" in last.study.reason
    assert last.study.reason.count("measured on the same people") == 1
