"""Trainings that pause after a budget and go on: the same numbers as in one go, and refusal of what is not theirs."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json
from training_jobs import LABELS, make_store, make_world, pack_job, stage, trial_line

from tlimb.architectures.weights import read_weights
from tlimb.config import Trainer, Tuning
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.scenarios.budget import STATE
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings
from tlimb.state import Kept, peek, read_state, write_state

CPU = torch.device("cpu")
OWN = ("own_data",)
EMA = {"kind": "ema", "decay": 0.5}
SWA = {"kind": "swa", "start": 2}
COSINE = {"class_path": "CosineAnnealingLR", "init_args": {}}
CYCLE = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.01}}
PLATEAU = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau", "init_args": {"patience": 0}}
SGD = {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
RAMP = {"ramp": "linear", "start": 0.0, "end": 1.0, "until": 0.8}
TERM = {"class_path": "L2SP", "init_args": {"alpha": 0.1, "beta": 0.1}, "weight": RAMP}
L2SP = {"primary": None, "auxiliary": [TERM]}
MIXED = [{"class_path": name, "init_args": {}} for name in ("RandomNoise", "MixUp")]
LOST = "the state after its first 2 epochs is missing"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of two cohorts and one encoder pretrained on age in the first."""
    return make_world(tmp_path_factory.mktemp("world"), epochs=1)


def trial(world, strategy="full", **changes) -> dict:
    """A trial of five epochs."""
    init = "" if strategy == "scratch" else world.line["id"]
    return trial_line(stage("finetune", "diagnosis", strategy=strategy, **{"epochs": 5} | changes), init=init)


def train(world, folder, trials, before=None, **settings) -> list[dict]:
    """Fine-tune a pack in `folder`, from the states in `before`; each trial's model.json."""
    pack_job(folder / "job", world.table, trials)
    settings = Settings(CPU, trusted=OWN, **settings)
    finetune(folder / "job", world.store, world.encoder.parent, folder / "models", settings, states=before)
    return [read_json(folder / "models" / one["id"] / "model.json") for one in trials]


def rung(one: dict, budget: int, continues: int | None = None) -> dict:
    """A trial's line in one rung."""
    return one | {"budget": budget, "continues": continues}


def climb(world, folder, one, *budgets) -> dict:
    """A trial trained to one budget after the other; the last model.json."""
    before = None
    for place, budget in enumerate(budgets):
        here = folder / f"rung-{place}"
        (about,) = train(world, here, [rung(one, budget, budgets[place - 1] if place else None)], before)
        before = here / "models"
    shutil.copytree(before, folder / "models")
    return about


def numbers(folder, one) -> dict:
    """What two equal trainings have in common bit for bit."""
    folder = folder / "models" / one["id"]
    about = {name: read_json(folder / "model.json")[name] for name in ("best_epoch", "epochs_run", "stopped")}
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    weights = {name: tensor.numpy().tobytes() for name, tensor in read_weights(folder / "model.safetensors").items()}
    return about | {"history": history.to_csv(), **weights}


CASES = {
    "averaged, penalised by a ramp": {
        "scheduler": COSINE, "tuning": Tuning(average=EMA).model_dump(), "objective": L2SP,
        "early_stopping": {"patience": 4, "min_delta": 0.0},
    },
    "unfrozen on the way": {
        "tuning": Tuning(unfreeze=1, average=SWA).model_dump(), "scheduler": CYCLE, "optimizer": SGD,
    },
    "frozen, its features computed anew": {"strategy": "frozen", "scheduler": PLATEAU},
    "random, its last weights kept": {
        "strategy": "scratch", "augment": MIXED, "gradient_clip": 0.1, "trainer": Trainer(keep="last").model_dump(),
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_training_of_two_rungs_is_that_of_one_go(world, tmp_path, changes):
    one = trial(world, **changes)
    train(world, tmp_path / "whole", [one])
    about = climb(world, tmp_path / "rungs", one, 2, 5)
    check_json("model", about)
    assert about["status"] == "ok" and about["budget"] == 5, about["reason"]
    assert numbers(tmp_path / "rungs", one) == numbers(tmp_path / "whole", one)
    assert not list((tmp_path / "rungs" / "rung-1").rglob(STATE))
    first = read_json(tmp_path / "rungs" / "rung-0" / "models" / one["id"] / "model.json")
    assert first["epochs_run"] == first["budget"] == 2 and first["stopped"] == "epochs"


def test_a_rung_gives_the_first_epochs_of_the_whole_schedule(world, tmp_path):
    one = trial(world, scheduler=COSINE)
    train(world, tmp_path, [rung(one, 3)])
    rates = pd.read_csv(tmp_path / "models" / one["id"] / "history.csv")["lr"]
    np.testing.assert_allclose(rates, 0.0005 * (1 + np.cos(np.pi * np.arange(3) / 5)))


@pytest.mark.parametrize("stopping", ["patience", "callback"])
def test_a_training_that_stopped_early_in_a_rung_stays_as_it_is_in_all_later_ones(world, tmp_path, stopping):
    early = {"early_stopping": {"patience": 1, "min_delta": 10.0}}
    counting = {"callbacks": [{"class_path": "own_data.Counting", "init_args": {"stop": 2}}]}
    one = trial(world, **(early if stopping == "patience" else counting))
    (whole,) = train(world, tmp_path / "whole", [one])
    about = climb(world, tmp_path / "rungs", one, 2, 3, 5)
    assert whole["epochs_run"] == 2 and whole["stopped"] in ("early_stopping", "callback")
    assert numbers(tmp_path / "rungs", one) == numbers(tmp_path / "whole", one)
    assert about["budget"] == 5


def test_some_of_a_pack_go_on_while_others_begin(world, tmp_path):
    old, new = trial(world), trial(world, strategy="scratch")
    train(world, tmp_path / "first", [rung(old, 2)])
    train(world, tmp_path, [rung(old, 4, 2), rung(new, 4)], tmp_path / "first" / "models")
    train(world, tmp_path / "whole", [rung(old, 4), rung(new, 4)])
    for one in (old, new):
        assert numbers(tmp_path, one) == numbers(tmp_path / "whole", one)
        about = peek(tmp_path / "models" / one["id"] / STATE, "about")
        assert (about["trial"], about["epochs"]) == (one["id"], 4)


def test_seconds_are_those_of_all_rungs(world, tmp_path):
    one = trial(world, strategy="scratch")
    train(world, tmp_path / "first", [rung(one, 2)])
    state = read_state(tmp_path / "first" / "models" / one["id"] / STATE)
    for row in state["state"]["progress"]["history"]:
        row["seconds"] = 1000.0
    write_state(tmp_path / "first" / "models" / one["id"] / STATE, state)
    (about,) = train(world, tmp_path, [rung(one, 5, 2)], tmp_path / "first" / "models")
    assert 2000 < about["seconds"] < 2900


def test_a_trial_whose_rung_before_failed_fails_with_that_reason_and_the_pack_goes_on(world, tmp_path):
    wild = trial(world, optimizer={"class_path": "SGD", "init_args": {"lr": 1e30}})
    lost, fine = trial(world), trial(world, strategy="scratch")
    (failed,) = train(world, tmp_path / "first", [rung(wild, 2)])
    assert failed["status"] == "failed" and not list((tmp_path / "first").rglob(STATE))
    pack = [rung(wild, 5, 2), rung(lost, 5, 2), rung(fine, 5)]
    again, missing, other = train(world, tmp_path, pack, tmp_path / "first" / "models")
    check_json("model", again)
    assert again["reason"] == f"its first 2 epochs failed: {failed['reason']}"
    assert missing["status"] == "failed" and missing["reason"] == LOST
    assert other["status"] == "ok", other["reason"]
    (nowhere,) = train(world, tmp_path / "nowhere", [rung(lost, 5, 2)])
    assert nowhere["reason"] == LOST


def test_states_of_another_trial_rung_or_label_and_damaged_ones_are_refused_all_at_once(world, tmp_path, monkeypatch):
    trials = [trial(world, strategy="scratch", epochs=epochs) for epochs in (5, 6, 7)]
    first = tmp_path / "first" / "models"
    train(world, tmp_path / "first", [rung(one, 2) for one in trials])
    shutil.copyfile(first / trials[1]["id"] / STATE, first / trials[0]["id"] / STATE)
    (first / trials[2]["id"] / STATE).write_bytes(b"12345678")
    pack = [rung(trials[0], 5, 2), rung(trials[1], 5, 3), rung(trials[2], 5, 2)]
    with pytest.raises(InputError) as raised:
        train(world, tmp_path / "second", pack, first)
    told = str(raised.value)
    assert f"holds trial {trials[1]['id']} after 2 epochs, expected trial {trials[0]['id']} after 2" in told
    assert f"holds trial {trials[1]['id']} after 2 epochs, expected trial {trials[1]['id']} after 3" in told
    assert "cannot be read" in told and len(raised.value.problems) == 3
    assert not (tmp_path / "second" / "models").exists()
    monkeypatch.setitem(LABELS, "diagnosis", LABELS["diagnosis"] | {"classes": ["patient", "control"]})
    with pytest.raises(InputError, match="after 2 epochs of other scans, labels or weights"):
        train(world, tmp_path / "third", [rung(trials[1], 5, 2)], first)


def test_a_result_kept_at_the_budget_is_taken_with_its_state_and_no_state_is_needed(world, tmp_path):
    one, states = trial(world, strategy="scratch"), str(tmp_path / "states")
    train(world, tmp_path / "first", [rung(one, 2)], state_dir=states)
    before = tmp_path / "first" / "models"
    (second,) = train(world, tmp_path / "second", [rung(one, 4, 2)], before, state_dir=states)
    (again,) = train(world, tmp_path / "again", [rung(one, 4, 2)], None, state_dir=states)
    assert (second["reused"], again["reused"]) == (False, True) and again["budget"] == 4
    assert numbers(tmp_path / "again", one) == numbers(tmp_path / "second", one)
    for way in ("second", "again"):
        (about,) = train(world, tmp_path / f"last-{way}", [rung(one, 5, 4)], tmp_path / way / "models")
        assert about["status"] == "ok", about["reason"]
    assert numbers(tmp_path / "last-second", one) == numbers(tmp_path / "last-again", one)


@pytest.mark.parametrize("interrupted", [1, 3])
def test_of_ones_own_state_and_that_of_the_rung_before_the_longer_one_is_gone_on_from(
    world, tmp_path, monkeypatch, interrupted
):
    one, states = trial(world, strategy="scratch"), str(tmp_path / "states")
    train(world, tmp_path / "first", [rung(one, 2)])
    save = Kept.save

    def preempted(kept, state):
        save(kept, state)
        if len(state["progress"]["history"]) == interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Kept, "save", preempted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(world, tmp_path / "killed", [rung(one, 5)], state_dir=states, state_seconds=0.0)
    begun = []
    monkeypatch.setattr(Kept, "save", lambda kept, state: begun.append(len(state["progress"]["history"])))
    before = tmp_path / "first" / "models"
    train(world, tmp_path / "resumed", [rung(one, 5, 2)], before, state_dir=states, state_seconds=0.0)
    assert begun[0] == max(interrupted, 2) + 1
    train(world, tmp_path / "whole", [one])
    assert numbers(tmp_path / "resumed", one) == numbers(tmp_path / "whole", one)


def test_what_is_not_trained_by_epochs_ignores_budgets_and_leaves_no_state(world, tmp_path):
    whole = {"class_path": "BaseDataModule", "init_args": {}}
    make_store(tmp_path / "store", world.table, shape=(24, 24, 24))
    direct = trial_line(stage("finetune", "age", strategy="direct", epochs=5), init=world.line["id"])
    linear = trial_line(
        stage("finetune", "diagnosis", strategy="scratch", epochs=5, module=whole),
        architecture={"class_path": "LinearBaseline", "init_args": {}},
    )
    for one, store in ((direct, world.store), (linear, tmp_path / "store")):
        about = climb(SimpleNamespace(**vars(world) | {"store": store}), tmp_path / one["id"], one, 2, 5)
        assert about["status"] == "ok" and not list(tmp_path.rglob(STATE)), about["reason"]
        (tmp_path / one["id"] / "rung-0").rename(tmp_path / one["id"] / "first")
        assert numbers(tmp_path / one["id"], one) == numbers(tmp_path / one["id"] / "first", one)
