"""Searches of several rounds with everything that is measured and looked at, from the sweep to the report."""

import json
from pathlib import Path

import pytest

from tlimb.demo.cohorts import demo_cohort

ROOT = Path(__file__).parents[2]
SMALL = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
LOOKED_AT = {
    "bootstrap": 100,
    "groups": ["sex", "site", "age"],
    "probe": True,
    "harmonise": "site",
    "explain": ["occlusion", "integrated_gradients", "grad_cam", "attention"],
    "explained": 2,
}


def sweep(epochs: int, **changes) -> dict:
    """The test profile's sweep with a thin network."""
    document = SMALL | {"input": "demo/cohorts.csv", "outdir": "results"} | changes
    document["architecture"] = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.0625}}
    document["stages"] = [SMALL["stages"][0], SMALL["stages"][1] | {"epochs": epochs}]
    return document


def lines(run, number: int) -> list[dict]:
    text = (run.folder / f"results/search/round-{number}/trials.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    demo_cohort(folder / "demo", 72, 0, 2)
    return folder


@pytest.fixture(scope="module")
def halving(nextflow, folder):
    """Four candidates of which one goes on from where it was, so that the best of the other strategy was trained beside
    it and dropped; what both look at is looked at."""
    space = {
        "stages.finetune.strategy": ["frozen", "full"],
        "stages.finetune.optimizer.init_args.lr": [0.001, 0.01],
    }
    search = {"method": "halving", "halving": {"reduction": 4, "least": 1}, "seeds": [0], "space": space}
    (folder / "halving.json").write_text(json.dumps(sweep(4, search=search, evaluate=LOOKED_AT)))
    return nextflow(folder, "--params-file", "halving.json")


def test_survivors_go_on_from_their_own_state_and_stand_once(halving):
    assert halving.status == 0, halving.text
    first, second = lines(halving, 1), lines(halving, 2)
    assert [{line["budget"] for line in each} for each in (first, second)] == [{1}, {4}]
    assert (len(first), len(second)) == (4, 1) and {line["id"] for line in second} < {line["id"] for line in first}
    assert all(line["continues"] == 1 for line in second)
    ranking = halving.json("results/ranking/ranking.json")
    assert sorted(row["budget"] for row in ranking["candidates"]) == [1, 1, 1, 4]
    assert ranking["candidates"][0]["budget"] == 4
    models = [halving.json(f"results/models/{line['id']}/model.json") for line in second]
    assert [(model["budget"], model["epochs_run"], model["status"]) for model in models] == [(4, 4, "ok")]
    assert not list((halving.folder / "results/models").glob("*/state.safetensors"))
    assert halving.submitted.count("PRETRAIN_1") == 1


def test_what_is_measured_and_looked_at_stands_in_ranking_and_report(halving):
    ranking = halving.json("results/ranking/ranking.json")
    for key in ("groups", "calibration", "conformal", "transferability", "cost", "gap"):
        assert ranking[key], key
    assert {row["column"] for row in ranking["groups"]} == {"sex", "site", "age"}
    explained = list((halving.folder / "results/explanations").glob("*/explain.json"))
    assert len(explained) == 2
    methods = json.loads(explained[0].read_text())["methods"]
    assert {name: facts["status"] for name, facts in methods.items() if facts["status"] != "ok"}.keys() == {"attention"}
    harmonised = {row["name"]: row for row in ranking["harmonised"]}
    by_strategy = {row["strategy"]: harmonised[row["name"]] for row in ranking["candidates"] if row["selected"]}
    assert by_strategy["frozen"]["status"] == "ok" and by_strategy["frozen"]["n"]["persons"] > 0
    assert set(by_strategy["frozen"]["test"]["difference"]) == {"balanced_accuracy", "auroc", "log_loss"}
    assert by_strategy["full"]["status"] == "left out" and "strategy full" in by_strategy["full"]["reason"]
    page = (halving.folder / "results/ranking/report.html").read_text()
    assert "data:image/png" in page and 'id="harmonised"' in page and len(page) < 5e6
    assert list((halving.folder / "results/ranking/figures").glob("*.svg"))
    assert list((halving.folder / "results/ranking/tables").glob("*.csv"))


@pytest.mark.long
def test_resuming_a_finished_search_of_several_rounds_repeats_nothing(halving, nextflow):
    again = nextflow(halving.folder, "--params-file", "halving.json", "-resume")
    assert (again.status, again.submitted) == (0, []), again.text


@pytest.fixture(scope="module")
def bayes(nextflow, folder):
    space = {"stages.finetune.optimizer.init_args.lr": {"log_uniform": [1e-4, 1e-1]}}
    search = {"method": "bayes", "points": 4, "rounds": 2, "seeds": [0], "space": space}
    (folder / "bayes.json").write_text(json.dumps(sweep(1, outdir="bayes", search=search, evaluate={"explained": 0})))
    return nextflow(folder, "--params-file", "bayes.json")


def test_a_search_asks_again_with_what_it_has_learned(bayes):
    assert bayes.status == 0, bayes.text
    study = bayes.json("bayes/search/round-2/study.json")
    assert [len(one["points"]) for one in study["rounds"]] == [2, 2]
    assert all(point["value"] is not None for point in study["rounds"][0]["points"]) and study["finished"]
    assert not {"SELECT", "EXPLAIN"} & set(bayes.submitted)
    assert len(bayes.json("bayes/ranking/ranking.json")["candidates"]) == 4


def test_more_points_in_a_wider_space_add_only_what_is_new(bayes, nextflow):
    document = json.loads((bayes.folder / "bayes.json").read_text())
    document["search"] |= {"points": 6, "rounds": 3}
    document["search"]["space"]["stages.finetune.optimizer.init_args.lr"] = {"log_uniform": [1e-5, 1e-1]}
    (bayes.folder / "bayes.json").write_text(json.dumps(document))
    wider = nextflow(bayes.folder, "--params-file", "bayes.json", "-resume")
    assert wider.status == 0, wider.text
    assert len(wider.json("bayes/ranking/ranking.json")["candidates"]) == 6
    assert (wider.submitted.count("FINETUNE"), wider.cached.count("FINETUNE")) == (1, 2)
    assert wider.submitted.count("PRETRAIN_1") == 0


def test_a_plan_says_what_would_run_and_runs_nothing(bayes, nextflow):
    plan = nextflow(bayes.folder, "--params-file", "bayes.json", "--outdir", "bayes", "--plan")
    assert plan.status == 0, plan.text
    assert plan.submitted == ["PLAN"] and "trials" in plan.text and "pretraining" in plan.text
