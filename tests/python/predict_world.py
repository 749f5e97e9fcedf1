"""Small scans as files, models trained on them by the steps of the pipeline, and their scores."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from heads import scanned
from training_jobs import RESNET, make_people, pack_job, roles, stage, trial_line, with_more_labels

from tlimb.config import Recipe
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.store import write_shard

CPU = torch.device("cpu")
RECIPE = SimpleNamespace(**Recipe(registration="none", spacing=8.0).model_dump())
DROPPED = {"class_path": "CNN3D", "init_args": {"channels": [4, 8], "head_dropout": 0.5}}
SLICES = {"class_path": "SliceSet", "init_args": {"slice_encoder": RESNET}}
LINEAR = {"class_path": "LinearBaseline", "init_args": {}}
WHOLE = {"class_path": "BaseDataModule", "init_args": {}}
EVERY = ["diagnosis", "age", "grade", "findings", "relapse"]


def write_scan(path: Path, seed: int, bright: float = 1.0) -> Path:
    """A head on a grid of 8 mm in the template's place, with noise."""
    image = scanned(np.eye(4), np.random.default_rng(seed), voxel=8.0, shape=(24, 28, 24))
    data = np.asarray(image.dataobj) * np.float32(bright)
    nib.save(nib.Nifti1Image(data, image.affine), path)
    return path


def prepare(store: Path, scans: pd.DataFrame, images: Path, recipe=RECIPE, modality="T1w") -> None:
    """The store of scans (scan_id, image) as PREPROCESS makes it."""
    lines = []
    for number, (scan, image) in enumerate(zip(scans["scan_id"], scans["image"]), start=1):
        (images / str(number)).mkdir(parents=True)
        (images / str(number) / Path(image).name).symlink_to(image)
        lines.append({"scan_id": scan, "modality": modality, "mask": None, "confounds": None})
    array, index, header, montages = preprocess_chunk({"chunk": "all", "scans": lines}, recipe, images)
    write_shard(store, "all", array, index, header, montages)


def make_run(folder: Path) -> SimpleNamespace:
    """What a run leaves: models of every kind of target, a pair of one target to average, a slice set, a baseline and
    one that failed; 24 people train, 12 validate, 5 test."""
    set_up_torch(1, training=True)
    people = with_more_labels(make_people("clinic", 41, seed=1))
    folder.joinpath("scans").mkdir()
    people["image"] = [write_scan(folder / "scans" / f"{n:03d}.nii.gz", n) for n in range(len(people))]
    prepare(folder / "store", people, folder / "images")
    whole = {"module": WHOLE, "strategy": "scratch", "epochs": 1}
    one, two = stage("finetune", "diagnosis", **whole), stage("finetune", "diagnosis", targets=EVERY[:2], **whole)
    trials = {
        "every": trial_line(stage("finetune", "diagnosis", targets=EVERY, strategy="scratch", epochs=1)),
        "first": trial_line(one, architecture=DROPPED),
        "second": trial_line(one, architecture=DROPPED, seed=1),
        "linear": trial_line(two, architecture=LINEAR),
        "slices": trial_line(stage("finetune", "age", **whole), architecture=SLICES),
        "failed": trial_line(one),  # a network for slices, and the data are volumes
    }
    pack_job(folder / "job", roles(people.drop(columns="image"), 12, 5), list(trials.values()))
    finetune(folder / "job", folder / "store", None, folder / "models", Settings(CPU))
    evaluate(folder / "job", folder / "store", folder / "models", folder / "scores", Evaluate(bootstrap=100), CPU)
    ids = {name: trial["id"] for name, trial in trials.items()}
    models = {name: folder / "models" / identity for name, identity in ids.items()}
    return SimpleNamespace(folder=folder, people=people, models=SimpleNamespace(**models), ids=SimpleNamespace(**ids))
