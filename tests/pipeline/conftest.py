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
            command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment or os.environ, timeout=900
        )
        return Run(done.returncode, done.stdout + done.stderr, folder)

    return run
