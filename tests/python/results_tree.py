"""A small, complete result tree as a finished run leaves it, with simulated predictions, for tests and for looking."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from tlimb.config import Objective, Split, Stage
from tlimb.data.targets import Target
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.fitted import failed, fit, with_called, write_fitted
from tlimb.evaluation.metrics import score
from tlimb.files import digest, write_csv, write_json, write_jsonl, write_parquet, write_text
from tlimb.search.space import candidate_of
from tlimb.splits import PART, resolved

CLASSES = ["control", "patient"]
SKILL = {"scratch": 0.55, "frozen": 1.2, "full": 1.5}  # distance of the two groups in standard deviations of the score
L2SP = {"class_path": "L2SP", "init_args": {"alpha": 0.01}}
CHANCE = np.random.default_rng  # each part of the tree draws from a generator of its own


def write_results_tree(
    root: Path,
    *,
    skill: dict = SKILL,
    seeds: int = 3,
    persons: int = 120,
    failing: bool = True,
    split: dict | None = None,
    rates: tuple[float, ...] = (0.001, 0.01),
    sizes: tuple[int, ...] = (),
) -> dict:
    """Write sweep.json, cohort.json, search/, store/, encoders/, models/ and scores/ under `root`.

    Strategies scratch, frozen, full with learning rates `rates`, L2-SP on and off; where `failing`, one trial diverges,
    one pretraining fails and two scans are unreadable. `split` changes the split's settings, for folds or replicates.
    `sizes` are values of `split.n` that the space holds; larger ones do better.
    `persons` are those on test: in a holdout a third as many validate, in folds everybody is tested once.
    Returns the arguments of `tlimb.ranking.results.read_results`.
    """
    split = Split(**SPLIT | (split or {})).model_dump()
    sweep = _sweep(seeds, split, rates, sizes)
    write_json(root / "sweep.json", sweep)
    write_json(root / "cohort.json", _cohort(persons))
    _write_store(root / "store" / "default", persons, failing)
    trials, pretrainings = _search(sweep)
    write_jsonl(root / "search" / "round-1" / "trials.jsonl", trials)
    write_jsonl(root / "search" / "round-1" / "pretrainings.jsonl", pretrainings)
    broken = pretrainings[-1]["id"] if failing else None
    for line in pretrainings:
        _write_encoder(root / "encoders" / line["id"], line, failed=line["id"] == broken)
    wild = next(trial["id"] for trial in trials if _lr(trial) == rates[-1] and trial["init"])
    for trial in trials:
        reason = "the pretraining that it starts from failed: loss became NaN in epoch 3" * (trial["init"] == broken)
        reason = "training diverged: loss became NaN in epoch 4" if failing and trial["id"] == wild else reason
        _write_model(root / "models" / trial["id"], trial, reason, persons)
        _write_scores(root / "scores" / trial["id"], trial, reason, persons, skill)
    names = ("search", "store", "encoders", "models", "scores")
    paths = {name: root / name for name in names}
    return {"sweep": root / "sweep.json", "cohort": root / "cohort.json"} | paths


def _stage(name: str, target: str, cohort: str, epochs: int, lr: float, **more) -> dict:
    module = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
    facts = {
        "name": name,
        "targets": [target],
        "epochs": epochs,
        "data": {"labelled": {"cohort": [cohort]}, "module": module},
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": lr}},
        "early_stopping": {"patience": 5, "min_delta": 0.0},
    }
    return Stage.model_validate(facts | more).model_dump()


SPLIT = {"validation": 0.167, "test": 0.5, "stratify": ["diagnosis"]}


def _sweep(seeds: int, split: dict, rates: tuple[float, ...], sizes: tuple[int, ...]) -> dict:
    space = {
        "stages.*.optimizer.init_args.lr": list(rates),
        "stages.finetune.strategy": ["scratch", "frozen", "full"],
        "stages.finetune.objective.auxiliary": [[], [L2SP]],
    }
    if sizes:
        space["split.n"] = list(sizes)
    return {
        "input": "cohorts.csv",
        "outdir": "results",
        "recipes": {"default": {"spacing": 2.0, "registration": "affine", "mask": "template", "intensity": "zscore"}},
        "architecture": {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}},
        "stages": [
            _stage("pretrain", "age", "lifespan", 10, 0.001, strategy=None),
            _stage("finetune", "diagnosis", "clinic", 20, 0.001, strategy="full"),
        ],
        "split": split,
        "evaluate": {"external": [], "bootstrap": 200, "confidence": 0.95, "seed": 0},
        "search": {"method": "grid", "metric": None, "seeds": list(range(seeds)), "space": space},
    }


def _cohort(persons: int) -> dict:
    size = 2 * persons
    return {
        "scans": size + 360,
        "persons": size + 360,
        "cohorts": {"lifespan": {"scans": 360, "persons": 360}, "clinic": {"scans": size, "persons": size}},
        "labels": {
            "age": {"kind": "regression", "classes": [], "n": size + 360},
            "diagnosis": {"kind": "classification", "classes": CLASSES, "n": size},
        },
        "warnings": [],
        "split_file": None,
        "files": {},
    }


def _search(sweep: dict) -> tuple[list[dict], list[dict]]:
    trials, pretrainings = {}, {}
    starts = [("scratch", []), ("frozen", []), ("full", []), ("full", [L2SP])]
    rates = sweep["search"]["space"]["stages.*.optimizer.init_args.lr"]
    for seed, lr, (strategy, auxiliary) in product(sweep["search"]["seeds"], rates, starts):
        init = "" if strategy == "scratch" else _add_pretraining(pretrainings, sweep, seed, lr)
        last = _stage("finetune", "diagnosis", "clinic", 20, lr, strategy=strategy)
        last["objective"] = Objective(auxiliary=auxiliary).model_dump()
        first = [pretrainings[init]["spec"]["stage"]] if init else []
        splits = [sweep["split"] | {"n": n} for n in sweep["search"]["space"].get("split.n", [sweep["split"]["n"]])]
        for split in (part for one in splits for part in resolved(one)):
            spec = {"architecture": sweep["architecture"], "seed": seed, "split": split, "stages": [*first, last]}
            facts = {"candidate": candidate_of(spec), "round": 1, "split": digest(split), "init": init, "budget": 20}
            trial = {"id": digest(spec)} | facts | {"spec": spec}
            trials[trial["id"]] = trial
    return list(trials.values()), list(pretrainings.values())


def _add_pretraining(pretrainings: dict, sweep: dict, seed: int, lr: float) -> str:
    stage = _stage("pretrain", "age", "lifespan", 10, lr, strategy=None)
    spec = {"architecture": sweep["architecture"], "stage": stage, "seed": seed}
    key = digest(spec)
    facts = {"id": key, "parent": "", "level": 1, "split": digest([SPLIT, 1]), "stage": "pretrain", "seed": seed}
    pretrainings[key] = facts | {"spec": spec}
    return key


def _lr(trial: dict) -> float:
    return trial["spec"]["stages"][-1]["optimizer"]["init_args"]["lr"]


def _write_store(folder: Path, persons: int, failing: bool) -> None:
    rng = CHANCE(5)
    header = {"fingerprint": "5f0c3d9ab812", "shape": [80, 96, 80], "spacing": 2.0, "recipe": {"spacing": 2.0}}
    for cohort, size in (("lifespan", 360), ("clinic", 2 * persons)):
        index = pd.DataFrame({"scan_id": [f"{cohort}/sub-{i:03d}/1/T1w" for i in range(size)]})
        index["row"], index["status"], index["reason"], index["digest"] = range(size), "ok", "", "0f" * 8
        index["mask_overlap"] = rng.normal(0.94, 0.008, size)
        index["metric"] = rng.normal(-0.61, 0.02, size)
        index["snr"] = rng.normal(21, 2.5, size)
        index["displacement"] = rng.gamma(9, 0.7, size)
        index["warnings"] = ""
        _add_quality(rng, index)
        index.loc[7, ["mask_overlap", "warnings"]] = [0.71, "little overlap with the template (0.71)"]
        index.loc[12, "displacement"] = 31.0
        if failing and cohort == "lifespan":
            lost = index.index[[40, 200]]
            index.loc[lost, ["row", "status"]] = [-1, "failed"]
            index.loc[lost, "reason"] = ["all voxels are equal", "registration did not converge"]
            index.loc[lost, ["mask_overlap", "metric", "snr", "displacement"]] = np.nan
        write_parquet(folder / f"shard-{cohort[0]}.parquet", index)
        write_json(folder / f"shard-{cohort[0]}.json", header | {"chunk": cohort[0], "n": size})


def _add_quality(rng, index: pd.DataFrame) -> None:
    """Further quality columns, none of them remarkable."""
    index["content"] = [f"{name:016x}" for name in rng.integers(2**60, size=len(index))]
    usual = {"coverage": (0.985, 1.0), "lesion": (0.0, 0.3), "grey_white": (0.7, 0.8), "fluid_white": (0.25, 0.35)}
    usual |= {"front": (0.1, 0.2), "head": (3.2, 4.2), "size": (0.93, 1.07), "stretch": (1.0, 1.08), "turn": (0.0, 12.0)}
    for name, (low, high) in usual.items():
        index[name] = rng.uniform(low, high, len(index))
    index["notes"] = ""


def _history(rng, epochs: int, start: float, end: float, lr: float) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    decay = np.exp(-epoch * 5 / epochs)
    train = end * 0.8 + (start - end * 0.8) * decay + rng.normal(0, 0.01 * start, epochs)
    validation = end + (start - end) * decay + 0.006 * start * np.maximum(epoch - epochs * 0.6, 0)
    columns = {"epoch": epoch, "train_loss": train, "validation_loss": validation + rng.normal(0, 0.02 * start, epochs)}
    return pd.DataFrame(columns | {"lr": lr, "seconds": 4.2})


def _write_encoder(folder: Path, line: dict, failed: bool) -> None:
    facts = {key: line[key] for key in ("id", "parent", "stage", "seed")}
    if failed:
        write_json(folder / "encoder.json", facts | {"status": "failed", "reason": "loss became NaN in epoch 3"})
        return
    rng = CHANCE([line["seed"], 1])
    counts = {"train": 288, "validation": 36, "test": 36}
    more = _trained(line["spec"]["architecture"], line["spec"]["stage"], 10, counts)
    write_json(folder / "encoder.json", facts | {"status": "ok", "reason": ""} | more)
    write_csv(folder / "history.csv", _history(rng, 10, 1.4, 0.35, 0.001))
    truth = rng.uniform(20, 85, 36)
    frame = pd.DataFrame({"scan_id": [f"s{i}" for i in range(36)], "person": [f"s{i}" for i in range(36)]})
    frame = frame.assign(target="age", truth=truth, prediction=truth + rng.normal(0, 6.5, 36), probabilities=None)
    frame = frame.assign(event=np.nan)
    targets = score(frame, {"age": {"kind": "regression", "classes": []}}, resamples=100, confidence=0.95, seed=0)
    setting = {"n": 100, "confidence": 0.95, "unit": "person", "seed": 0}
    scores = {"id": line["id"], "set": "test", "status": "ok", "reason": "", "n": {"scans": 36, "persons": 36}}
    write_json(folder / "scores.json", scores | {"bootstrap": setting, "targets": targets})


def _trained(architecture: dict, stage: dict, epochs_run: int, counts: dict) -> dict:
    """What encoder.json and model.json say of a training that went well."""
    target = stage["targets"][0]
    scaled = {"kind": "regression", "classes": [], "mean": 54.2, "sd": 17.9}
    facts = scaled if target == "age" else {"kind": "classification", "classes": CLASSES}
    total = 11_170_000
    return {
        "architecture": architecture,
        "input_shape": [1, 80, 96],
        **{key: stage["data"][key] for key in ("module", "dataset", "hooks", "normalise")},
        "targets": {target: facts},
        "fingerprint": "5f0c3d9ab812",
        "persons": [digest(stage["name"])],
        "best_epoch": 7,
        "epochs_run": epochs_run,
        "monitor": stage["monitor"],
        "parameters": {"total": total, "trainable": 1026 if stage["strategy"] == "frozen" else total},
        "heads": {},
        "start": None,
        "recipe": {},
        "licence": None,
        "made_with": {"tlimb": "0.1.0", "torch": "2.15.0"},
        "statistics": {
            "scans": 10,
            "persons": 10,
            "intensity": {"mean": 0.0, "sd": 1.0, "scans": 10},
            "labels": {},
        },
        "device": "cpu",
        "seconds": 9.3 * epochs_run,
        "n": counts,
    }


def _write_model(folder: Path, trial: dict, reason: str, persons: int) -> None:
    facts = {"id": trial["id"], "candidate": trial["candidate"], "status": "failed", "reason": reason}
    if reason:
        write_json(folder / "model.json", facts)
        return
    last, seed = trial["spec"]["stages"][-1], trial["spec"]["seed"]
    facts |= {key: trial[key] for key in ("init", "split", "budget", "spec")}
    facts |= {"status": "ok", "seed": seed, "strategy": last["strategy"], "stopped_early": True, "stopped": "early_stopping", "reused": False}
    counts = {"train": persons * 2 // 3, "validation": persons // 3}
    write_json(folder / "model.json", facts | _trained(trial["spec"]["architecture"], last, 17, counts))
    rng = CHANCE([seed, len(last["strategy"]), 2])
    write_csv(folder / "history.csv", _history(rng, 17, 0.74, 0.46 if trial["init"] else 0.58, _lr(trial)))


def _write_scores(folder: Path, trial: dict, reason: str, persons: int, skill: dict) -> None:
    fitted = failed(reason)
    for name in ("validation", "test"):
        facts = {"id": trial["id"], "candidate": trial["candidate"], "set": name}
        if reason:
            write_json(folder / f"scores-{name}.json", facts | {"status": "failed", "reason": reason})
            continue
        frame = predictions(trial, name, persons, skill)
        if name == "validation":
            fitted = fit(frame, [Target("diagnosis", "classification", tuple(CLASSES))], Evaluate())
        frame = with_called(frame, fitted)
        targets = {"diagnosis": {"kind": "classification", "classes": CLASSES}}
        scored = score(frame, targets, resamples=100, confidence=0.95, seed=0)
        counts = {"scans": len(frame), "persons": len(frame)}
        facts |= {"n": counts, "targets": scored, "status": "ok", "reason": ""}
        sampling = {"n": 100, "confidence": 0.95, "unit": "person", "seed": 0}
        write_json(folder / f"scores-{name}.json", facts | {"bootstrap": sampling})
        write_parquet(folder / f"predictions-{name}.parquet", frame)
    write_fitted(folder, {"id": trial["id"], "candidate": trial["candidate"]} | fitted)


def _people(split: dict, name: str, persons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, truth and difficulty of the persons in a part of a split."""
    holdout = split["scheme"] == "holdout"
    size = persons // 3 if holdout and name == "validation" else persons
    people = CHANCE([len(name) if holdout else 0, 3])
    truth, difficulty, number = people.permutation(np.arange(size) % 2), people.normal(size=size), np.arange(size)
    if holdout:
        return number + (persons if name == "validation" else 0), truth, difficulty
    tested = number % split["folds"] == split["fold"]
    validates = (number + 1) % split["folds"] == split["fold"]
    if split["scheme"] == "nested":
        validates = ~tested & (number // split["folds"] % split["inner_folds"] == split["inner_fold"])
    chosen = tested if name == "test" else validates
    return number[chosen], truth[chosen], difficulty[chosen]


def predictions(trial: dict, name: str, persons: int, skill: dict) -> pd.DataFrame:
    """A prediction table: a score that all models see in a person, plus noise of the model's own."""
    last, seed, split = trial["spec"]["stages"][-1], trial["spec"]["seed"], trial["spec"]["split"]
    number, truth, difficulty = _people(split, name, persons)
    part = [split[key] for key in PART if split[key]]
    own = CHANCE([seed, len(name), int(trial["candidate"][:6], 16), *part])
    distance = skill[last["strategy"]] + 0.15 * bool(last["objective"]["auxiliary"])
    distance -= 0.2 * max(0, np.log10(_lr(trial) / 0.001))
    distance *= 1 - 2 / np.sqrt(split["n"]) if split["n"] else 1
    logit = distance * (truth - 0.5) + 0.8 * difficulty + 0.6 * own.normal(size=len(number))
    case = 1 / (1 + np.exp(-2 * logit))
    said = (case > 0.5).astype(int)
    person = [f"clinic/sub-{i:03d}" for i in number]
    columns = {"scan_id": [f"{p}/1/T1w" for p in person], "person": person, "target": "diagnosis"}
    columns |= {"truth": truth.astype(float), "prediction": said.astype(float)}
    columns |= {"truth_label": [CLASSES[t] for t in truth], "prediction_label": [CLASSES[t] for t in said]}
    return pd.DataFrame(columns | {"probabilities": [[1 - p, p] for p in case], "event": np.nan})


def rewrite_json(path: Path, **changes) -> None:
    """Change top-level keys of a JSON file of the tree."""
    write_text(path, json.dumps(json.loads(path.read_text()) | changes))
