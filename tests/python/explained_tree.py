"""What a run leaves beside its scores: cohort.parquet, study.json, probes and explanations, for tests of the report."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tlimb.files import read_json, read_jsonl, write_json, write_parquet


def add_table(root: Path, persons: int) -> Path:
    """cohort.parquet of the clinic's persons, with their site, sex and age."""
    rng = np.random.default_rng(11)
    number = np.arange(2 * persons)
    table = pd.DataFrame({"scan_id": [f"clinic/sub-{i:03d}/1/T1w" for i in number]})
    table["person"] = [f"clinic/sub-{i:03d}" for i in number]
    table["cohort"], table["site"] = "clinic", rng.choice(["east", "north", "west"], len(number))
    table["sex"], table["age"] = rng.choice(["f", "m"], len(number)), rng.uniform(20, 85, len(number)).round(1)
    write_parquet(root / "cohort.parquet", table)
    return root / "cohort.parquet"


def add_study(root: Path) -> None:
    """study.json of a search by halving: all candidates for 5 epochs, half of them for 20."""
    folder = root / "search" / "round-1"
    trials: dict[str, list[str]] = {}
    for line in read_jsonl(folder / "trials.jsonl"):
        trials.setdefault(line["candidate"], []).append(line["id"])
    rounds = []
    for number, (budget, kept) in enumerate(((5, len(trials)), (20, len(trials) // 2)), start=1):
        points = []
        for place, (candidate, ids) in enumerate(list(trials.items())[:kept]):
            value = 0.5 + 0.01 * (place * 7 % 13) + 0.01 * number
            facts = {"candidate": candidate, "point": {}, "budget": budget, "trials": ids, "failed": 0}
            points.append(facts | {"values": [value] * len(ids), "value": value, "why": "asked"})
        rounds.append({"round": number, "points": points, "left_out": []})
    facts = {"method": "halving", "metric": "balanced_accuracy", "direction": "max", "seed": 0, "epochs": 20}
    facts |= {"rounds": rounds, "finished": True, "reason": "", "given": 0, "pretrainings": []}
    write_json(folder / "study.json", facts)


def add_explanations(root: Path, trial: dict, name: str, scans: list[str]) -> Path:
    """explanations/<trial id>/ of one trial, as EXPLAIN writes it."""
    folder = root / "explanations" / trial["id"]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for picture in ("occlusion-0.png", "occlusion-1.png", "attention-0.png", "reconstruction.png"):
        Image.fromarray(rng.integers(0, 255, (60, 160, 3), np.uint8)).save(folder / picture)
    maps = [
        {"class": text, "scans": 8, "png": f"occlusion-{i}.png", "nifti": None, "peak": 0.3, "peak_mni": [-32, 4, 18]}
        for i, text in enumerate(("control", "patient"))
    ]
    weights = np.exp(-np.linspace(-2, 2, 30) ** 2)
    slices = {"axis": "sagittal", "mm": np.linspace(-70, 70, 30).tolist(), "weights": list(weights / weights.sum())}
    looked = {"class": None, "scans": 16, "png": "attention-0.png", "nifti": None, "peak": 0.1, "peak_mni": None}
    looked["slices"] = slices
    methods = {
        "occlusion": {"status": "ok", "reason": "", "scans": 16, "maps": maps},
        "attention": {"status": "ok", "reason": "", "scans": 16, "maps": [looked]},
        "grad_cam": {"status": "left out", "reason": "the encoder has no maps before its pooling"},
    }
    facts = {"id": trial["id"], "candidate": trial["candidate"], "name": name, "selected": "best", "set": "test"}
    facts |= {"target": "diagnosis", "kind": "classification", "space": "MNI152", "scans": scans[:16]}
    facts["methods"] = methods
    features = {"status": "ok", "reason": "", "file": "features.parquet", "scans": len(scans), "of": len(scans)}
    features |= {"width": 512, "explained_variance": [0.41, 0.12], "perplexity": 15.7, "neighbours": 15}
    features["columns"] = ["diagnosis", "site", "age"]
    code = {"edges": np.linspace(-2, 2, 65).tolist(), "counts": rng.integers(0, 90, 64).tolist(), "near_zero": 0.4}
    network = {"network": "9ab2", "stage": "pretrain", "png": "reconstruction.png", "scans": scans[:4], "error": 0.12}
    network["code"] = {"scans": 48, "numbers": 27104, "values": code, "means": code}
    facts |= {"features": features, "reconstructions": {"status": "ok", "reason": "", "networks": [network]}}
    before = {name: {"value": 0.6, "low": 0.5, "high": 0.7} for name in ("balanced_accuracy", "auroc")}
    change = {"balanced_accuracy": {"value": -0.0421, "low": -0.1, "high": 0.0125}, "auroc": None}
    measured = {"status": "ok", "reason": "", "column": "site", "keeping": ["age"], "unharmonised": 1}
    measured |= {"n": {"train": 80, "test": 40, "persons": 38}, "site": {"before": 0.8, "after": 0.4, "chance": 0.33}}
    facts["harmonised"] = measured | {"test": {"before": before, "after": before, "difference": change}}
    write_json(folder / "explain.json", facts)
    _write_features(folder, scans, rng)
    return root / "explanations"


def _write_features(folder: Path, scans: list[str], rng) -> None:
    table = pd.DataFrame({"scan_id": scans, "person": [scan.rsplit("/", 2)[0] for scan in scans]})
    table["set"] = np.where(np.arange(len(scans)) % 3 == 0, "validation", "test")
    patient = rng.random(len(scans)) < 0.5
    for name in ("pc1", "pc2", "tsne1", "tsne2", "umap1", "umap2"):
        table[name] = rng.normal(size=len(scans)) + patient
    table["diagnosis"] = np.where(patient, "patient", "control")
    table["site"], table["age"] = rng.choice(["east", "west"], len(scans)), rng.uniform(20, 85, len(scans))
    write_parquet(folder / "features.parquet", table)


def add_probes(root: Path) -> Path:
    """probes/p1/probe.json of every encoder that finished and one of random weights."""
    rng = np.random.default_rng(7)
    encoders = [read_json(path) for path in sorted(root.glob("encoders/*/encoder.json"))]
    encoders = [one for one in encoders if one["status"] == "ok"] + [{"id": "random", "stage": "", "seed": 0}]
    rows = []
    for one in encoders:
        scores = {name: round(float(rng.normal()), 3) for name in ("logme", "h_score", "knn", "linear")}
        probe = {"penalty": 1.0, "validation": {"balanced_accuracy": 0.61, "auroc": 0.66}}
        site = {"before": 0.7, "after": 0.36, "chance": 0.33}
        harmonised = {"column": "site", "validation": {"balanced_accuracy": 0.62}, "site": site}
        harmonised |= {"unharmonised": 0, "reason": ""}
        split = {"split": "s", "n": {"train": 80, "validation": 40}, "scores": scores, "notes": [], "probe": probe}
        facts = {key: one[key] for key in ("id", "stage", "seed")} | {"status": "ok", "reason": ""}
        facts |= {"architecture": "ResNet", "weights": None}
        rows.append(facts | {"features": 512, "seconds": 1.5, "splits": [split | {"harmonised": harmonised}]})
    facts = {"id": "p1", "recipe": "default", "target": "diagnosis", "kind": "classification", "note": ""}
    facts |= {"classes": ["control", "patient"], "harmonise": "site", "keeping": [], "encoders": rows}
    write_json(root / "probes" / "p1" / "probe.json", facts)
    return root / "probes"


def write_full_tree(root: Path, write_results_tree, **more) -> dict:
    """A results tree with all that RANK can be given beside it; the arguments of `read_results`."""
    from tlimb.ranking.results import read_results
    from tlimb.ranking.selection import ranked_candidates, ranked_measure

    tree = write_results_tree(root, **more)
    add_study(root)
    tree["table"] = add_table(root, more.get("persons", 120))
    sweep = read_json(tree["sweep"])
    sweep["evaluate"] |= {"groups": ["site", "sex", "age"]}
    write_json(tree["sweep"], sweep)
    results = read_results(**tree)
    best = ranked_candidates(results, *ranked_measure(results))[0]
    trial = next(one for one in best["trials"] if one["status"] == "ok") | {"candidate": best["candidate"]}
    scans = pd.read_parquet(tree["table"])["scan_id"].tolist()
    tree["probes"] = add_probes(root)
    return tree | {"explanations": add_explanations(root, trial, best["name"], scans)}
