"""What tests of several folders share: a real Slurm cluster on this machine."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SLURM = Path(__file__).parent / "slurm"
NOT_INSTALLED = 77


@pytest.fixture(scope="session")
def slurm_cluster():
    """Environment variables with which sbatch and nextflow use a Slurm of one node with two pretend GPUs.

    Nextflow reads the settings of slurm/site.config as the user's own. Skips where Slurm isn't installed. The cluster
    lives until the last test has ended.
    """
    with tempfile.TemporaryDirectory(prefix="tlimb-slurm-") as folder:
        started = subprocess.run([SLURM / "cluster.sh", "start", folder], capture_output=True, text=True)
        if started.returncode == NOT_INSTALLED:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        home = Path(folder, "nextflow")
        home.mkdir()
        shutil.copy(SLURM / "site.config", home / "config")
        yield {**os.environ, "SLURM_CONF": started.stdout.strip(), "NXF_HOME": str(home)}
        subprocess.run([SLURM / "cluster.sh", "stop", folder], check=True)
