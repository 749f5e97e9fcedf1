"""The settings of the comparison of methods: who trains and is tested, what is compared with what, the twins without a
label that means anything."""

import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from tlimb.config import read_sweep
from tlimb.demo.people import people
from tlimb.search.space import candidate_of, expand, grid

ROOT = Path(__file__).parents[2]
SWEEPS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "assets/sweeps/methods").glob("*.json"))}


@pytest.fixture(scope="module")
def methods():
    """benchmarks/methods.py, which looks for its sweeps in the repository and for its studies beside it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("methods", ROOT / "benchmarks" / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "benchmarks"))
    module.SWEEPS = ROOT / module.SWEEPS
    return module


@pytest.fixture(scope="module")
def sheet():
    return people(1500, 2)


@pytest.fixture(scope="module")
def files(methods, sheet, tmp_path_factory):
    """Name -> split file, each with a column `fold`."""
    folder = tmp_path_factory.mktemp("methods")
    sheet.to_csv(folder / "cohorts.csv", index=False)
    methods.people.callback(folder)
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv") if path.stem not in ("cohorts", "permuted")}
    return {name: table if "fold" in table else table.assign(fold=0) for name, table in tables.items()}


def persons(table: pd.DataFrame, role: str, fold: int = 0) -> set[str]:
    return set(table.loc[(table["role"] == role) & (table["fold"] == fold), "subject"])


def test_nobody_has_two_roles_in_a_fold(files):
    for name, table in files.items():
        assert not table.duplicated(["subject", "fold"]).any(), name


def test_every_sweep_has_its_split_file_and_the_same_seeds(files):
    for name, document in SWEEPS.items():
        assert Path(document["split"]["file"]).stem in files, name
        assert document["search"]["seeds"] == [20, 21, 22, 23, 24], name


def test_whoever_knows_more_is_measured_on_the_same_people(files, sheet):
    twice = {"few": "all", "half": "all", "confounded": "confounded-oracle", "imbalance": "imbalance-oracle", "ages": "ages-all"}
    for known, more in twice.items():
        assert persons(files[known], "test") == persons(files[more], "test"), known
    west = set(sheet.loc[sheet["site"] == "west", "subject"])
    assert persons(files["sites-oracle"], "test") == persons(files["sites"], "test") & west
    assert persons(files["few"], "validation") == persons(files["all"], "validation")
    assert all(persons(files["few"], "train", draw) < persons(files["all"], "train") for draw in range(3))
    assert persons(files["half"], "train") < persons(files["all"], "train") and len(persons(files["all"], "train")) == 280


def test_classes_and_sites_are_shared_out_as_the_page_says(files, sheet):
    facts = sheet.set_index("subject")
    counts = {}
    for name in ("imbalance", "confounded"):
        table = files[name].join(facts[["diagnosis", "site"]], on="subject")
        counts[name] = table.groupby(["role", "diagnosis", "site"]).size()
    rare = counts["imbalance"].groupby(["role", "diagnosis"]).sum()
    assert rare["train"].to_dict() == {"control": 100, "patient": 20}
    assert rare["validation"].to_dict() == {"control": 40, "patient": 8}
    assert rare["test"].to_dict() == {"control": 120, "patient": 120}
    confounded = {("control", "east"): 6, ("control", "west"): 54, ("patient", "east"): 54, ("patient", "west"): 6}
    assert counts["confounded"]["train"].to_dict() == confounded
    assert set(counts["confounded"]["test"]) == {55}


def test_ages_that_mean_nothing_are_those_of_the_others(methods, sheet):
    lifespan = sheet[sheet["cohort"] == "lifespan"].reset_index(drop=True)
    table = methods.permuted(lifespan)
    assert sorted(table["age_null"]) == sorted(lifespan["age"])
    assert abs(table["age_null"].corr(lifespan["age"])) < 0.1


def test_each_variant_has_a_name_and_each_baseline_is_one(methods):
    for name, study in methods.STUDIES.items():
        found = methods._names(name, SWEEPS[name])
        assert sorted(found.values()) == sorted(study.methods) and len(set(study.methods)) == len(study.methods), name
        for method, several in study.baselines.items():
            assert method in ("", *study.methods) and method not in several, name
            for of in several:
                sweep, _, _ = of.rpartition(": ")
                assert sweep in SWEEPS if sweep else of in study.methods, (name, of)
        assert study.oracle.partition(": ")[0] in SWEEPS, name


def test_a_twin_learns_what_means_nothing_and_is_else_the_same(methods):
    for name, target in [("keeping", "diagnosis"), ("multitask", "diagnosis"), ("confounded", "diagnosis"), ("ages", "age")]:
        stages, twin = SWEEPS[name]["stages"], methods._renamed(SWEEPS[name], target)
        assert f'"{target}"' not in json.dumps(twin["stages"][-1]), name
        assert len(methods._names(name, twin)) == len(methods.STUDIES[name].methods), name
        assert [stage["epochs"] for stage in twin["stages"]] == [stage["epochs"] for stage in stages], name
    assert methods._renamed(SWEEPS["keeping"], "diagnosis")["stages"][0] == SWEEPS["keeping"]["stages"][0]
    assert methods._renamed("validation_diagnosis_log_loss", "diagnosis") == "validation_diagnosis_null_log_loss"
    within = methods._renamed(SWEEPS["confounded"], "diagnosis")["search"]["space"]["stages.finetune"][2]
    assert within["objective"]["auxiliary"][0]["init_args"]["within"] == {"diagnosis_null": "control"}


def test_a_baseline_of_batch_norm_passes_both_sets_and_moves_nothing_else():
    for name in ("adaptation", "semi-supervised"):
        plain, seeing = SWEEPS[name]["search"]["space"]["stages.finetune"][:2]
        assert plain == {"strategy": "full"}
        assert seeing == {"objective": {"auxiliary": [{"class_path": "MMD", "weight": 1e-9}]}}


def test_trials_of_another_sweep_are_paired_by_their_seed(methods):
    def of(*keys):
        return methods.Candidate("", 0.5, {key: f"{key}" for key in keys}, 0)

    one, base = of((20, 0, 0), (21, 0, 0), (22, 0, 0)), of((20, 0, 0), (21, 0, 0))
    assert methods._pairs(one, base) == {key: (f"{key}", f"{key}") for key in base.tables}
    base = of((20, 0, 0), (20, 0, 1), (21, 0, 0))
    assert methods._pairs(one, base) == {key: (f"{(key[0], 0, 0)}", f"{key}") for key in base.tables}


def test_a_name_stands_for_the_candidate_that_its_variant_makes(methods):
    document = SWEEPS["adaptation"]
    points = grid(read_sweep(document))
    made = {candidate_of(expand(point)[0]) for point in points}
    assert made == set(methods._names("adaptation", document))
