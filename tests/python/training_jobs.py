"""Small stores and job folders for the tests of training: real files as the steps before training write them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from tlimb.config import Objective, Split, Trainer, Tuning
from tlimb.files import digest, write_json, write_parquet
from tlimb.search.space import candidate_of
from tlimb.splits import resolved
from tlimb.store import write_shard

LABELS = {
    "age": {"kind": "regression", "classes": []},
    "diagnosis": {"kind": "classification", "classes": ["control", "patient"]},
    "grade": {"kind": "ordinal", "classes": ["none", "mild", "severe"]},
    "findings": {"kind": "multilabel", "classes": ["atrophy", "lesion"]},
    "relapse": {"kind": "survival", "classes": []},
}


SPLIT = digest("a split")
RESNET = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
HOLDOUT = resolved(Split().model_dump())[0]


def make_people(cohort: str, n: int, seed: int = 0) -> pd.DataFrame:
    """n scans of n persons with an age and a diagnosis."""
    random = np.random.default_rng(seed)
    persons = [f"{cohort}/sub-{number:03d}" for number in range(n)]
    diagnosis = np.where(np.arange(n) % 2 == 0, "control", "patient")
    ages = random.uniform(20, 80, n)
    scans = [f"{person}/1/T1w" for person in persons]
    return pd.DataFrame({"scan_id": scans, "person": persons, "age": ages, "diagnosis": diagnosis})


def with_more_labels(people: pd.DataFrame) -> pd.DataFrame:
    """People with a label of every kind, made of age and diagnosis: `relapse` is the time until one, negative where none
    was seen until then."""
    old, patient = people["age"].to_numpy() > 50, people["diagnosis"].to_numpy(str) == "patient"
    findings = [";".join(["atrophy"] * int(a) + ["lesion"] * int(b)) or ";" for a, b in zip(old, patient)]
    grade = np.array(LABELS["grade"]["classes"])[old.astype(int) + patient]
    seen = np.arange(len(people)) % 3 > 0
    times = np.round(100 - people["age"].to_numpy(), 1)
    return people.assign(grade=grade, findings=findings, relapse=np.where(seen, times, -times))


def make_store(folder, people: pd.DataFrame, shape=(16, 18, 16), spacing: float = 8.0, seed: int = 0) -> None:
    """A store in which age brightens the centre and a diagnosis one half of the brain, both beside noise."""
    random = np.random.default_rng(seed)
    people = people.sort_values("scan_id", ignore_index=True)
    volumes = random.normal(size=(len(people), *shape))
    x, y, z = shape
    volumes[:, x // 4 : -x // 4, y // 4 : -y // 4] += ((people["age"].to_numpy() - 50) / 20)[:, None, None, None]
    volumes[:, : x // 2] += (people["diagnosis"].to_numpy(str) == "patient")[:, None, None, None] * 1.5
    index = [
        {
            "scan_id": scan,
            "row": row,
            "status": "ok",
            "reason": "",
            "digest": digest(scan, 16),
            "content": digest([scan, seed], 16),
            "mask_overlap": 0.9,
            "metric": -0.5,
            "snr": 20.0,
            "displacement": 1.0,
            "warnings": "",
        }
        for row, scan in enumerate(people["scan_id"])
    ]
    header = {
        "chunk": "all",
        "fingerprint": digest(spacing),
        "n": len(people),
        "shape": list(shape),
        "spacing": spacing,
        "affine": np.diag([8.0, 8.0, 8.0, 1.0]).tolist(),
        "recipe": {"spacing": spacing, "registration": "affine", "mask": "template", "intensity": "zscore"},
    }
    write_shard(folder, "all", volumes.astype("float16"), index, header)


def roles(people: pd.DataFrame, validation: int, test: int, split: str = SPLIT) -> pd.DataFrame:
    """The table of one split: the last `test` people test, the `validation` before them validate, the rest train."""
    train = len(people) - validation - test
    role = ["train"] * train + ["validation"] * validation + ["test"] * test
    return people.assign(split=split, role=role, times=1)


def objective(said: dict) -> dict:
    """An objective of a spec with every default filled in, from what a sweep would say."""
    terms = [{"init_args": {}, "weight": None} | term for term in said.get("auxiliary", [])]
    return Objective().model_dump() | said | {"auxiliary": terms}


def stage(name: str, target: str, **changes) -> dict:
    """A stage of a spec with every default filled in; changes replace its keys, or those of its data."""
    module = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
    data = {
        "labelled": {"cohort": ["any"], "modality": None, "where": {}, "n": None, "missing": "error"},
        "unlabelled": None,
        "source": None,
        "target": None,
        "recipe": "default",
        "module": module,
        "dataset": {"class_path": "ScanDataset", "init_args": {}},
        "sampler": None,
        "normalise": None,
        "augment": [],
        "hooks": {"on_before_batch_transfer": None, "on_after_batch_transfer": None},
    }
    data |= {key: changes.pop(key) for key in data if key in changes}
    changes["objective"] = objective(changes.get("objective", {}))
    return {
        "name": name,
        "targets": [target],
        "architecture": None,
        "heads": {},
        "weights": None,
        "epochs": 2,
        "batch_size": 8,
        "strategy": "full",
        "tuning": Tuning().model_dump(),
        "data": data,
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001}},
        "scheduler": None,
        "gradient_clip": None,
        "scenario": None,
        "trainer": Trainer().model_dump(),
        "callbacks": [],
        "fisher": False,
        "early_stopping": None,
        "monitor": "validation_loss",
        "split": None,
        "disjoint": False,
    } | changes


def pretrain_job(
    folder, table: pd.DataFrame, stage: dict, architecture: dict = RESNET, seed: int = 0, parent: str = ""
) -> dict:
    """Write the job folder of a pretraining and return its line."""
    spec = {"architecture": architecture, "stage": stage, "seed": seed}
    identity = digest([spec, parent])
    line = {
        "id": identity,
        "parent": parent,
        "level": 1,
        "split": table["split"].iloc[0],
        "stage": stage["name"],
        "seed": seed,
        "spec": spec,
    }
    labels = {name: LABELS[name] for name in stage["targets"]}
    write_json(
        folder / "job.json",
        {
            "id": identity,
            "kind": "pretrain",
            "level": 1,
            "parent": parent,
            "inits": [],
            "recipe": "default",
            "shards": ["all"],
            "pretraining": line,
            "labels": labels,
            "columns": {},
            "devices": 1,
            "files": [],
            "licence": None,
        },
    )
    write_parquet(folder / "table.parquet", table[["split", "scan_id", "person", "role", "times", *stage["targets"]]])
    return line


def trial_line(
    stage: dict, init: str = "", split: str = SPLIT, seed: int = 0, architecture: dict = RESNET, before=()
) -> dict:
    """A line of trials.jsonl."""
    spec = {"architecture": architecture, "seed": seed, "split": HOLDOUT, "stages": [*before, stage]}
    return {
        "id": digest([spec, init]),
        "candidate": candidate_of(spec),
        "round": 1,
        "split": split,
        "init": init,
        "budget": stage["epochs"],
        "spec": spec,
    }


def pack_job(folder, table: pd.DataFrame, trials: list[dict]) -> None:
    """Write the job folder of a pack: held-out labels stand in the tables for evaluation only."""
    targets = trials[0]["spec"]["stages"][-1]["targets"]
    write_json(
        folder / "job.json",
        {
            "id": digest(trials),
            "kind": "finetune",
            "level": 0,
            "parent": "",
            "inits": sorted({trial["init"] for trial in trials} - {""}),
            "recipe": "default",
            "shards": ["all"],
            "trials": trials,
            "labels": {name: LABELS[name] for name in targets},
            "columns": {},
            "devices": 1,
            "files": [],
            "licence": None,
        },
    )
    table = table[["split", "scan_id", "person", "role", "times", *targets]]
    unseen = ~table["role"].isin(["train", "validation"])
    write_parquet(folder / "table.parquet", table.assign(**{name: table[name].mask(unseen) for name in targets}))
    write_parquet(folder / "table-validation.parquet", table[table["role"] == "validation"])
    write_parquet(folder / "table-test.parquet", table[unseen])


def make_world(folder, epochs: int) -> SimpleNamespace:
    """A store of two cohorts and one encoder pretrained on age in the first.

    Its folder, the store's, the people of the first cohort, the split of the second, the pretraining's line and encoder.
    """
    import torch

    from tlimb.scenarios.device import set_up_torch
    from tlimb.scenarios.pretrain import pretrain
    from tlimb.scenarios.results import Settings

    set_up_torch(1, training=True)
    lifespan, clinic = make_people("lifespan", 24), make_people("clinic", 20, seed=1)
    make_store(folder / "store", pd.concat([lifespan, clinic], ignore_index=True))
    line = pretrain_job(folder / "pretrain", roles(lifespan, 5, 5), stage("pretrain", "age", epochs=epochs))
    settings = Settings(torch.device("cpu"))
    encoder = pretrain(folder / "pretrain", folder / "store", None, folder / "encoders", settings)
    facts = {"lifespan": lifespan, "table": roles(clinic, 5, 5), "line": line, "encoder": encoder}
    return SimpleNamespace(folder=folder, store=folder / "store", **facts)
