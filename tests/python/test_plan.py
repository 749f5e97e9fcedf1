import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tlimb.cli import main
from tlimb.cohort import read_cohort
from tlimb.durations import duration_text, read_duration
from tlimb.files import read_json, write_json, write_jsonl
from tlimb.search.costs import read_known, steps_of
from tlimb.search.jobs import write_round
from tlimb.search.plan import plan_of
from tlimb.search.rates import Rates
from tlimb.search.study import write_study
from tlimb.search.trace import read_trace


@pytest.fixture
def sweep(document, table, tmp_path):
    """The sweep's file beside a samplesheet of scans that are small but whole."""
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4))
    for name in table["subject"]:
        nibabel.save(image, tmp_path / f"{name}.nii")
    sheet = table[["cohort", "subject", "age", "diagnosis"]].assign(image=table["subject"] + ".nii")
    sheet.to_csv(tmp_path / "cohorts.csv", index=False)
    document["split"]["seed"] = 1
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(document))
    return path


def test_a_plan_counts_trials_pretrainings_scans_and_disk_and_runs_nothing(sweep):
    result = CliRunner().invoke(main, ["plan", str(sweep)])
    assert result.exit_code == 0, result.output
    assert "8 trials of 4 candidates (2 seeds), 2 of them from scratch" in result.output
    assert "2 distinct pretrainings" in result.output
    assert "60 scans of 60 persons: clinic 24, lifespan 36" in result.output
    assert f"store 'default': {60 * 80 * 96 * 80 * 2 / 1e9:.2f} GB" in result.output
    resnet_18 = 11_170_000 * 4
    assert f"weights of encoders and models: {10 * resnet_18 / 1e9:.2f} GB" in result.output
    assert sorted(path.suffix for path in sweep.parent.iterdir() if path.suffix != ".nii") == [".csv", ".json"]


def test_presets_of_strategies_and_of_fine_tuning_are_planned_together(sweep):
    document = json.loads(sweep.read_text())
    document["search"] = {"method": "random", "points": 16, "presets": ["strategies", "fine-tuning"]}
    sweep.write_text(json.dumps(document))
    run = CliRunner().invoke(main, ["plan", str(sweep)])
    assert run.exit_code == 0, run.output
    assert run.output.startswith("16 trials of 16 candidates (1 seed), 1 of them from scratch")


def test_a_plan_that_cannot_run_names_every_problem_of_sweep_and_samplesheet(sweep):
    document = json.loads(sweep.read_text())
    document["stages"][1]["targets"] = "diagnoses"
    document["stages"][0]["data"]["labelled"]["cohort"] = "lifespam"
    sweep.write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["plan", str(sweep)])
    assert result.exit_code == 1
    assert "did you mean 'diagnosis'?" in result.output and "did you mean 'lifespan'?" in result.output


def test_classes_of_ones_own_in_the_launch_folder_and_their_values_are_checked(sweep, monkeypatch):
    document = json.loads(sweep.read_text()) | {"trusted_modules": "my_steps"}
    steps = [{"class_path": "my_steps.Still"}, {"class_path": "RandomNoise", "init_args": {"sd": 0.1}}]
    document["stages"][1]["data"]["augment"] = steps
    (sweep.parent / "my_steps.py").write_text("class Still:\n    def __init__(self):\n        pass\n")
    monkeypatch.chdir(sweep.parent)
    monkeypatch.setattr("sys.path", [*sys.path])
    sweep.write_text(json.dumps(document))
    assert CliRunner().invoke(main, ["plan", str(sweep)]).exit_code == 0
    steps[1]["init_args"]["sd"] = -1
    sweep.write_text(json.dumps(document))
    refused = CliRunner().invoke(main, ["plan", str(sweep)])
    assert refused.exit_code == 1 and "RandomNoise: sd: expected" in refused.output


def test_values_that_only_a_term_can_judge_are_told_with_their_place(sweep):
    document = json.loads(sweep.read_text())
    primary = {"class_path": "Focal", "init_args": {"class_weights": [1, 2, 3]}}
    document["search"] = {"space": {}}
    document["stages"][1] |= {"strategy": "full", "objective": {"primary": primary}}
    sweep.write_text(json.dumps(document))
    refused = CliRunner().invoke(main, ["plan", str(sweep)])
    assert refused.exit_code == 1
    assert "stages.finetune.objective.primary.init_args.class_weights" in refused.output


def test_masks_that_a_recipe_asks_for_and_nobody_gives_are_told_before_anything_runs(sweep):
    document = json.loads(sweep.read_text()) | {"recipes": {"default": {"mask": "own"}}}
    sweep.write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["plan", str(sweep)])
    assert result.exit_code == 1 and "recipes.default.mask: 60 of 60 scans have none: clinic/clinic-000/1/T1w" in result.output


def test_help_explains_every_command():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("demo-cohort", "demo-series", "plan", "samplesheet", "schema", "show"):
        assert command in result.output


TRACE = """task_id\tname\tstatus\tsubmit\trealtime\tpeak_rss
1\tPREPARE:COHORT\tCOMPLETED\t2026-01-01 00:00:00.000\t10s\t100 MB
2\tPREPARE:PREPROCESS (default all)\tCOMPLETED\t2026-01-01 00:00:10.000\t2m\t1 GB
3\tSEARCH:ROUND_1:TRANSFER:PRETRAIN_1 (a)\tCOMPLETED\t2026-01-01 00:02:10.000\t1m 40s\t2.5 GB
4\tSEARCH:ROUND_1:TRANSFER:PRETRAIN_1 (b)\tCOMPLETED\t2026-01-01 00:02:10.000\t1m 40s\t2 GB
5\tSEARCH:ROUND_1:TRANSFER:FINETUNE (c)\tFAILED\t2026-01-01 00:03:50.000\t1h\t9 GB
6\tSEARCH:ROUND_1:TRANSFER:FINETUNE (c)\tCACHED\t2025-01-01 00:03:50.000\t1m\t1 GB
7\tRANK\tCOMPLETED\t2026-01-01 00:03:50.000\t500ms\t-
8\tRANK\tRUNNING\t2026-01-01"""


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "trace.txt").write_text(TRACE)
    return read_trace(tmp_path / "trace.txt")


def ran(sweep, seconds: float) -> Path:
    """What a run of the sweep would leave: one trained encoder and one model that each took so many seconds for a scan
    and epoch, a store of 60 scans and a trace."""
    outdir = sweep.parent / "results"
    found = plan_of(sweep)
    line, scratch = found.proposal.pretrainings[0], found.proposal.trials[0]
    assert scratch["init"] == ""
    trained = {"status": "ok", "device": "cpu", "recipe": found.sweep.recipes["default"].model_dump()}
    for place, about, stage, made in (
        (f"encoders/{line['id']}/encoder.json", line, line["spec"]["stage"], {}),
        (f"models/{scratch['id']}/model.json", scratch, scratch["spec"]["stages"][-1], {"spec": scratch["spec"]}),
    ):
        epochs = stage["epochs"] - 1  # stopped early
        facts = {"id": about["id"], "epochs_run": epochs, "n": {"train": 5}, "seconds": seconds * 5 * epochs}
        write_json(outdir / place, trained | made | facts | {"architecture": about["spec"]["architecture"]})
    write_jsonl(outdir / "search" / "round-1" / "pretrainings.jsonl", found.proposal.pretrainings)
    write_jsonl(outdir / "search" / "round-1" / "trials.jsonl", found.proposal.trials)
    write_json(outdir / "store" / "default" / "shard-all.json", {"n": 60})
    (outdir / "pipeline_info").mkdir()
    (outdir / "pipeline_info" / "trace.txt").write_text(TRACE)
    return outdir


def told(sweep, *options) -> dict[str, str]:
    """First word of each line of the plan -> the rest."""
    result = CliRunner().invoke(main, ["plan", str(sweep), *options])
    assert result.exit_code == 0, result.output
    return {line.split()[0]: " ".join(line.split()[1:]) for line in result.output.splitlines()}


def test_a_trace_tells_tasks_that_ended_well_and_how_many_ran_at_once(trace):
    processes = ["COHORT", "PREPROCESS", "PRETRAIN", "PRETRAIN", "FINETUNE", "RANK"]
    assert [task.process for task in trace.tasks] == processes
    assert trace.mean("PRETRAIN") == 100 and trace.mean("EVALUATE") is None
    assert trace.at_once == pytest.approx((10 + 120 + 200 + 0.5) / (10 + 120 + 100 + 0.5))
    assert trace.at_once_of("PRETRAIN", "FINETUNE") == 2
    assert trace.memory == 2.5 * 2**30
    assert read_trace(Path("nothing")) is None


@pytest.mark.parametrize(
    ("text", "seconds", "said"),
    [("812ms", 0.812, "1 s"), ("44.7s", 44.7, "45 s"), ("2m 13s", 133, "2 min"), ("3h 20m", 12000, "3 h 20 min"),
     ("1d 2h", 93600, "26 h"), ("5d", 432000, "5 d"), ("-", None, "")],
)  # fmt: skip
def test_lengths_of_time_are_read_as_nextflow_writes_them_and_said_shortly(text, seconds, said):
    assert read_duration(text) == pytest.approx(seconds)
    assert seconds is None or duration_text(seconds) == said


def test_a_rate_is_that_of_trainings_alike_else_of_the_nearest_kind():
    rates = Rates()
    assert rates.seconds(["a", "net, images", "net", "trained", ""], 5) is None
    rates.add(["a", "net, images", "net", "trained", ""], 10, 20.0)
    rates.add(["b", "net, images", "net", "trained", ""], 10, 40.0)
    rates.add(["c", "other", "other net", "trained", ""], 20, 120.0)
    assert rates.seconds(["a", "net, images", "net", "trained", ""], 5) == (10.0, "trained alike")
    assert rates.seconds(["x", "net, images", "net", "trained", ""], 5) == (15.0, "of that network on such images")
    assert rates.seconds(["x", "y", "net", "trained", ""], 5) == (15.0, "of that network")
    assert rates.seconds(["x", "y", "z", "trained", ""], 5) == (pytest.approx(5 * 180 / 40), "of other networks")
    assert rates.seconds(["x", "y", "z", "frozen", ""], 5) == (pytest.approx(5 * 180 / 40), "of other kinds")


def test_before_a_first_run_the_time_is_said_to_be_unknown_and_tasks_are_counted(sweep):
    lines = told(sweep, "--trials-per-task", "2", "--chunk-size", "60")
    assert lines["time:"].startswith("unknown until a first run")
    tasks = {"COHORT": 1, "PREPROCESS": 1, "SUGGEST": 1, "PRETRAIN": 2, "FINETUNE": 6, "EVALUATE": 6, "RANK": 1}
    assert {name: lines[name] for name in tasks} == {name: f"{count} ?" for name, count in tasks.items()}
    assert told(sweep)["FINETUNE"] == "4 ?"


def test_packs_of_samples_that_lack_a_class_are_counted_as_they_are_written(sweep, tmp_path):
    sheet = pd.read_csv(sweep.parent / "cohorts.csv")
    sheet["site"] = ["north", "south", "rare", "south", "north", "south"] * 10
    sheet.loc[sheet["cohort"] == "clinic", "site"] = ["rare"] * 5 + ["north", "south"] * 9 + ["north"]
    sheet.to_csv(sweep.parent / "cohorts.csv", index=False)
    document = json.loads(sweep.read_text())
    document["split"] |= {"n": 6, "replicates": 8}
    removal = {"class_path": "AdversarialRemoval", "init_args": {"column": "site"}}
    document["stages"][1]["objective"] = {"auxiliary": [removal]}
    document["search"] = {"seeds": [0], "space": {"stages.finetune.strategy": ["scratch"]}}
    sweep.write_text(json.dumps(document))
    plan = plan_of(sweep)
    write_round(tmp_path / "round", plan.proposal, read_cohort(sweep.parent / "cohorts.csv").table, plan.summary, 4)
    written = [read_json(path) for path in (tmp_path / "round" / "jobs").glob("*/job.json")]
    packs = [job for job in written if job["kind"] == "finetune"]
    assert len({str(job["columns"]) for job in packs}) == 2  # of 8 samples some lack the rare site
    assert len(packs) == 3 and told(sweep)["FINETUNE"] == f"{len(packs)} ?"


def test_time_follows_from_what_the_last_run_took(sweep):
    outdir = ran(sweep, seconds=2.0)
    document = json.loads(sweep.read_text())
    document |= {"outdir": str(outdir), "trials_per_task": 2, "chunk_size": 60}
    document["search"]["space"]["stages.finetune"] = [{"strategy": "scratch"}, {"strategy": "full"}]
    sweep.write_text(json.dumps(document))
    lines = told(sweep)
    proposal = plan_of(sweep).proposal
    drawn = proposal.splits[proposal.splits["role"] == "train"]["split"].value_counts()
    beside = 200 - 2.0 * 5 * 2, 60 - 2.0 * 5 * 3  # of the two pretraining tasks together, of each fine-tuning task
    pretraining = 2 * (2.0 * drawn[proposal.pretrainings[0]["split"]] * 3) + beside[0]
    tuning = 4 * (2.0 * drawn[proposal.trials[0]["split"]] * 4) + 4 * beside[1]
    assert lines["PRETRAIN"] == f"2 {duration_text(pretraining)}"
    assert lines["FINETUNE"] == f"4 {duration_text(tuning)}"
    assert lines["PREPROCESS"] == "1 2 min" and lines["COHORT"] == "1 10 s" and lines["EVALUATE"] == "4 ?"
    assert "with 1.4 of them at once" in lines["time:"]
    assert "and what SUGGEST, EVALUATE, SELECT, EXPLAIN take" in lines["time:"]
    assert lines["known"] == f"from 2 trainings on cpu in {outdir}; early stopping makes it less"
    assert lines["memory:"] == "up to 2.7 GB a task in the last run"


def test_several_devices_share_the_time_and_are_counted(sweep):
    outdir = ran(sweep, seconds=2.0)
    document = json.loads(sweep.read_text()) | {"outdir": str(outdir)}
    sweep.write_text(json.dumps(document))
    alone = plan_of(sweep)
    document["stages"][1]["trainer"] = {"devices": 2}
    sweep.write_text(json.dumps(document))
    both, known = plan_of(sweep), read_known(outdir)
    one, two = (
        {step.process: step for step in steps_of(of.sweep, of.proposal, of.scans, of.growth, known, (4, 64), of.rows)}
        for of in (alone, both)
    )
    start = known.beside["FINETUNE"] * one["FINETUNE"].tasks
    assert two["FINETUNE"].seconds - start == pytest.approx((one["FINETUNE"].seconds - start) / 2)
    assert two["FINETUNE"].device_seconds == pytest.approx(one["FINETUNE"].device_seconds)
    assert two["PRETRAIN"] == one["PRETRAIN"]
    assert "device hours" in told(sweep)["devices:"]


def test_rounds_to_come_are_counted_at_most(sweep):
    document = json.loads(sweep.read_text())
    document["stages"][1]["epochs"] = 9
    rates = {"stages.*.optimizer.init_args.lr": [0.001 * i for i in range(1, 10)]}
    document["search"] = {"method": "halving", "seeds": [0], "space": rates}
    sweep.write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["plan", str(sweep)])
    assert "9 trials of 9 candidates (1 seed)" in result.output
    assert "the first of 3 rounds of halving, at most: 13 trainings of trials, 21 epochs in all" in result.output
    assert "SUGGEST           3" in result.output and "4 times its weights" in result.output


def test_steps_timed_on_the_spot_stand_for_a_run_that_is_not_there(sweep):
    document = json.loads(sweep.read_text())
    document["recipes"] = {"default": {"spacing": 8.0}}
    document["architecture"]["init_args"] |= {"depth": 10, "width": 0.125}
    sweep.write_text(json.dumps(document))
    lines = told(sweep, "--measure")
    assert lines["PRETRAIN"].split()[1] != "?" and lines["FINETUNE"].split()[1] != "?"
    assert lines["time:"].endswith("one after the other")
    assert lines["known"].startswith("from steps of 4 networks timed here on ")


KNOWN = "counted: 4 trials of 4 candidates that the study has, if scans and labels are still the same"


def searched(sweep, **search) -> dict:
    """The sweep's file with another search, which names the rate and how to start; the document."""
    document = json.loads(sweep.read_text())
    space = {"stages.finetune.optimizer.init_args.lr": {"log_uniform": [1e-4, 1e-2]}}
    space |= {"stages.finetune.strategy": ["full", "frozen"]}
    document["search"] = {"seeds": [0], "space": space} | search
    sweep.write_text(json.dumps(document))
    return document


def study_of(sweep, folder) -> Path:
    """The study of a sweep's first round, as a run leaves it: prepared scans make other digests of people and other
    pretrainings of it than a plan knows."""
    study = plan_of(sweep).proposal.study
    real = {"about": study.about | {"people": "0123456789ab"}, "pretrainings": ["ba9876543210"]}
    write_study(folder / "round-1" / "study.json", study.model_copy(update=real))
    return folder


def test_points_of_the_study_that_is_extended_are_not_counted_again(sweep, tmp_path):
    searched(sweep, method="random", points=4)
    study = study_of(sweep, tmp_path / "search")
    searched(sweep, method="random", points=6)
    whole, more = told(sweep, "--trials-per-task", "1"), told(sweep, "--trials-per-task", "1", "--study", str(study))
    assert whole["6"] == "trials of 6 candidates (1 seed), 0 of them from scratch"
    assert (whole["FINETUNE"], whole["PRETRAIN"]) == ("6 ?", "1 ?")
    assert (more["2"], more["FINETUNE"]) == ("trials of 2 candidates (1 seed), 0 of them from scratch", "2 ?")
    assert more["not"] == KNOWN
    assert more["0"] == "distinct pretrainings" and "PRETRAIN" not in more
    assert more["weights"] == whole["weights"]  # all of them stand in the outdir in the end
    searched(sweep, method="random", points=4, seeds=[0, 1])
    seeds = told(sweep, "--trials-per-task", "1", "--study", str(study / "round-1" / "study.json"))
    assert seeds["4"].startswith("trials of 4 candidates (2 seeds)") and seeds["FINETUNE"] == "4 ?"
    assert seeds["1"] == "distinct pretrainings"


def test_a_sweep_that_names_its_study_is_planned_as_an_extension_in_all_its_rounds(sweep, tmp_path):
    searched(sweep, method="bayes", points=8, rounds=2)
    study_of(sweep, tmp_path / "search")
    document = searched(sweep, method="bayes", points=12, rounds=3)
    assert "3 rounds of bayes, at most: 12 trainings of trials" in " ".join(told(sweep).values())
    sweep.write_text(json.dumps(document | {"study": "search"}))
    lines = told(sweep, "--trials-per-task", "1")
    assert lines["not"] == KNOWN
    assert lines["these"] == "are the first of 3 rounds of bayes, at most: 8 trainings of trials, 32 epochs in all"
    assert lines["FINETUNE"] == "8 ?"


def test_a_study_that_is_passed_over_is_told_and_all_is_counted(sweep, tmp_path):
    searched(sweep, method="random", points=4)
    study = study_of(sweep, tmp_path / "search")
    searched(sweep, method="random", points=4, seed=1)
    lines = told(sweep, "--study", str(study))
    assert lines["4"].startswith("trials of 4 candidates") and "not" not in lines
    assert lines["warning:"] == "the study before was passed over: seed 0 against 1"
    (study / "round-1" / "study.json").write_text("{}")
    assert told(sweep, "--study", str(study))["warning:"].startswith("the study before was passed over: ")
    empty = CliRunner().invoke(main, ["plan", str(sweep), "--study", str(tmp_path / "search" / "round-1")])
    assert empty.exit_code == 1 and "no round-<k>/study.json" in empty.output
