"""How long RANK takes and how much memory it holds, by the number of trials, page and figures included.

python benchmarks/ranking.py [--candidates 200 --candidates 2000] [--seeds 5] [--persons 300] [--folder DIR]

A search of learning rate, weight decay, batch size and strategy is made up as a finished run leaves it: every file that
RANK reads, with simulated predictions. `bin/tlimb_rank.py` then runs in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tlimb.config import Split, Stage
from tlimb.evaluation.metrics import METRICS
from tlimb.files import digest, write_csv, write_json, write_jsonl, write_parquet, write_text
from tlimb.search.space import candidate_of
from tlimb.splits import resolved

ROOT = Path(__file__).parents[1]
CLASSES = ["control", "patient"]
STRATEGIES = {"scratch": 0.9, "frozen": 1.2, "full": 1.6}
MEASURED = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
MEASURED += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"


@click.command(help=__doc__)
@click.option("--candidates", type=click.IntRange(4, 2100), multiple=True, default=(200, 2000), show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Trials of each candidate.")
@click.option("--persons", type=click.IntRange(20), default=300, show_default=True, help="On validation, and on test.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a temporary folder by default.")
def main(candidates: tuple[int, ...], seeds: int, persons: int, folder: Path | None):
    """Print a Markdown table."""
    print("| candidates | trials | persons | seconds | memory (GB) | page (MB) | ranking.json (MB) |")
    print("|---:" * 7 + "|")
    for size in candidates:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            options = _write_tree(Path(place), size, seeds, persons)
            seconds, memory = _measured(options, Path(place) / "out")
            sizes = [(Path(place) / "out" / name).stat().st_size / 1e6 for name in ("report.html", "ranking.json")]
        cells = [size, size * seeds, persons, f"{seconds:.1f}", f"{memory:.2f}", f"{sizes[0]:.2f}", f"{sizes[1]:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |")


def _measured(options: dict[str, Path], out: Path) -> tuple[float, float]:
    """Seconds and gigabytes of one run."""
    template = ROOT / "assets" / "report"
    given = options | {"template": template, "command": options["sweep"].with_name("command.txt"), "out": out}
    words = [text for name, path in given.items() for text in (f"--{name}", str(path))]
    command = [sys.executable, "-c", MEASURED, sys.executable, str(ROOT / "bin" / "tlimb_rank.py"), *words]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise click.ClickException(done.stderr)
    return time.monotonic() - started, int(done.stdout.splitlines()[-1]) / 1e6


def _write_tree(root: Path, size: int, seeds: int, persons: int) -> dict[str, Path]:
    """Everything that RANK reads, and where it lies."""
    sweep = _sweep(seeds)
    write_json(root / "sweep.json", sweep)
    write_text(root / "command.txt", "nextflow run .")
    write_json(root / "cohort.json", _cohort(persons))
    _write_store(root / "store" / "default", persons)
    trials, pretraining = _trials(sweep, size)
    write_jsonl(root / "search" / "round-1" / "trials.jsonl", trials)
    write_jsonl(root / "search" / "round-1" / "pretrainings.jsonl", [pretraining])
    encoder = _trained(sweep["stages"][0]) | {"id": pretraining["id"]}
    write_json(root / "encoders" / pretraining["id"] / "encoder.json", encoder)
    rng = np.random.default_rng(0)
    truth = {name: rng.permutation(persons) % 2 for name in ("validation", "test")}
    for place, trial in enumerate(trials):
        _write_trial(root, place, trial, truth)
    names = ("search", "store", "encoders", "models", "scores")
    return {"sweep": root / "sweep.json", "cohort-json": root / "cohort.json"} | {name: root / name for name in names}


def _stage(name: str, target: str, cohort: str, **more) -> dict:
    module = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
    data = {"labelled": {"cohort": [cohort]}, "module": module}
    facts = {"name": name, "targets": [target], "epochs": 20, "data": data}
    return Stage.model_validate(facts | more).model_dump()


def _sweep(seeds: int) -> dict:
    stages = [_stage("pretrain", "age", "lifespan", strategy=None), _stage("finetune", "diagnosis", "clinic")]
    return {
        "input": "cohorts.csv",
        "outdir": "results",
        "recipes": {"default": {"spacing": 2.0, "registration": "affine", "mask": "template", "intensity": "zscore"}},
        "architecture": {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}},
        "stages": stages,
        "split": Split(validation=0.3, test=0.3, stratify=["diagnosis"]).model_dump(),
        "evaluate": {"external": [], "bootstrap": 1000, "confidence": 0.95, "seed": 0},
        "search": {"method": "grid", "metric": None, "seeds": list(range(seeds)), "space": {}},
    }


def _cohort(persons: int) -> dict:
    labels = {"age": {"kind": "regression", "classes": []}, "diagnosis": {"kind": "classification", "classes": CLASSES}}
    size = 4 * persons
    cohorts = {name: {"scans": size // 2, "persons": size // 2} for name in ("lifespan", "clinic")}
    facts = {"scans": size, "persons": size, "cohorts": cohorts, "warnings": [], "split_file": None, "files": {}}
    return facts | {"labels": {name: facts | {"n": size} for name, facts in labels.items()}}


def _write_store(folder: Path, persons: int) -> None:
    rng, scans = np.random.default_rng(0), [f"clinic/sub-{i:04d}/1/T1w" for i in range(2 * persons)]
    numbers = ("mask_overlap", "metric", "snr", "displacement", "grey_white", "size", "stretch")
    index = pd.DataFrame({"scan_id": scans, "row": range(len(scans)), "status": "ok", "reason": "", "warnings": ""})
    index = index.assign(**{name: rng.normal(1, 0.01, len(scans)) for name in numbers}, notes="")
    write_parquet(folder / "shard-a.parquet", index)
    header = {"fingerprint": "5f0c3d9ab812", "shape": [80, 96, 80], "spacing": 2.0, "recipe": {}, "n": len(scans)}
    write_json(folder / "shard-a.json", header)


def _trials(sweep: dict, size: int) -> tuple[list[dict], dict]:
    """The trials of `size` candidates and the one pretraining that they start from."""
    spec = {"architecture": sweep["architecture"], "stage": sweep["stages"][0], "seed": 0}
    facts = {"parent": "", "level": 1, "split": "0" * 12, "stage": "pretrain", "seed": 0, "spec": spec}
    pretraining = {"id": digest(spec)} | facts
    rates, decays, batches = np.geomspace(1e-5, 1e-1, 25).tolist(), (0.0, 1e-4, 1e-3, 1e-2), (4, 8, 16, 24, 32, 64, 128)
    grid = list(product(rates, decays, batches, STRATEGIES))
    trials = []
    for lr, decay, batch, strategy in (grid[place] for place in np.random.default_rng(0).permutation(len(grid))[:size]):
        optimizer = {"class_path": "AdamW", "init_args": {"lr": lr, "weight_decay": decay}}
        last = _stage("finetune", "diagnosis", "clinic", strategy=strategy, optimizer=optimizer, batch_size=batch)
        init = "" if strategy == "scratch" else pretraining["id"]
        for seed in sweep["search"]["seeds"]:
            split = resolved(sweep["split"])[0]
            stages = [sweep["stages"][0], last] if init else [last]
            spec = {"architecture": sweep["architecture"], "seed": seed, "split": split, "stages": stages}
            facts = {"candidate": candidate_of(spec), "round": 1, "split": digest(split), "init": init, "budget": 20}
            trials.append({"id": digest(spec)} | facts | {"spec": spec})
    return trials, pretraining


def _trained(stage: dict) -> dict:
    """What model.json and encoder.json say; 1,000 people took part."""
    return {
        "status": "ok", "reason": "", "architecture": {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}},
        "input_shape": [1, 80, 96], "targets": {stage["targets"][0]: {"kind": "classification", "classes": CLASSES}},
        "fingerprint": "5f0c3d9ab812", "persons": [digest(i) for i in range(1000)], "best_epoch": 7, "epochs_run": 20,
        "parameters": {"total": 11_170_000, "trainable": 11_170_000}, "start": None, "device": "cpu", "seconds": 93.0,
        "n": {"train": 240, "validation": 80}, "module": stage["data"]["module"], "reused": False,
    }  # fmt: skip


def _write_trial(root: Path, place: int, trial: dict, truth: dict[str, np.ndarray]) -> None:
    rng, last = np.random.default_rng(place), trial["spec"]["stages"][-1]
    facts = {name: trial[name] for name in ("id", "candidate", "init", "split", "budget", "spec")}
    folder, scores = root / "models" / trial["id"], root / "scores" / trial["id"]
    folder.mkdir(parents=True)
    scores.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(_trained(last) | facts, indent=2))
    epoch = np.arange(1, 21)
    history = pd.DataFrame({"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1 / epoch + 0.1})
    history.assign(lr=1e-3, seconds=4.0).to_csv(folder / "history.csv", index=False)
    skill = STRATEGIES[last["strategy"]] - 0.1 * abs(np.log10(last["optimizer"]["init_args"]["lr"]) + 3)
    for name, true in truth.items():
        common = np.random.default_rng(len(name)).normal(size=len(true))
        case = 1 / (1 + np.exp(-skill * (true - 0.5) - common - 0.6 * rng.normal(size=len(true))))
        pq.write_table(_predictions(name, true, case), scores / f"predictions-{name}.parquet")
        content = {"id": trial["id"], "candidate": trial["candidate"], "set": name} | _scores(true, case > 0.5)
        (scores / f"scores-{name}.json").write_text(json.dumps(content))
    fitted = {"id": trial["id"], "status": "ok", "reason": "", "targets": {}, "features": None}
    (scores / "fitted.json").write_text(json.dumps(fitted))


def _scores(truth: np.ndarray, said: np.ndarray) -> dict:
    """What a scores file says, every metric with the balanced accuracy's value."""
    value = float(np.mean([(said[truth == k] == k).mean() for k in (0, 1)]))
    metrics = {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name in METRICS["classification"]}
    targets = {"diagnosis": {"kind": "classification", "classes": CLASSES, "metrics": metrics, "notes": []}}
    return {"status": "ok", "reason": "", "n": {"scans": len(truth), "persons": len(truth)}, "targets": targets}


def _predictions(name: str, truth: np.ndarray, case: np.ndarray) -> pa.Table:
    person = [f"clinic/sub-{i + (0 if name == 'test' else len(truth)):04d}" for i in range(len(truth))]
    said = (case > 0.5).astype(float)
    columns = {"scan_id": [f"{one}/1/T1w" for one in person], "person": person, "target": ["diagnosis"] * len(truth)}
    columns |= {"truth": truth.astype(float), "prediction": said, "truth_label": [CLASSES[int(t)] for t in truth]}
    columns |= {"prediction_label": [CLASSES[int(t)] for t in said]}
    columns |= {"probabilities": np.stack([1 - case, case], 1).tolist()}
    return pa.table(columns | {"event": [None] * len(truth), "called": said})


if __name__ == "__main__":
    main()
