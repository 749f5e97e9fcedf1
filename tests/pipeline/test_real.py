"""One small sweep for real, with a scan and a trial that fail, and what a second run of it repeats."""

import copy
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
DIVERGES = {"strategy": "full", "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e30}}}


def write_sweep(folder, demo_cohort, variant):
    sweep = copy.deepcopy(SMALL) | {"input": str(demo_cohort / "cohorts.csv"), "outdir": "results"}
    sweep["search"]["space"]["stages.finetune"].append(variant)
    sweep["evaluate"]["explained"] = 0
    (folder / "sweep.json").write_text(json.dumps(sweep))


@pytest.fixture(scope="module")
def run(nextflow, demo_cohort, tmp_path_factory):
    """The run that has ended."""
    folder = tmp_path_factory.mktemp("real")
    write_sweep(folder, demo_cohort, DIVERGES)
    return nextflow(folder, "--params-file", "sweep.json")


def test_it_ends_with_the_answer_and_the_report(run):
    assert run.status == 0, run.text
    ranking = run.json("results/ranking/ranking.json")
    report = run.folder / "results" / "ranking" / "report.html"
    assert ranking["answer"] in run.text and str(report) in run.text
    assert "--params-file sweep.json" in report.read_text()
    assert sorted(run.submitted) == [
        "COHORT",
        *["EVALUATE"] * 2,
        *["FINETUNE"] * 2,
        "PREPROCESS",
        "PRETRAIN_1",
        "RANK",
        "SUGGEST",
    ]


def test_the_failing_scan_and_the_failing_trial_are_listed_with_their_reasons_and_the_rest_went_on(run):
    failures = run.json("results/ranking/ranking.json")["failures"]
    assert len(failures["scans"]) == 1 and len(failures["trials"]) == 1 and failures["pretrainings"] == []
    assert all(failure["reason"] for kind in ("scans", "trials") for failure in failures[kind])
    models = [json.loads(path.read_text()) for path in (run.folder / "results" / "models").glob("*/model.json")]
    assert sorted(model["status"] for model in models) == ["failed", "ok", "ok"]
    assert "1 trial failed, the first because: diverged: " in run.text


def test_resuming_repeats_nothing(run, nextflow):
    again = nextflow(run.folder, "--params-file", "sweep.json", "-resume")
    assert (again.status, again.submitted, sorted(again.cached)) == (0, [], sorted(run.submitted)), again.text


def test_after_a_change_of_one_value_only_the_trials_with_that_value_are_trained(run, nextflow, demo_cohort):
    before = {path.parent.name for path in (run.folder / "results" / "models").glob("*/model.json")}
    changed = copy.deepcopy(DIVERGES)
    changed["optimizer"]["init_args"]["lr"] = 1e-5
    write_sweep(run.folder, demo_cohort, changed)
    again = nextflow(run.folder, "--params-file", "sweep.json", "--outdir", "changed", "-resume")
    assert again.status == 0 and sorted(again.submitted) == ["COHORT", "EVALUATE", "FINETUNE", "RANK", "SUGGEST"], (
        again.text
    )
    models = {
        path.parent.name: json.loads(path.read_text())
        for path in (run.folder / "changed" / "models").glob("*/model.json")
    }
    new = {name: model for name, model in models.items() if name not in before}
    assert len(models) == 3 and len(new) == 1
    assert [(model["status"], model["reused"]) for model in new.values()] == [("ok", False)]
    assert sorted(model["reused"] for name, model in models.items() if model["init"] and name in before) == [True]


@pytest.mark.long
def test_another_run_with_other_packs_gives_the_same_numbers_bit_for_bit(nextflow, pipeline, demo_cohort, tmp_path):
    predictions = []
    for packs in (1, 4):
        folder = tmp_path / f"packs-of-{packs}"
        folder.mkdir()
        write_sweep(folder, demo_cohort, {"strategy": "frozen"})
        assert (
            nextflow(folder, "--params-file", "sweep.json", "--trials_per_task", packs, pipeline=pipeline).status == 0
        )
        files = sorted((folder / "results" / "scores").glob("*/*"))
        predictions.append({f"{path.parent.name}/{path.name}": path.read_bytes() for path in files})
    assert len(predictions[0]) == 3 * 4 and predictions[0] == predictions[1]
