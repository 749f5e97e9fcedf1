"""Models written for other programs give the same outputs; the commands about weights say what they see."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from training_jobs import RESNET, make_people, make_store, pack_job, roles, stage, trial_line

from tlimb.cli import main
from tlimb.errors import InputError
from tlimb.evaluation.predict import read_model
from tlimb.files import read_json, write_json
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.weights import export as exporting
from tlimb.weights.export import FORMATS, export


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small model of slices with a head for diagnosis and one for age."""
    set_up_torch(1, training=True)
    folder, people = tmp_path_factory.mktemp("model"), make_people("clinic", 16)
    make_store(folder / "store", people)
    of = stage("finetune", "diagnosis", epochs=1, strategy="scratch", targets=["diagnosis", "age"])
    trial = trial_line(of)
    pack_job(folder / "job", roles(people, 4, 4), [trial])
    finetune(folder / "job", folder / "store", None, folder / "models", Settings(torch.device("cpu")))
    return SimpleNamespace(folder=folder / "models" / trial["id"], id=trial["id"])


@pytest.mark.parametrize("form", ["torchscript", "torch-export"])
def test_an_exported_model_gives_what_the_network_gives_for_any_number_of_images(trained, tmp_path, form):
    out = tmp_path / f"model{FORMATS[form]}"
    difference = export(trained.folder, form, out)
    assert difference <= 1e-5 and {path.name for path in tmp_path.iterdir()} == {out.name, f"{out.name}.json"}
    about = read_json(tmp_path / f"{out.name}.json")
    assert about["largest_difference"] == difference and about["recipe"]["spacing"] == 8.0
    assert [one["target"] for one in about["outputs"]] == ["diagnosis", "age"]
    assert about["outputs"][0]["classes"] == ["control", "patient"] and about["outputs"][1]["sd"] > 0


def test_another_program_reads_the_onnx_file_by_the_names_that_the_json_says(trained, tmp_path):
    assert export(trained.folder, "onnx", tmp_path / "model.onnx") <= 1e-5
    about = read_json(tmp_path / "model.onnx.json")
    images = np.random.default_rng(0).normal(size=(5, *about["input"]["shape"][1:])).astype("float32")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run([about["outputs"][1]["name"]], {about["input"]["name"]: images})[0]
    network = read_model(trained.folder).network.eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(images))["age"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_whose_outputs_differ_is_not_left_behind(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="outputs differ by .*; at most"):
        export(trained.folder, "torchscript", tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_model_is_not_exported(trained, tmp_path):
    write_json(tmp_path / "model.json", {"id": trained.id, "status": "failed", "reason": "the loss is not finite"})
    with pytest.raises(InputError, match="no model to export: the loss is not finite"):
        export(tmp_path, "onnx", tmp_path / "model.onnx")


def test_the_command_exports_and_says_how_much_outputs_differ(trained, tmp_path):
    arguments = ["export", str(trained.folder), "--format", "torchscript", "--out", str(tmp_path / "m.pt")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0 and "outputs differ by" in result.output, result.output
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--format", "onnx", "--out", str(tmp_path / "m.onnx")])
    assert result.exit_code == 1 and "no folder of a trained model" in result.stderr


def test_the_command_shows_what_a_folder_of_tlimb_holds(trained):
    result = CliRunner().invoke(main, ["weights", str(trained.folder)])
    assert result.exit_code == 0, result.output
    for text in (trained.id, "targets: diagnosis, age; 8 training scans", "spacing 8.0", "licence: not stated"):
        assert text in result.output


def test_the_command_tries_a_file_on_an_encoder_without_loading_it(trained, tmp_path):
    encoder = read_model(trained.folder).network.encoder
    own = encoder.state_dict()
    others = {f"module.{name}".replace("layer", "stage"): one.contiguous() for name, one in own.items()}
    save_file(others, tmp_path / "w.safetensors")
    (tmp_path / "map.json").write_text('{"stage": "layer"}')
    asked = ["weights", str(tmp_path / "w.safetensors"), "--architecture", json.dumps(RESNET), "--shape", "1,16,18"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0 and "missing: layer1.0.conv1.weight" in result.output, result.output
    result = CliRunner().invoke(main, [*asked, "--map", str(tmp_path / "map.json")])
    assert "0 missing, 0 unexpected; 100.0% of the parameters" in result.output, result.output
    result = CliRunner().invoke(main, ["weights", str(tmp_path / "w.safetensor")])
    assert result.exit_code == 1 and "did you mean 'w.safetensors'" in result.stderr
    result = CliRunner().invoke(main, [*asked[:4], "--shape", "1,x"])
    assert result.exit_code == 1 and "--shape: expected whole numbers" in result.stderr
