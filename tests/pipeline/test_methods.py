"""Chains of stages, two domains and every family of transfer methods, from the sweep to the report."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tlimb.demo.cohorts import demo_cohort

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SMALL = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
BINS = {"age": {"bins": {"low": 0.0, "high": 100.0, "width": 10.0, "sigma": 5.0}}}


def term(name: str, weight=None, **init_args) -> dict:
    return {"class_path": name, "init_args": init_args} | ({} if weight is None else {"weight": weight})


LAST = {
    "keeping": [term(name) for name in ("L2SP", "DELTA", "EWC", "FeatureDistillation", "BSS", "CoTuning")],
    "beside": [term(name) for name in ("TransformConsistency", "MeanTeacher", "FixMatch", "RotationPrediction", "Reconstruction")],
    "adapting": [term("DANN", 0.1), term("CDAN", 0.1), term("MMD"), term("DeepCORAL"), term("MDD", 0.1)],
    "shortcuts": [term("AdversarialRemoval", 0.1, column="sex"), term("CorrelationPenalty", {"ramp": "linear"}, column="age")],
}
"""Terms of the last stage, by what they are for."""

FIRST = ["SimCLR", "BYOL", "RotationPrediction"]
"""Terms that learn from images alone: one without, one with a second network, one with a part of its own."""


def stages() -> list[dict]:
    """Images alone, then age, then the diagnosis from one site to another."""
    domains = {"source": {"cohort": "clinic", "where": {"site": "east"}}, "target": {"cohort": "clinic", "where": {"site": "west"}}}
    return [
        {"name": "look", "epochs": 1, "data": {"unlabelled": {"cohort": "lifespan", "n": 16}, "module": SLICES},
         "objective": {"primary": {"class_path": "SimCLR"}}, "batch_size": 8},
        {"name": "age", "targets": "age", "epochs": 1, "fisher": True, "heads": BINS, "batch_size": 8,
         "data": {"labelled": {"cohort": "lifespan", "n": 16}, "module": SLICES}},
        {"name": "adapt", "targets": "diagnosis", "epochs": 2, "batch_size": 8, "data": domains | {"module": SLICES}},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def methods(nextflow, tmp_path_factory):
    """One run: each term of the last stage alone on one chain, then every way to begin the chain."""
    folder = tmp_path_factory.mktemp("methods")
    demo_cohort(folder / "demo", 72, 0, 2)
    sweep = SMALL | {"input": "demo/cohorts.csv", "outdir": "results", "stages": stages()}
    sweep["architecture"] = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.0625}}
    sweep["split"] = {"validation": 0.25, "test": 0.25, "seed": 1}
    objectives = [[], *([one] for terms in LAST.values() for one in terms)]
    last = [{"stages.adapt.objective.auxiliary": terms} for terms in objectives]
    last.append({"stages.adapt.tuning.stochnorm": 0.5})
    first = [{"stages.look.objective": {"primary": {"class_path": name}}} for name in FIRST[1:]]
    sweep["search"] = {"seeds": [0], "space": {"*": last + first}}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return nextflow(folder, "--params-file", "sweep.json", "--trials_per_task", "60")


def documents(run, pattern: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((run.folder / "results").glob(pattern))]


def test_every_method_runs_from_the_sweep_to_the_report(methods):
    assert methods.status == 0, methods.text
    models = documents(methods, "models/*/model.json")
    reasons = {}
    for model in models:
        auxiliary = [one["class_path"] for one in model["spec"]["stages"][-1]["objective"]["auxiliary"]]
        reasons[", ".join(auxiliary) or model["id"]] = model["reason"]
    assert {name: reason for name, reason in reasons.items() if reason} == {}
    assert len(models) == 1 + sum(map(len, LAST.values())) + 1 + len(FIRST) - 1
    failed = [encoder["reason"] for encoder in documents(methods, "encoders/*/encoder.json") if encoder["status"] != "ok"]
    assert failed == []
    assert (methods.folder / "results/ranking/report.html").is_file()


def test_a_chain_is_trained_once_for_all_that_share_it(methods):
    lines = [json.loads(line) for line in (methods.folder / "results/search/round-1/pretrainings.jsonl").read_text().splitlines()]
    levels = [line["level"] for line in lines]
    assert levels.count(1) == levels.count(2) == len(FIRST)
    assert all(line["parent"] for line in lines if line["level"] == 2)


def test_each_term_stands_in_the_history(methods):
    for model in documents(methods, "models/*/model.json"):
        auxiliary = model["spec"]["stages"][-1]["objective"]["auxiliary"]
        history = pd.read_csv(methods.folder / "results/models" / model["id"] / "history.csv")
        for one in auxiliary:
            values = history[f"train_{one['class_path'].lower()}"]
            assert values.notna().all() or (one["weight"] and values.notna().tolist() == [False, True])


def test_the_domain_to_adapt_to_is_tested_and_never_chosen_by(methods):
    ranking = methods.json("results/ranking/ranking.json")
    assert ranking["oracle"]["candidate"] in {row["candidate"] for row in ranking["candidates"]}
    assert "Oracle: selection on labels of the target domain" in (methods.folder / "results/ranking/report.html").read_text()
    splits = pd.read_parquet(methods.folder / "results/search/round-1/splits.parquet")
    people = pd.read_parquet(methods.folder / "results/cohort/cohort.parquet").set_index("scan_id")
    trials = [json.loads(line) for line in (methods.folder / "results/search/round-1/trials.jsonl").read_text().splitlines()]
    rows = splits[splits["split"] == trials[0]["split"]]
    site = people.loc[rows["scan_id"], "site"].to_numpy()
    assert set(site[rows["role"].isin(["test", "target", "external:target-validation"])]) == {"west"}
    assert set(site[rows["role"].isin(["train", "validation", "external:source"])]) == {"east"}
