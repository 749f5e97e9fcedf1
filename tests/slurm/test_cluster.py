import shlex
import subprocess
import time
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "cluster.sh"


@pytest.fixture
def submit(slurm_cluster, tmp_path):
    """Function that submits a command line with options of sbatch and returns the job's id; output goes to <id>.out."""

    def submit(command, *options):
        script = ["sbatch", "--parsable", "--mem=50", f"--output={tmp_path}/%j.out", *options, f"--wrap={command}"]
        return subprocess.run(script, env=slurm_cluster, check=True, capture_output=True, text=True).stdout.strip()

    return submit


def states(slurm_cluster, jobs):
    """The state of each of `jobs`, as squeue's short code."""
    ask = ["squeue", "--noheader", "--states=all", "--format=%i %t", f"--jobs={','.join(jobs)}"]
    lines = subprocess.run(ask, env=slurm_cluster, check=True, capture_output=True, text=True).stdout.split("\n")
    found = dict(line.split() for line in lines if line)
    return [found[job] for job in jobs]


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_gpu_job_is_told_its_device_and_another_sees_none(slurm_cluster, submit, tmp_path):
    show = "echo device=${CUDA_VISIBLE_DEVICES-none}"
    jobs = [submit(show, "--gres=gpu:1"), submit(show), submit(show, "--gres=gpu:2")]
    wait_for(lambda: states(slurm_cluster, jobs) == ["CD"] * 3)
    said = [(tmp_path / f"{job}.out").read_text().strip() for job in jobs]
    assert said[0] in {"device=0", "device=1"}
    assert said[1:] == ["device=none", "device=0,1"]


def test_two_gpu_jobs_run_at_once_on_different_devices_and_a_third_waits(slurm_cluster, submit, tmp_path):
    gate = tmp_path / "gate"
    wait = f"echo device=$CUDA_VISIBLE_DEVICES; while [ ! -e {gate} ]; do sleep 0.1; done"
    jobs = [submit(wait, "--gres=gpu:1", "--cpus-per-task=1") for _ in range(3)]
    wait_for(lambda: states(slurm_cluster, jobs) == ["R", "R", "PD"])
    time.sleep(1.5)
    assert states(slurm_cluster, jobs) == ["R", "R", "PD"]
    assert {(tmp_path / f"{job}.out").read_text() for job in jobs[:2]} == {"device=0\n", "device=1\n"}
    gate.touch()
    wait_for(lambda: states(slurm_cluster, jobs) == ["CD"] * 3)


def test_a_request_beyond_the_node_is_refused(slurm_cluster, submit):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        submit("true", "--gres=gpu:3")
    assert "Requested node configuration is not available" in refused.value.stderr


def test_where_slurm_is_missing_the_script_says_so_with_exit_status_77(tmp_path):
    hide_sbatch = 'command() { [[ $1 == -v && $2 == sbatch ]] && return 1; builtin command "$@"; }'
    start = f". {shlex.quote(str(CLUSTER))} start {tmp_path}/x"
    done = subprocess.run(["bash", "-c", f"{hide_sbatch}; {start}"], capture_output=True, text=True)
    assert done.returncode == 77
    assert "sbatch" in done.stderr and "apt-get install slurm-wlm munge" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_not_empty_or_too_deep_for_sockets_is_refused(slurm_cluster, tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in [(tmp_path, "not empty"), (tmp_path / ("deep" * 20), "at most 70 characters")]:
        done = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True)
        assert done.returncode == 1 and reason in done.stderr
