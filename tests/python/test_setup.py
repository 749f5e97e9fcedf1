import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["awk", "basename", "bash", "cat", "dirname", "env", "mkdir", "ps", "rm", "sh", "tail", "touch"]
TOO_OLD = 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi'
NO_VENV = 'case "$2" in *ensurepip*) exit 1;; esac'
FULL_DISK = "echo header; echo /dev/sda1 100000000 95000000 5000000 95% /"
ROOMY_DISK = "echo header; echo /dev/sda1 100000000 5000000 95000000 5% /"


@pytest.fixture
def checkout(tmp_path):
    """A copy of what set-up reads, with a folder of commands that is its whole PATH."""
    folder = tmp_path / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ["Makefile", "pyproject.toml", "requirements.lock", "README.md", "scripts/setup.sh"]:
        shutil.copy(ROOT / name, folder / name)
    commands = folder / "commands"
    commands.mkdir()
    for tool in TOOLS:
        (commands / tool).symlink_to(shutil.which(tool))
    add_command(folder, "df", ROOMY_DISK)
    return folder


def add_command(checkout, name, script):
    command = checkout / "commands" / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


def set_up(checkout, **variables):
    environment = {"PATH": str(checkout / "commands"), "HOME": str(checkout), **variables}
    script = checkout / "scripts" / "setup.sh"
    return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=120)


def complaint(checkout, **variables):
    """What a failing set-up says: exactly one line."""
    done = set_up(checkout, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("set-up: ")
    return done.stderr


def test_no_python_is_one_line(checkout):
    assert "no Python found, 3.11 or newer is needed" in complaint(checkout)


def test_a_python_that_is_too_old_is_one_line_with_its_version(checkout):
    add_command(checkout, "python3", TOO_OLD)
    assert "Python 3.9.2 is too old, 3.11 or newer is needed" in complaint(checkout)


def test_a_newer_python_by_another_name_is_found_beside_an_old_one(checkout):
    add_command(checkout, "python3", TOO_OLD)
    add_command(checkout, "python3.12", NO_VENV)
    assert "python3.12 has no venv module (Debian, Ubuntu: apt-get install python3.12-venv)" in complaint(checkout)


def test_a_disk_that_is_too_small_is_one_line_with_both_sizes(checkout):
    (checkout / "commands" / "python3").symlink_to(sys.executable)
    add_command(checkout, "df", FULL_DISK)
    said = complaint(checkout)
    assert "5 GB free" in said and "8 GB are needed" in said
    assert not (checkout / ".venv").exists()


def test_no_network_is_one_line(checkout):
    (checkout / "commands" / "python3").symlink_to(sys.executable)
    nowhere = "http://127.0.0.1:9/simple"
    said = complaint(checkout, PIP_INDEX_URL=nowhere, PIP_CONFIG_FILE=os.devnull, UV_INDEX_URL=nowhere)
    assert "the package registry doesn't answer; check the network or the proxy" in said


def count_set_ups(checkout):
    """Replace set-up by one that only counts, with an engine on PATH; returns a function that runs make and counts."""
    tally = checkout / "tally"
    (checkout / "scripts" / "setup.sh").write_text("#!/bin/sh\nmkdir -p .venv\necho once >> tally\n[ ! -e broken ]\n")
    os.utime(checkout / "scripts" / "setup.sh", (0, 0))
    add_command(checkout, "nextflow", "true")

    def make():
        done = subprocess.run([shutil.which("make"), "env"], cwd=checkout, env={"PATH": str(checkout / "commands")})
        return done.returncode, len(tally.read_text().splitlines())

    return make


def test_a_second_run_sets_nothing_up(checkout):
    make = count_set_ups(checkout)
    assert make() == (0, 1)
    assert make() == (0, 1)


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.lock", "scripts/setup.sh"])
def test_a_change_of_what_set_up_depends_on_sets_up_again(checkout, changed):
    make = count_set_ups(checkout)
    make()
    stamp = (checkout / ".venv" / "made").stat().st_mtime
    os.utime(checkout / changed, (stamp + 10, stamp + 10))
    assert make() == (0, 2)


def test_a_failed_set_up_is_tried_again(checkout):
    make = count_set_ups(checkout)
    (checkout / "broken").touch()
    assert make()[0] != 0
    (checkout / "broken").unlink()
    assert make() == (0, 2)


def locked_names():
    return re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_the_lock_holds_every_dependency_of_the_project_and_what_set_up_adds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["engine"], *extras["test"]]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-") for requirement in wanted}
    assert names <= set(locked_names())


def test_every_package_of_the_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(entries) == len(locked_names()) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
