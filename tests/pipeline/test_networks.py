"""Every network by its short name, and every way to start and to tune, from the sweep to the report."""

import copy
import json
from pathlib import Path

import pytest
import torch

from tlimb.registry import SHORT_NAMES

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SMALL = json.loads((ROOT / "assets" / "sweeps" / "test.json").read_text())
SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
WHOLE = {"class_path": "BaseDataModule"}
THREE_LAYERS = {"channels": [8, 16, 32]}
SMALL_RESNET = {"depth": 10, "width": 0.0625}
NETWORKS = {
    "ResNet": SMALL_RESNET,
    "DenseNet": {"width": 0.125},
    "ViT": {"hidden_size": 24, "layers": 1, "heads": 2, "mlp_size": 24},
    "Swin": {"feature_size": 6, "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1]},
    "SFCN": {},
    "Timm": {"name": "resnet10t"},
    "SliceSet": {"slice_encoder": {"class_path": "SliceCNN", "init_args": THREE_LAYERS}},
    "SliceLSTM": {"slice_encoder": {"class_path": "SliceCNN", "init_args": THREE_LAYERS}},
    "SliceCNN": THREE_LAYERS,
    "CNN3D": THREE_LAYERS,
    "CAE": {},
    "SRCAE": {},
    "VAE": {},
    "LinearBaseline": {},
    "BoostedBaseline": {},
}
SERIES = {"CNN1D", "TemporalTransformer", "GRU"}
"""Those of time series run in test_scans.py."""

FLAT = {"Timm", "SliceCNN"}
RECONSTRUCTION = {
    "targets": [],
    "data": {"labelled": None, "unlabelled": {"cohort": "lifespan", "n": 12}},
    "objective": {"primary": {"class_path": "Reconstruction"}},
}
RESNET = {"class_path": "ResNet", "init_args": SMALL_RESNET}


def data(module: dict) -> dict:
    return {"data": {"module": module}}


def from_scratch(name: str) -> dict:
    """A variant of the whole trial: one network, trained on age from nothing."""
    module = SLICES if name in FLAT else WHOLE
    architecture = {"class_path": name, "init_args": NETWORKS[name]}
    return {"architecture": architecture, "stages.finetune": {"strategy": "scratch"} | data(module)}


def tuned(**tuning) -> dict:
    """A variant: a small network pretrained on age, then tuned in one way."""
    return {"architecture": RESNET, "stages.finetune": {"tuning": tuning}}


WAYS = [
    {"architecture": RESNET, "stages.finetune": {"strategy": "direct"}},
    {"architecture": RESNET, "stages.finetune": {"strategy": "frozen", "heads": {"age": {"class_path": "MLPHead"}}}},
    tuned(freeze_up_to="layer3", layer_decay=0.5, average={"kind": "ema"}),
    tuned(adapter={"class_path": "LoRA"}),
    tuned(only="bias"),
    {"architecture": {"class_path": "CAE"}, "stages.pretrain": RECONSTRUCTION},
    {
        "architecture": {"class_path": "SliceSet", "init_args": NETWORKS["SliceSet"]},
        "stages.pretrain": RECONSTRUCTION
        | {"architecture": {"class_path": "SliceCNN", "init_args": THREE_LAYERS}, "data": RECONSTRUCTION["data"] | {"module": SLICES}},
        "stages.finetune": {"weights": {"part": "slice_encoder"}, "heads": {"age": {"bins": {"width": 5.0}}}},
    },
    {
        "architecture": {"class_path": "SliceSet", "init_args": {"slice_encoder": {"class_path": "ResNet", "init_args": {"dims": 2}}}},
        "stages.finetune": {"weights": {"path": "resnet18.pth", "part": "slice_encoder"}},
    },
]


@pytest.fixture(scope="module")
def networks(nextflow, demo_cohort, tmp_path_factory):
    """One run of every network and way, an epoch each, on coarse volumes; one starts from a file as torchvision makes."""
    from torchvision.models import resnet18

    folder = tmp_path_factory.mktemp("networks")
    torch.save(resnet18().state_dict(), folder / "resnet18.pth")
    sweep = copy.deepcopy(SMALL) | {"input": str(demo_cohort / "cohorts.csv"), "outdir": "results"}
    for stage in sweep["stages"]:
        stage |= {"epochs": 1, "targets": "age"}
        stage["data"]["module"] = WHOLE
    sweep["stages"][0]["data"]["labelled"]["n"] = 12
    sweep["split"] = {"validation": 4, "test": 4}
    sweep["evaluate"]["explained"] = 0
    sweep["licence"] = "CC0-1.0"
    sweep["search"]["space"] = {"*": [from_scratch(name) for name in NETWORKS] + WAYS}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    return nextflow(folder, "--params-file", "sweep.json", "--trials_per_task", "40")


def models(run) -> list[dict]:
    """What model.json says of every trial."""
    return [json.loads(path.read_text()) for path in sorted((run.folder / "results/models").glob("*/model.json"))]


def test_every_network_of_the_registry_runs_by_its_short_name(networks):
    assert networks.status == 0, networks.text
    failed = {model["architecture"]["class_path"]: model["reason"] for model in models(networks) if model["status"] != "ok"}
    assert failed == {}
    ran = {model["architecture"]["class_path"] for model in models(networks)}
    assert ran == set(NETWORKS) == set(SHORT_NAMES["architecture"]) - SERIES
    ranking = networks.json("results/ranking/ranking.json")
    assert len(ranking["candidates"]) == len(NETWORKS) + len(WAYS)
    assert all(row["validation_mean"] is not None for row in ranking["candidates"])
    assert {"fitted", "direct", "frozen", "full + LoRA", "full + bias only"} <= {
        row["strategy"] for row in ranking["candidates"]
    }


def test_published_weights_reach_the_part_they_are_for_and_the_model_says_so(networks):
    (model,) = [model for model in models(networks) if (model["start"] or {}).get("origin") == "file"]
    assert model["start"]["part"] == "slice_encoder" and model["start"]["report"]["share"] == 1
    assert model["licence"] == "CC0-1.0"


def test_an_encoder_of_slices_goes_into_the_network_of_volumes(networks):
    found = [model for model in models(networks) if (model["start"] or {}).get("part") == "slice_encoder"]
    assert {model["start"]["origin"] for model in found} == {"stage", "file"}


def test_a_stage_without_labels_is_scored_by_its_reconstruction(networks):
    scores = [json.loads(path.read_text()) for path in (networks.folder / "results/encoders").glob("*/scores.json")]
    unlabelled = [score for score in scores if not score["targets"]]
    assert len(unlabelled) == 2 and all(score["loss"]["mse"]["value"] > 0 for score in unlabelled)
