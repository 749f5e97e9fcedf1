"""The user's own command on a real Slurm with two pretend GPUs."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_literal_command_runs_on_slurm_where_only_what_runs_networks_asks_for_a_gpu(
    nextflow, slurm_cluster, pipeline, demo_cohort
):
    sweep = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
    (pipeline / "sweep.json").write_text(
        json.dumps(sweep | {"input": str(demo_cohort / "cohorts.csv"), "outdir": "results"})
    )

    run = nextflow(
        pipeline, "-profile", "slurm,gpu", "--params-file", "sweep.json", pipeline=".", environment=slurm_cluster
    )

    assert run.status == 0, run.text
    assert run.json("results/ranking/ranking.json")["answer"] in run.text
    jobs = {}
    for wrapper in pipeline.glob("work/*/*/.command.run"):
        text = wrapper.read_text()
        name = re.search(r"### name: '(?:\w+:)*(\w+)", text).group(1)
        said = (wrapper.parent / ".command.err").read_text()
        jobs.setdefault(name, set()).add(("#SBATCH" in text, "#SBATCH --gres=gpu:1" in text, "no GPU answers" in said))
    on_gpus = {"PRETRAIN_1", "FINETUNE", "EXPLAIN"}
    assert jobs.pop("COHORT") == {(False, False, False)}
    assert {name: kinds for name, kinds in jobs.items() if name in on_gpus} == {
        name: {(True, True, True)} for name in on_gpus
    }
    assert {name: kinds for name, kinds in jobs.items() if name not in on_gpus} == {
        name: {(True, False, False)} for name in ("PREPROCESS", "SUGGEST", "EVALUATE", "SELECT", "RANK")
    }
