"""Both encoders and every strategy for real: the files keep their contracts, and test labels decide nothing."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from contracts import check_json, check_table  # noqa: E402

SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
L2SP = {"class_path": "L2SP", "init_args": {"alpha": 0.01, "beta": 0.01}}


@pytest.fixture(scope="module")
def folder(demo_cohort, tmp_path_factory):
    """A launch folder: a sweep over both encoders and four ways to start, and a samplesheet of its own."""
    folder = tmp_path_factory.mktemp("honest")
    sweep = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
    sweep |= {"input": "cohorts.csv", "outdir": "results", "split": {"validation": 0.25, "test": 0.25, "seed": 5}}
    sweep["evaluate"]["explained"] = 0
    for stage in sweep["stages"]:
        stage["epochs"] = 1
    sweep["search"]["space"] = {
        "*": [
            {"architecture": {"class_path": "ResNet", "init_args": {"dims": 2}}, "stages.*.data.module": SLICES},
            {"architecture": {"class_path": "SFCN"}, "stages.*.data.module": {"class_path": "BaseDataModule"}},
        ],
        "stages.finetune": [
            {"strategy": "scratch"},
            {"strategy": "frozen"},
            {"strategy": "full"},
            {"strategy": "full", "objective": {"auxiliary": [L2SP]}},
        ],
    }
    (folder / "sweep.json").write_text(json.dumps(sweep))
    sheet = pd.read_csv(demo_cohort / "cohorts.csv")
    sheet["image"] = [str(demo_cohort / image) for image in sheet["image"]]
    sheet.to_csv(folder / "cohorts.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(nextflow, folder):
    """The run that has ended."""
    return nextflow(folder, "--params-file", "sweep.json")


def test_every_strategy_of_both_encoders_ends_with_a_score(run):
    assert run.status == 0, run.text
    ranking = run.json("results/ranking/ranking.json")
    kinds = {(row["architecture"], row["strategy"]) for row in ranking["candidates"]}
    assert kinds == {(net, way) for net in ("ResNet", "SFCN") for way in ("scratch", "frozen", "full", "full + L2SP")}
    assert all(row["failed"] == 0 and row["validation_mean"] is not None for row in ranking["candidates"])


def test_every_file_of_a_real_run_keeps_its_contract(run):
    results = run.folder / "results"
    documents = {
        "cohort": "cohort/cohort.json", "shard": "store/*/shard-*.json", "encoder": "encoders/*/encoder.json",
        "model": "models/*/model.json", "scores": "scores/*/scores-*.json", "ranking": "ranking/ranking.json",
    }
    for name, pattern in documents.items():
        paths = sorted(results.glob(pattern))
        assert paths, pattern
        for path in paths:
            check_json(name, json.loads(path.read_text()))
    for name, pattern in {"trial": "search/*/trials.jsonl", "pretraining": "search/*/pretrainings.jsonl"}.items():
        lines = [line for path in results.glob(pattern) for line in path.read_text().splitlines()]
        assert lines, pattern
        for line in lines:
            check_json(name, json.loads(line))
    tables = {
        "cohort": "cohort/cohort.parquet", "shard": "store/*/shard-all.parquet", "splits": "search/*/splits.parquet",
        "predictions": "scores/*/predictions-*.parquet", "history": "*/*/history.csv", "ranking": "ranking/ranking.csv",
    }
    for name, pattern in tables.items():
        paths = sorted(results.glob(pattern))
        assert paths, pattern
        for path in paths:
            check_table(name, pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path))


def test_with_all_test_labels_changed_nothing_is_trained_anew_and_the_selection_stays(run, nextflow, folder):
    before = run.json("results/ranking/ranking.json")
    splits = pd.read_parquet(next((run.folder / "results" / "search").glob("*/splits.parquet")))
    trial = json.loads(next((run.folder / "results" / "search").glob("*/trials.jsonl")).read_text().splitlines()[0])
    test = splits[(splits["split"] == trial["split"]) & (splits["role"] == "test")]["scan_id"]
    subjects = {scan.split("/")[1] for scan in test}
    sheet = pd.read_csv(folder / "cohorts.csv")
    rows = sheet["subject"].isin(subjects)
    sheet.loc[rows, "diagnosis"] = sheet.loc[rows, "diagnosis"].map({"control": "patient", "patient": "control"})
    sheet.to_csv(folder / "cohorts.csv", index=False)
    again = nextflow(folder, "--params-file", "sweep.json", "-resume")
    assert again.status == 0, again.text
    assert set(again.submitted) == {"COHORT", "SUGGEST", "EVALUATE", "RANK"}
    after = again.json("results/ranking/ranking.json")
    order = [[(row["candidate"], row["validation_mean"], row["selected"]) for row in one["candidates"]] for one in (before, after)]
    assert order[0] == order[1]
    tested = [[row["test_mean"] for row in one["candidates"] if row["selected"]] for one in (before, after)]
    assert [1 - value for value in tested[0]] == pytest.approx(tested[1])


def test_wrong_scans_and_a_wrong_sweep_are_told_together_and_nothing_else_is_started(nextflow, folder, tmp_path):
    sheet = pd.read_csv(folder / "cohorts.csv").drop(columns=["diagnosis"])
    whole = Path(sheet["image"][3]).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    sheet.loc[3, "image"] = str(tmp_path / ("cut.nii.gz" if sheet["image"][3].endswith(".gz") else "cut.nii"))
    (tmp_path / "cut.nii").write_bytes(whole[: len(whole) // 2])
    sheet.loc[5, "image"] = "nowhere.nii.gz"
    sheet.to_csv(tmp_path / "cohorts.csv", index=False)
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep["search"]["space"]["stages.finetun.epochs"] = [1]
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    run = nextflow(tmp_path, "--params-file", "sweep.json")
    assert run.status != 0 and set(run.submitted) == {"COHORT"}
    assert "row 4" in run.text and "row 6" in run.text and "nowhere.nii.gz" in run.text
    assert "did you mean 'finetune'?" in run.text
    assert "Traceback" not in run.text
