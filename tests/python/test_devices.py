"""GPUs of one machine, shared by tasks: the script that each task sources, with a stand-in for the list of devices."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "conf" / "pick_gpu.sh"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs flock")


@pytest.fixture
def environment(tmp_path):
    """A PATH on which nvidia-smi lists three devices, and locks of their own."""
    listed = tmp_path / "nvidia-smi"
    listed.write_text("#!/bin/bash\nprintf '0\\n1\\n2\\n'\n")
    listed.chmod(0o755)
    script = tmp_path / "pick_gpu.sh"
    script.write_text(SCRIPT.read_text().replace("/tmp/tlimb-gpu", f"{tmp_path}/gpu"))
    return script, {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def task(environment, devices: int, then: str) -> subprocess.Popen:
    script, variables = environment
    command = f'source {script}; echo "$CUDA_VISIBLE_DEVICES"; {then}'
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command], env=variables | {"TLIMB_DEVICES": str(devices)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_tasks_take_devices_that_no_other_has_and_wait_for_enough_of_them(environment):
    two = task(environment, 2, "read -r")
    assert two.stdout.readline() == "0,1\n"
    one = task(environment, 1, "read -r")
    assert one.stdout.readline() == "2\n"
    waiting = task(environment, 2, "true")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=0.5)
    two.communicate("\n")
    assert waiting.communicate(timeout=10)[0] == "0,1\n"
    one.communicate("\n")


def test_more_devices_than_there_are_is_told(environment):
    asked = task(environment, 4, "true")
    assert "this machine has 3 GPUs, and trainer.devices asks for 4" in asked.communicate(timeout=10)[1]
    assert asked.returncode == 1
