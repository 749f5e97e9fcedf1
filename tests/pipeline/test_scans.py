"""Scans from where they lie: a BIDS folder with sites held out, roots and label tables with nested folds, time series."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
SMALL = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
NETWORKS_OF_SERIES = ["CNN1D", "TemporalTransformer", "GRU", "LinearBaseline"]
WAYS = [{"strategy": "scratch"}, {"strategy": "scratch", "batch_size": 8}]


def small_sweep(**changes) -> dict:
    """The sweep of the test profile with one epoch a stage and no look at what networks see."""
    sweep = copy.deepcopy(SMALL) | {"outdir": "results"} | changes
    sweep["evaluate"]["explained"] = 0
    for stage in sweep["stages"]:
        stage["epochs"] = 1
    return sweep


def parts(run, split: str) -> dict[str, set[str]]:
    """Role -> persons of one split."""
    table = pd.read_parquet(run.folder / "results" / "cohort" / "cohort.parquet")
    rows = pd.read_parquet(next((run.folder / "results" / "search").glob("round-1/splits.parquet"))).merge(table, on="scan_id")
    return {role: set(part["person"]) for role, part in rows[rows["split"] == split].groupby("role")}


def trials_of(run) -> list[dict]:
    """The lines of trials.jsonl."""
    return [json.loads(line) for line in (run.folder / "results/search/round-1/trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def held_out(nextflow, demo_cohort, tmp_path_factory):
    """A run on one BIDS folder in which each site is the test part once."""
    folder = tmp_path_factory.mktemp("held-out")
    sweep = small_sweep(split={"scheme": "site", "validation": 2})
    sweep["stages"] = sweep["stages"][1:]
    sweep["stages"][0]["targets"] = "age"
    sweep["stages"][0]["data"]["labelled"]["cohort"] = "tlimb-demo-clinic"
    sweep["search"]["space"] = {}
    del sweep["input"]
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return nextflow(folder, "--params-file", "sweep.json", "--input", demo_cohort / "clinic")


def test_every_site_of_a_bids_folder_is_the_test_part_once(held_out):
    assert held_out.status == 0, held_out.text
    assert all(row["failed"] == 0 for row in held_out.json("results/ranking/ranking.json")["candidates"])
    table = pd.read_parquet(held_out.folder / "results" / "cohort" / "cohort.parquet").set_index("person")
    tested = []
    for trial in trials_of(held_out):
        roles = parts(held_out, trial["split"])
        sites = set(table.loc[sorted(roles["test"]), "site"])
        assert sites == set(trial["spec"]["split"]["held_out"])
        assert not sites & set(table.loc[sorted(roles["train"] | roles["validation"]), "site"])
        tested += sorted(roles["test"])
    assert sorted(tested) == sorted(table.index)


def test_its_report_shows_the_scans_as_they_were_registered(held_out):
    report = (held_out.folder / "results" / "ranking" / "report.html").read_text()
    assert "data:image/png;base64," in report and "/1/T1w" in report


@pytest.mark.long
def test_a_scan_added_to_the_bids_folder_is_seen_by_resume(held_out, nextflow, demo_cohort, tmp_path):
    again = nextflow(held_out.folder, "--params-file", "sweep.json", "--input", demo_cohort / "clinic", "-resume")
    assert again.status == 0 and again.submitted == [], again.text
    table = demo_cohort / "clinic" / "participants.tsv"
    before = table.read_text()
    try:
        table.write_text(before.replace("\tdiagnosis\t", "\tillness\t"))
        changed = nextflow(held_out.folder, "--params-file", "sweep.json", "--input", demo_cohort / "clinic", "-resume")
    finally:
        table.write_text(before)
    assert "COHORT" in changed.submitted and "PREPROCESS" not in changed.submitted, changed.text


@pytest.fixture(scope="module")
def nested(nextflow, demo_cohort, tmp_path_factory):
    """A run on a samplesheet of two BIDS folders, the target's label in a table of its own, nested folds."""
    folder = tmp_path_factory.mktemp("nested folds")
    (folder / "roots.csv").write_text(f"cohort,subject,image\nclinic,,{demo_cohort}/clinic\nlifespan,,{demo_cohort}/lifespan\n")
    people = pd.read_csv(demo_cohort / "clinic" / "participants.tsv", sep="\t")
    table = pd.DataFrame({"subject": people["participant_id"], "group": people["diagnosis"].str.upper()})
    table.to_csv(folder / "groups.csv", index=False)
    sweep = small_sweep(input="roots.csv", label_tables=["groups.csv"])
    sweep["stages"][1]["targets"] = "group"
    sweep["split"] = {"scheme": "nested", "folds": 2, "inner_folds": 2, "stratify": ["group"]}
    sweep["search"]["space"] = {"stages.finetune": WAYS}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return nextflow(folder, "--params-file", "sweep.json", "--trials_per_task", 8)


@pytest.mark.long
def test_nested_folds_of_roots_and_label_tables_give_an_estimate_of_the_whole_selection(nested):
    assert nested.status == 0, nested.text
    trials = trials_of(nested)
    assert len(trials) == 2 * 2 * 2 and len({trial["candidate"] for trial in trials}) == 2
    ranking = nested.json("results/ranking/ranking.json")
    estimate = ranking["nested"]
    assert [fold["fold"] for fold in estimate["folds"]] == [0, 1]
    assert estimate["low"] <= estimate["value"] <= estimate["high"]
    candidates = {row["candidate"] for row in ranking["candidates"]}
    assert {fold["candidate"] for fold in estimate["folds"]} <= candidates
    outer = {}
    for trial in trials:
        split = trial["spec"]["split"]
        outer.setdefault(split["fold"], set()).add(frozenset(parts(nested, trial["split"])["test"]))
    assert all(len(tested) == 1 for tested in outer.values()) and not set.intersection(*(set(*each) for each in outer.values()))


@pytest.mark.long
def test_time_series_from_tables_and_images_with_an_atlas_of_ones_own_end_with_an_answer(nextflow, tmp_path):
    import nibabel

    from tlimb.demo.series import write_series_cohort
    from tlimb.preprocess.atlas import load_atlas

    write_series_cohort(tmp_path / "series", 32, 0)
    atlas = load_atlas("blocks")
    (tmp_path / "own [1]").mkdir()
    nibabel.save(nibabel.Nifti1Image(atlas.labels, atlas.affine), tmp_path / "own [1]" / "parts.nii.gz")
    names = pd.DataFrame({"index": atlas.numbers, "name": atlas.names})
    names.to_csv(tmp_path / "own [1]" / "parts.csv", index=False)
    sweep = json.loads((ROOT / "assets" / "sweeps" / "series.json").read_text())
    sweep |= {"input": "series/cohorts.csv", "outdir": "results"}
    sweep["recipes"]["bold"]["atlas"] = "own [1]/parts.nii.gz"
    for stage in sweep["stages"]:
        stage["epochs"] = 1
    ways = [{"stages.finetune": way} for way in sweep["search"]["space"]["stages.finetune"]]
    others = [{"architecture": {"class_path": name}, **ways[0]} for name in NETWORKS_OF_SERIES]
    sweep["search"]["space"] = {"*": ways + others}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    run = nextflow(tmp_path, "--params-file", "sweep.json", "--trials_per_task", 8)
    assert run.status == 0, run.text
    ranking = run.json("results/ranking/ranking.json")
    assert ranking["answer"] in run.text and all(row["failed"] == 0 for row in ranking["candidates"])
    assert {row["architecture"] for row in ranking["candidates"]} == {"ResNet", *NETWORKS_OF_SERIES}
    headers = [json.loads(path.read_text()) for path in (tmp_path / "results" / "store").glob("*/shard-*.json")]
    assert headers and all(header["recipe"]["kind"] == "series" for header in headers)
    assert all(header["regions"] == list(atlas.names) for header in headers)
