"""How fast `tlimb predict` is and how much memory it takes: the demo's scans at 2 mm, from file to table.

Each model is trained for one epoch on a few scans, then predicts one scan and all of them in processes of their own.
What a scan costs is the difference; the rest is the start. Processor time is that of all processes together; memory is
the largest of any one process.
Run: python benchmarks/predict.py [--scans 48]
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from predict_world import prepare  # noqa: E402
from training_jobs import pack_job, roles, stage, trial_line  # noqa: E402

from tlimb.config import Recipe  # noqa: E402
from tlimb.demo.cohorts import demo_cohort  # noqa: E402
from tlimb.scenarios.device import set_up_torch  # noqa: E402
from tlimb.scenarios.finetune import finetune  # noqa: E402
from tlimb.scenarios.results import Settings  # noqa: E402

SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
WHOLE = {"class_path": "BaseDataModule", "init_args": {}}
MODELS = [
    ("LinearBaseline", {"class_path": "LinearBaseline", "init_args": {}}, WHOLE),
    ("ResNet-18, one axial slice", {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}, SLICES),
    ("SFCN, whole volumes", {"class_path": "SFCN", "init_args": {}}, WHOLE),
]


@click.command(help=__doc__)
@click.option("--scans", default=48, show_default=True, type=click.IntRange(24))
def main(scans: int):
    print("| model | start, s of processor time | a scan, s of processor time | scans a second and core | memory, MB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, people = _people(folder, scans)
        for name, architecture, module in MODELS:
            model = _trained(folder, people, architecture, module)
            once, _ = _used(folder, model, images[:1])
            cost, memory = _used(folder, model, images)
            each = (cost - once) / (len(images) - 1)
            print(f"| {name} | {once - each:.1f} | {each:.2f} | {1 / each:.1f} | {memory:.0f} |", flush=True)


def _people(folder: Path, scans: int) -> tuple[list[Path], pd.DataFrame]:
    """The demo's scans, and of the first few the table that trains."""
    sheet = pd.read_csv(demo_cohort(folder / "demo", scans, 0, 1))
    images = [folder / "demo" / image for image in sheet["image"]]
    people = pd.DataFrame({"scan_id": sheet["cohort"] + "/" + sheet["subject"] + "/1/T1w", "image": images})
    people = people.assign(person=sheet["cohort"] + "/" + sheet["subject"], age=sheet["age"]).head(10)
    prepare(folder / "store", people, folder / "images", Recipe())
    return images, people.drop(columns="image")


def _trained(folder: Path, people: pd.DataFrame, architecture: dict, module: dict) -> Path:
    set_up_torch(2, training=True)
    trial = trial_line(stage("finetune", "age", strategy="scratch", epochs=1, module=module), architecture=architecture)
    pack_job(folder / trial["id"], roles(people, 2, 0), [trial])
    finetune(folder / trial["id"], folder / "store", None, folder / "models", Settings(torch.device("cpu")))
    return folder / "models" / trial["id"]


def _used(folder: Path, model: Path, images: list[Path]) -> tuple[float, float]:
    """Processor time in s and memory in MB of one prediction."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["tlimb", "predict", model, *images, "--threads", "2", "--device", "cpu", "--out", folder / "out.csv"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, own = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, own.ru_maxrss / 1024


if __name__ == "__main__":
    main()
