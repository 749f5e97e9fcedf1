"""Nextflow as a user starts it, in a folder of its own."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A run that has ended: exit status, everything it printed, the folder it was started in."""

    status: int
    text: str
    folder: Path

    @property
    def submitted(self) -> list[str]:
        """Names of the processes of the tasks that ran, without their workflows."""
        return re.findall(r"Submitted process > (?:\w+:)*(\w+)", self.text)

    @property
    def cached(self) -> list[str]:
        """Names of the processes of the tasks whose results were taken from an earlier run."""
        return re.findall(r"Cached process > (?:\w+:)*(\w+)", self.text)

    def json(self, path: str):
        """A JSON file of the run's folder."""
        return json.loads((self.folder / path).read_text())


@pytest.fixture(scope="session")
def nextflow():
    """Run ``nextflow run PIPELINE ARGUMENTS`` in a folder and return a Run; skips where there is no engine."""
    if shutil.which("nextflow") is None:
        pytest.skip("no nextflow on PATH: make env brings one")

    def run(folder: Path, *arguments: str, pipeline: Path = ROOT, environment: dict | None = None) -> Run:
        command = ["nextflow", "run", str(pipeline), "-ansi-log", "false", *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment or os.environ,
            timeout=900,
        )
        return Run(done.returncode, done.stdout + done.stderr, folder)

    return run


@pytest.fixture
def pipeline(tmp_path) -> Path:
    """A copy of the pipeline that a test may edit."""
    copy = tmp_path / "pipeline"
    for name in ("main.nf", "nextflow.config", "nextflow_schema.json"):
        copy.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    for name in ("assets", "bin", "conf", "modules", "python", "subworkflows"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="session")
def demo_cohort(tmp_path_factory) -> Path:
    """A folder with the samplesheet and scans of the test profile: 40 scans, one of them empty of anything."""
    import nibabel
    import numpy as np

    from tlimb.demo.cohorts import demo_cohort

    folder = tmp_path_factory.mktemp("demo") / "demo-small"
    demo_cohort(folder, 40, 0, 2)
    scan = sorted((folder / "lifespan").glob("sub-*/anat/*.nii*"))[0]
    image = nibabel.load(scan)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.int16), image.affine), scan)
    return folder
