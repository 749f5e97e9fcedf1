"""Nothing heavy is imported where nothing trains."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tlimb.config import Recipe
from tlimb.files import read_json, write_json
from tlimb.preprocess.chunk import preprocess_chunk
from tlimb.preprocess.recipe import read_recipe
from tlimb.store import write_shard

BIN = Path(__file__).parents[2] / "bin"
HEAVY = {"torch", "lightning", "monai", "sklearn", "SimpleITK", "nilearn", "matplotlib"}


def run_and_list_imports(command: str, *arguments) -> set[str]:
    """Run a command of bin/ in a process of its own; the top-level modules it has imported by its end."""
    code = (
        f"import runpy, sys; sys.argv = {[command, *map(str, arguments)]!r}\n"
        f"try: runpy.run_path({str(BIN / command)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\n', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


@pytest.fixture
def files(document, table, tmp_path):
    """A folder with a samplesheet of scans that are whole, and the sweep over them."""
    affine = np.array([[24, 0, 0, -96], [0, 24, 0, -112], [0, 0, 24, -90], [0, 0, 0, 1]])
    for number, name in enumerate(table["subject"]):
        values = np.random.default_rng(number).integers(1, 9, (8, 8, 8)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii")
    sheet = table[["cohort", "subject", "age", "diagnosis"]].assign(image=table["subject"] + ".nii")
    sheet.to_csv(tmp_path / "cohorts.csv", index=False)
    (tmp_path / "settings.json").write_text(json.dumps(document))
    return tmp_path


def test_cohort_and_suggest_import_no_torch(files):
    cohort = ["--settings", files / "settings.json", "--samplesheet", files / "cohorts.csv", "--out", files]
    assert not run_and_list_imports("tlimb_cohort.py", *cohort) & HEAVY
    write_json(files / "recipe.json", Recipe(registration="none", mask="none", spacing=8.0).model_dump())
    for path in (files / "chunks" / "default").iterdir():
        chunk = read_json(path)
        for number, scan in enumerate(chunk["scans"], start=1):
            (files / chunk["chunk"] / str(number)).mkdir(parents=True)
            (files / chunk["chunk"] / str(number) / "scan.nii").symlink_to(scan["image"])
        shard = preprocess_chunk(chunk, read_recipe(files / "recipe.json"), files / chunk["chunk"])
        write_shard(files / "store" / "default", chunk["chunk"], *shard)
    suggest = ["--sweep", files / "sweep.json", "--cohort", files / "cohort.parquet", "--cohort-json", files / "cohort.json"]
    suggest += ["--store", files / "store", "--out", files / "round"]
    assert not run_and_list_imports("tlimb_suggest.py", *suggest) & HEAVY
    assert len((files / "round" / "trials.jsonl").read_text().splitlines()) == 8


def test_importing_tlimb_takes_less_than_a_tenth_of_a_second():
    code = "import time; start = time.perf_counter(); import tlimb; print(time.perf_counter() - start)"
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    assert min(times) < 0.1
