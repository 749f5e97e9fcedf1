"""How the commands that measure read their settings."""

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate, OperatingPoint, read_evaluate
from tlimb.files import write_json

BIN = Path(__file__).parents[2] / "bin"
FOLDERS = {
    "evaluate": ("--job", "--store", "--models"),
    "explain": ("--job", "--store", "--models"),
    "probe": ("--job", "--store", "--encoders"),
}


def test_a_file_is_silent_about_what_stays_as_usual(tmp_path):
    assert read_evaluate() == read_evaluate(write(tmp_path, {})) == Evaluate()
    found = read_evaluate(write(tmp_path, {"bootstrap": 200, "operating_point": {"sensitivity": 0.9}}))
    assert found == Evaluate(bootstrap=200, operating_point=OperatingPoint(sensitivity=0.9))


def test_everything_wrong_in_a_file_is_told_with_its_place(tmp_path):
    path = write(tmp_path, {"bootstraps": 200, "explained": -1})
    with pytest.raises(InputError) as caught:
        read_evaluate(path)
    text = str(caught.value)
    assert f"{path}: bootstraps: unknown key (did you mean 'bootstrap'?)" in text and f"{path}: explained: " in text


@pytest.mark.parametrize("command", FOLDERS)
def test_each_command_tells_a_wrong_setting_plainly(tmp_path, command):
    path, selected = write(tmp_path, {"sed": 1}), tmp_path / "selected.json"
    write_json(selected, {"trials": []})
    given = [word for name in FOLDERS[command] for word in (name, str(tmp_path))]
    given += ["--selected", str(selected)] if command == "explain" else []
    main = runpy.run_path(str(BIN / f"tlimb_{command}.py"))["main"]
    done = CliRunner().invoke(main, [*given, "--settings", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and f"{path}: sed: unknown key (did you mean 'seed'?)" in done.output


def write(folder: Path, settings: dict) -> Path:
    write_json(folder / "settings.json", settings)
    return folder / "settings.json"
