"""The whole graph on stubs: settings and their precedence, what is told of wrong ones, resuming."""

import json
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TASKS = [
    "COHORT",
    "EVALUATE",
    "EVALUATE",
    "EXPLAIN",
    "FINETUNE",
    "FINETUNE",
    "PREPROCESS",
    "PREPROCESS",
    "PRETRAIN_1",
    "PRETRAIN_2",
    "PROBE",
    "RANK",
    "SELECT",
    "SUGGEST",
]
SWEEP = {
    "input": "my cohorts.csv",
    "outdir": "from file",
    "chunk_size": 7,
    "labels": {"age": "regression"},
    "search": {
        "seeds": [0, 1],
        "space": {"stages.*.optimizer.init_args.lr": [1e-4, 0.001], "stages.finetune": [{}, {"epochs": 3}]},
    },
}


@pytest.fixture
def folder(tmp_path):
    """A launch folder with a samplesheet and a sweep."""
    (tmp_path / "my cohorts.csv").write_text("cohort,subject,image\nclinic,1,1.nii\n")
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    return tmp_path


@pytest.mark.parametrize("option", ["--params-file", "-params-file"])
def test_both_spellings_take_nested_values_from_the_file_and_let_flags_win(nextflow, folder, option):
    flags = ["--search.seeds", "[5, 6]", "--chunk_size", "9", "--labels.age", "classification"]
    started = time.monotonic()
    run = nextflow(folder, option, "sweep.json", *flags, "-stub")
    assert time.monotonic() - started < 60
    assert run.status == 0, run.text
    assert sorted(run.submitted) == TASKS
    sweep = run.json("from file/cohort/sweep.json")
    assert sweep["search"] == {**SWEEP["search"], "seeds": [5, 6]}
    assert sweep["labels"] == {"age": "classification"} and "chunk_size" not in sweep
    assert "A stub ran" in run.text and str(folder / "from file/ranking/report.html") in run.text
    assert {path.name for path in (folder / "from file").iterdir()} == {
        "cohort",
        "store",
        "search",
        "encoders",
        "models",
        "scores",
        "probes",
        "explanations",
        "ranking",
        "pipeline_info",
    }
    assert not (folder / "results").exists()


def test_a_flag_wins_over_the_file_the_file_over_a_configuration_and_that_over_a_preset(nextflow, folder):
    (folder / "preset.json").write_text(
        json.dumps(
            {
                "input": "no.csv",
                "outdir": "preset",
                "split": {"seed": 1},
                "search": {"seeds": [1]},
                "evaluate": {"seed": 1},
                "labels": {"a": 1},
            }
        )
    )
    (folder / "own.config").write_text(
        "params { preset = 'preset.json'\n split = [seed: 2]\n search = [seeds: [2]]\n labels = [b: 2] }"
    )
    (folder / "sweep.json").write_text(
        json.dumps({"input": "my cohorts.csv", "search": {"seeds": [3], "metric": "auroc"}})
    )
    run = nextflow(
        folder,
        "-c",
        "own.config",
        "--params-file",
        "sweep.json",
        "--search.metric",
        "mcc",
        "--outdir=flag",
        "--evaluate.bootstrap",
        "500",
        "-stub",
    )
    assert run.status == 0, run.text
    sweep = run.json("flag/cohort/sweep.json")
    assert sweep["search"] == {"seeds": [3], "metric": "mcc"}
    assert (sweep["split"], sweep["labels"]) == ({"seed": 2}, {"b": 2})
    assert sweep["evaluate"] == {"seed": 1, "bootstrap": 500, "confidence": 0.95}
    assert (sweep["input"], sweep["outdir"]) == ("my cohorts.csv", "flag")


def test_resuming_repeats_nothing_and_a_change_that_reaches_no_job_trains_nothing_again(nextflow, folder, pipeline):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    first = nextflow(elsewhere, "--params-file", "../sweep.json", "-stub", pipeline=pipeline)
    assert first.status == 0 and sorted(first.submitted) == TASKS, first.text
    again = nextflow(elsewhere, "--params-file", "../sweep.json", "-stub", "-resume", pipeline=pipeline)
    assert (again.status, again.submitted, sorted(again.cached)) == (0, [], TASKS), again.text
    changed = nextflow(
        elsewhere, "--params-file", "../sweep.json", "--split.seed", "3", "-stub", "-resume", pipeline=pipeline
    )
    assert changed.status == 0 and sorted(changed.submitted) == ["COHORT", "RANK", "SELECT", "SUGGEST"], changed.text


def test_an_edit_of_the_report_ranks_again_and_an_edit_of_training_code_trains_again(nextflow, folder, pipeline):
    assert nextflow(folder, "--input", "my cohorts.csv", "-stub", pipeline=pipeline).status == 0
    for edited, again in [
        ("python/tlimb/ranking/report.py", ["RANK"]),
        ("bin/tlimb_rank.py", ["RANK"]),
        # what checks a sweep reads the classes that it may name, scenarios among them, and these import the training code
        ("python/tlimb/state.py", [task for task in TASKS if task != "PREPROCESS"]),
    ]:
        with open(pipeline / edited, "a") as file:
            file.write("# edited\n")
        run = nextflow(folder, "--input", "my cohorts.csv", "-stub", "-resume", pipeline=pipeline)
        assert run.status == 0 and sorted(run.submitted) == again, (edited, run.text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["no input: name a samplesheet by --input"]),
        (["--params-file", "none.json"], ["Params file not found: none.json"]),
        (["-params-file", "none.json"], ["none.json"]),
        (["--params-file", "broken.json"], ["broken.json is not valid JSON: Unable", "line number 2"]),
        (["-params-file", "broken.json"], ["Cannot parse params file: broken.json"]),
        (["--params-file", "list.json"], ["list.json holds a list; expected a JSON object"]),
        (["--input", "none.csv"], ["Samplesheet or BIDS folder not found: none.csv"]),
        (
            ["--input", "my cohorts.csv", "--outdir", "my cohorts.csv/out"],
            ["Cannot write to outdir my cohorts.csv/out", "Not a directory"],
        ),
        (
            [
                "--params-file",
                "sweep.json",
                "--chunksize",
                "3",
                "--chunk_size",
                "many",
                "--trials_per_task",
                "0",
                "--trusted_modules",
                "a;b",
                "--outdir",
            ],
            [
                "5 problems",
                "--chunksize: no such parameter; did you mean --chunk_size?",
                "--chunk_size: expected a whole number, found 'many'",
                "--trials_per_task: expected at least 1",
                "--trusted_modules: expected names of modules",
                "--outdir: expected a path",
            ],
        ),
    ],
)
def test_wrong_settings_are_told_plainly_and_nothing_is_started(nextflow, folder, arguments, told):
    (folder / "broken.json").write_text('{"input": "my cohorts.csv",\n "outdir": }')
    (folder / "list.json").write_text("[1, 2]")
    run = nextflow(folder, *arguments, "-stub")
    assert run.status == 1
    assert [part for part in told if part not in run.text] == [], run.text
    assert run.submitted == [] and "Exception" not in run.text


def test_help_describes_every_parameter_and_writes_nothing(nextflow, folder):
    run = nextflow(folder, "--help")
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]
    names = [name for group in groups.values() for name in group["properties"]]
    assert run.status == 0 and [name for name in names if f"--{name} " not in run.text] == []
    assert {path.name for path in folder.iterdir()} <= {
        "my cohorts.csv",
        "sweep.json",
        ".nextflow",
        ".nextflow.log",
        "work",
    }


def flat_configuration(*arguments: str) -> dict[str, str]:
    done = subprocess.run(["nextflow", "config", "-flat", ROOT, *arguments], capture_output=True, text=True, check=True)
    return dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)


def test_defaults_of_the_configuration_are_those_of_the_schema(nextflow):
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]
    told = {name: entry.get("default") for name, entry in groups["run"]["properties"].items()} | {
        "outdir": groups["sweep"]["properties"]["outdir"]["default"]
    }
    settled = {
        key.removeprefix("params."): value for key, value in flat_configuration().items() if key.startswith("params.")
    }
    settled.pop("pipeline_info")
    assert {name: json.loads(value.replace("'", '"')) for name, value in settled.items()} == told


def test_profiles_compose_in_any_order(nextflow):
    composed = flat_configuration("-profile", "slurm,gpu,singularity")
    assert composed == flat_configuration("-profile", "singularity,gpu,slurm")
    assert (
        composed["process.executor"] == "'slurm'"
        and composed["process.'withLabel:process_check'.executor"] == "'local'"
    )
    assert (
        "meta.devices" in composed["process.'withLabel:process_gp[u]'.accelerator"]
        and "meta.devices" in composed["process.'withLabel:process_gpu'.cpus"]
    )
    assert "--gres=gpu" in composed["process.'withLabel:process_gp[u]'.clusterOptions"]
    assert composed["singularity.enabled"] == "true"
