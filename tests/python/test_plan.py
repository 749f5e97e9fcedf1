import json
import sys

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from tlimb.cli import main


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
    auxiliary = [{"class_path": "L2SP", "init_args": {"alpha": -1}}]
    document["search"] = {"space": {}}
    document["stages"][1] |= {"strategy": "full", "objective": {"auxiliary": auxiliary}}
    sweep.write_text(json.dumps(document))
    refused = CliRunner().invoke(main, ["plan", str(sweep)])
    assert refused.exit_code == 1
    assert "stages.finetune.objective.auxiliary[0].init_args.alpha: expected" in refused.output


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
