"""Trainings that start from published weights: what is checked first, and what their models say of it."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json
from safetensors.torch import save_file
from torch import nn
from training_jobs import RESNET, make_people, make_world, pack_job, pretrain_job, roles, stage, trial_line

from tlimb.architectures.network import Network
from tlimb.architectures.resnet import ResNet
from tlimb.architectures.weights import read_weights, save_weights
from tlimb.config import Weights
from tlimb.errors import InputError
from tlimb.files import read_json, write_json
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.job import named_files, read_pretrained, start_digest
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.scenarios.start import load_start
from tlimb.search.named_files import content_digest
from tlimb.store import Store
from tlimb.weights.checkpoint import read_checkpoint
from tlimb.weights.kinds import file_problems

CPU = torch.device("cpu")


def narrow() -> ResNet:
    return ResNet(10, dims=2, width=0.125)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of two cohorts, one encoder pretrained on age in the first, one file that somebody else made."""
    made = make_world(tmp_path_factory.mktemp("world"), epochs=1)
    torch.manual_seed(5)
    save_file({f"net.{name}": one for name, one in narrow().state_dict().items()}, made.folder / "others.safetensors")
    return made


def started(world, folder, path, table=None, target="diagnosis", **changes) -> dict:
    """Fine-tune one trial from published weights at `path`; its model.json."""
    weights = Weights(path="weights.pt", **changes.pop("weights", {})).model_dump()
    trial = trial_line(stage("finetune", target, epochs=1, weights=weights, **changes))
    pack_job(folder / "job", world.table if table is None else table, [trial])
    facts = read_json(folder / "job" / "job.json")
    listed = [{"path": "weights.pt", "digest": content_digest(path), "file": str(path)}]
    write_json(folder / "job" / "job.json", facts | {"files": listed, "licence": "CC0-1.0"})
    files = named_files(folder / "job", [str(path)])
    finetune(folder / "job", world.store, None, folder / "models", Settings(CPU), files)
    return read_json(folder / "models" / trial["id"] / "model.json")


def test_a_trial_starts_from_a_foreign_file_and_its_model_says_so(world, tmp_path, capsys):
    model = started(world, tmp_path, world.folder / "others.safetensors", strategy="frozen")
    check_json("model", model)
    assert model["status"] == "ok", model["reason"]
    assert model["start"]["origin"] == "file" and model["start"]["path"] == "weights.pt" and model["start"]["report"]["share"] == 1
    assert model["licence"] == "CC0-1.0" and "is not known" in capsys.readouterr().out
    kept = read_weights(tmp_path / "models" / model["id"] / "model.safetensors")
    given = read_weights(world.folder / "others.safetensors")
    assert torch.equal(kept["encoder.layer1.0.conv1.weight"], given["net.layer1.0.conv1.weight"])


def test_a_folder_of_tlimb_given_as_a_file_is_the_encoder_that_it_holds(world, tmp_path):
    model = started(world, tmp_path, world.encoder, strategy="frozen")
    check_json("model", model)
    assert model["start"]["id"] == world.line["id"] and model["start"]["path"] == "weights.pt"
    kept = read_weights(tmp_path / "models" / model["id"] / "model.safetensors")
    assert torch.equal(kept["encoder.conv1.weight"], read_weights(world.encoder / "encoder.safetensors")["conv1.weight"])
    assert set(read_json(world.encoder / "encoder.json")["persons"]) <= set(model["persons"])


def test_a_whole_model_is_used_directly_with_its_own_head(world, tmp_path):
    first = started(world, tmp_path / "a", world.encoder, target="age")
    assert first["status"] == "ok", first["reason"]
    folder = tmp_path / "a" / "models" / first["id"]
    saved = read_json(folder / "model.json")
    write_json(folder / "model.json", saved | {"persons": []})
    model = started(world, tmp_path / "b", folder, target="age", strategy="direct")
    assert model["status"] == "ok", model["reason"]
    one, two = (read_weights(path / "model.safetensors") for path in (folder, tmp_path / "b" / "models" / model["id"]))
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert model["targets"] == first["targets"]


def test_a_published_head_over_known_bins_is_measured_without_any_training(world, tmp_path):
    state = {f"net.{name}": one for name, one in narrow().state_dict().items()}
    save_file(state | {"out.weight": torch.randn(30, 64, 1, 1), "out.bias": torch.randn(30)}, tmp_path / "w.safetensors")
    bins = {"low": 10.0, "high": 100.0, "width": 3.0, "sigma": 1.0}
    heads = {"age": {"class_path": None, "init_args": {}, "bins": bins}}
    asked = {"target": "age", "strategy": "direct", "weights": {"map": {r"^out\.": "heads.age."}}}
    model = started(world, tmp_path / "a", tmp_path / "w.safetensors", heads=heads, **asked)
    assert model["status"] == "ok" and model["targets"]["age"]["bins"] == bins, model["reason"]
    check_json("model", model)
    kept = read_weights(tmp_path / "a" / "models" / model["id"] / "model.safetensors")
    given = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(kept["heads.age.weight"], given["out.weight"].flatten(1))
    assert torch.equal(kept["encoder.bn1.running_var"], given["net.bn1.running_var"])
    open_ended = {"age": heads["age"] | {"bins": bins | {"high": None}}}
    model = started(world, tmp_path / "b", tmp_path / "w.safetensors", heads=open_ended, **asked)
    assert model["status"] == "failed" and "heads.age.bins: strategy 'direct' needs low and high" in model["reason"]
    model = started(world, tmp_path / "c", tmp_path / "w.safetensors", heads=heads, **asked | {"weights": {}})
    assert model["status"] == "failed" and "the map fills no head of 'age'" in model["reason"]


def test_the_encoder_of_the_stage_before_fills_a_part_of_a_larger_one(world, tmp_path, capsys):
    larger = nn.Sequential()
    larger.add_module("slice_encoder", narrow())
    larger.add_module("attention", nn.Linear(64, 64))
    of = stage("finetune", "age") | {"weights": Weights(part="slice_encoder").model_dump()}
    facts = load_start(Network(larger, {}), of, read_pretrained(world.encoder), {})
    assert facts["origin"] == "stage" and facts["id"] == world.line["id"] and facts["part"] == "slice_encoder"
    given = read_weights(world.encoder / "encoder.safetensors")
    assert all(torch.equal(one, given[name]) for name, one in larger.slice_encoder.state_dict().items())
    assert "100.0% of the parameters" in capsys.readouterr().out


def test_a_pretraining_starts_from_a_folder_of_tlimb_and_passes_on_whom_it_has_seen(world, tmp_path):
    people = make_people("clinic", 20, seed=1)
    weights = Weights(path="encoder").model_dump()
    pretrain_job(tmp_path / "job", roles(people, 4, 4), stage("pretrain", "age", epochs=1, weights=weights))
    facts = read_json(tmp_path / "job" / "job.json")
    listed = [{"path": "encoder", "digest": content_digest(world.encoder), "file": str(world.encoder)}]
    write_json(tmp_path / "job" / "job.json", facts | {"files": listed})
    made = pretrain(tmp_path / "job", world.store, None, tmp_path / "out", Settings(CPU), {"encoder": world.encoder})
    about = read_json(made / "encoder.json")
    check_json("encoder", about)
    assert about["status"] == "ok" and about["start"]["id"] == world.line["id"], about["reason"]
    assert len(about["persons"]) == 20 + 24


@pytest.mark.parametrize("held_out, role", [((4, 0), "validation"), ((4, 4), "test")])
def test_a_pretraining_from_published_weights_holds_out_nobody_whom_they_have_seen(world, tmp_path, held_out, role):
    people = pd.concat([make_people("clinic", 20, seed=1), world.lifespan.tail(4)], ignore_index=True)
    weights = Weights(path="encoder").model_dump()
    pretrain_job(tmp_path / "job", roles(people, *held_out), stage("pretrain", "age", epochs=1, weights=weights))
    facts = read_json(tmp_path / "job" / "job.json")
    listed = [{"path": "encoder", "digest": content_digest(world.encoder), "file": str(world.encoder)}]
    write_json(tmp_path / "job" / "job.json", facts | {"files": listed})
    with pytest.raises(InputError, match=f"person lifespan/sub-023 of {role} took part in pretraining"):
        pretrain(tmp_path / "job", world.store, None, tmp_path / "out", Settings(CPU), {"encoder": world.encoder})


def test_the_weights_of_tlimb_alone_are_refused_as_a_link_and_as_a_copy(world, tmp_path):
    whole, parts = world.encoder / "encoder.safetensors", {}
    for name in ("link", "copy"):
        (tmp_path / name).mkdir()
        parts[name] = tmp_path / name / "encoder.safetensors"
    parts["link"].symlink_to(whole)
    parts["copy"].write_bytes(whole.read_bytes())
    told = {
        "link": "weights.pt lies in a folder of tlimb; name the folder .*the persons it has seen are checked then",
        "copy": "weights.pt is tlimb's; name the folder it came in .*the persons it has seen are checked then",
    }
    for name, path in parts.items():
        (problem,) = file_problems(path, {"path": "weights.pt"}, "stages[0].weights")
        assert re.search(told[name], str(problem))
        with pytest.raises(InputError, match=told[name]):
            read_checkpoint(path, "weights.pt")
        assert re.search(told[name], started(world, tmp_path / name, path)["reason"])
    save_file(read_weights(whole), tmp_path / "bare.safetensors")
    assert set(read_checkpoint(tmp_path / "bare.safetensors")) == set(read_weights(whole))


def test_the_same_weights_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        torch.manual_seed(1)
        save_weights(tmp_path / name, narrow().state_dict())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_persons_and_preparation_of_a_folder_of_tlimb_are_checked(world, tmp_path):
    leaking = roles(world.lifespan, 5, 5)
    with pytest.raises(InputError, match="person lifespan/sub-0.. of test took part in pretraining"):
        started(world, tmp_path / "a", world.encoder, table=leaking)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in world.encoder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    facts = read_json(copy / "encoder.json")
    write_json(copy / "encoder.json", facts | {"fingerprint": "0" * 12, "recipe": facts["recipe"] | {"spacing": 1.0}})
    with pytest.raises(InputError, match="prepared otherwise.*spacing 1.0 against 8.0"):
        started(world, tmp_path / "b", copy)


def test_a_file_that_is_not_what_it_was_stops_the_task(world, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((world.folder / "others.safetensors").read_bytes())
    started(world, tmp_path, path)
    save_file(narrow().state_dict(), path)
    with pytest.raises(InputError, match="weights.pt: has changed since the run was planned"):
        finetune(tmp_path / "job", world.store, None, tmp_path / "again", Settings(CPU), {"weights.pt": path})
    with pytest.raises(InputError, match="1 files, 0 were given"):
        named_files(tmp_path / "job", [])


def test_what_is_kept_of_a_training_depends_on_the_content_of_its_files(world, tmp_path):
    of = stage("finetune", "age") | {"weights": Weights(path="w.pt", map="m.json").model_dump()}
    digests = set()
    for weights, text in ((b"1", "[]"), (b"2", "[]"), (b"2", "{}")):
        (tmp_path / "w").write_bytes(weights), (tmp_path / "m").write_text(text)
        digests.add(start_digest(of, None, {"w.pt": tmp_path / "w", "m.json": tmp_path / "m"}))
    assert len(digests) == 3 and start_digest(stage("finetune", "age"), None, {}) == ""
    assert start_digest(of, read_pretrained(world.encoder), {}) not in digests


def test_statistics_tell_of_groups_what_numpy_tells(world):
    about, store = read_json(world.encoder / "encoder.json"), Store(world.store)
    train = roles(world.lifespan, 5, 5).query("role == 'train'")
    found = about["statistics"]
    ages = train["age"].to_numpy()
    assert found["scans"] == found["persons"] == found["labels"]["age"]["n"] == 14
    expected = {"mean": ages.mean(), "sd": ages.std(), "low": np.percentile(ages, 5), "high": np.percentile(ages, 95)}
    assert found["labels"]["age"] == {"n": 14} | {name: pytest.approx(value) for name, value in expected.items()}
    assert found["labels"]["age"]["low"] > ages.min() and found["labels"]["age"]["high"] < ages.max()
    slices = store.gather(train["scan_id"].tolist())[:, :, :, 7].astype("float64")
    assert found["intensity"] == {"mean": pytest.approx(slices.mean(), abs=1e-6), "sd": pytest.approx(slices.std()), "scans": 14}


def test_a_card_says_what_a_model_is_and_where_it_comes_from(world, tmp_path):
    model = started(world, tmp_path, world.folder / "others.safetensors")
    card = (tmp_path / "models" / model["id"] / "model-card.md").read_text()
    for text in (
        f"# ResNet {model['id']}",
        "Licence: CC0-1.0.",
        "logits of the classes control, patient",
        "spacing 8.0",
        f"fingerprint {model['fingerprint']}",
        "5 control, 5 patient",
        "weights.pt, digest",
        "licence not known",
        "To be written by",
    ):
        assert text in card, text
    assert "age" in (world.encoder / "model-card.md").read_text() and np.isfinite(model["statistics"]["intensity"]["sd"])
    assert RESNET["class_path"] in card
