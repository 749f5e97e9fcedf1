"""What a step is given and when, for one and two sets of scans, and what a stage's trainer makes of it."""

import math
import multiprocessing
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json, check_table
from hypothesis import given
from hypothesis import strategies as st
from own_data import Counting, Noted, fine_tuned
from training_jobs import LABELS, make_people, make_store, objective, pack_job, roles, stage, trial_line

from tlimb.config import Trainer, Tuning
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.scenarios.apart import fit_apart
from tlimb.scenarios.device import deterministic, set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.processes import Turns
from tlimb.scenarios.progress import TrainingFailed
from tlimb.scenarios.results import Settings
from tlimb.scenarios.scenario import fit, steps_an_epoch
from tlimb.scenarios.watch import Watch
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")
TRUSTED = ("own_data",)
PLAIN = {"class_path": "own_data.Smooth", "init_args": {}}
DEEP = {"class_path": "own_data.Deep", "init_args": {}}
NORMED = {"class_path": "own_data.Deep", "init_args": {"normed": True}}
WHOLE = {"class_path": "BaseDataModule", "init_args": {}}
SGD = {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
NOISE = [{"class_path": "RandomNoise", "init_args": {}}]
COSINE = {"class_path": "CosineAnnealingLR", "init_args": {}}
BALANCED = {"class_path": "BalancedSampler", "init_args": {"label": "diagnosis"}}
EMA = Tuning(average={"kind": "ema", "decay": 0.5}).model_dump()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of small volumes; a split of 18 people with diagnoses (10 train), and 7 more without; 9 for `beside`."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("world")
    clinic, others, spare = make_people("clinic", 18), make_people("others", 7, seed=1), make_people("spare", 9, seed=2)
    make_store(folder, pd.concat([clinic, others, spare]), shape=(6, 6, 6))
    more = roles(others, 0, 0).assign(role="unlabelled", age=np.nan, diagnosis=None)
    return folder, roles(clinic, 4, 4), pd.concat([roles(clinic, 4, 4), more], ignore_index=True)


def term(name: str, weight=1.0, **arguments) -> dict:
    """An objective with one of the tests' own terms beside the usual primary one."""
    return {"auxiliary": [{"class_path": f"own_data.{name}", "init_args": arguments, "weight": weight}]}


def trainer(**settings) -> dict:
    return Trainer(**settings).model_dump()


def prepared(world, two=False, targets=("diagnosis",), network=PLAIN, **changes):
    """A training of a small network without batch norm, in batches of 4; two: with the second set of scans."""
    folder, one, both = world
    changes = {"strategy": "scratch", "optimizer": SGD, "batch_size": 4, "module": WHOLE, "epochs": 3} | changes
    rows = both if two else one
    spec = stage("finetune", "diagnosis", **changes) | {"targets": list(targets)}
    run = StageRun(network, spec, 0, rows, {name: LABELS[name] for name in targets})
    return prepare(run, Source(Store(folder), rows["scan_id"].tolist(), CPU, TRUSTED))


def trained(training, kept=None) -> tuple[list[dict], dict]:
    """The history without seconds, and all weights as bytes."""
    progress = fit(training, kept or Kept(None, "trial", {}), CPU)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.history]
    weights = {name: tensor.numpy().tobytes() for name, tensor in training.network.weights().items()}
    return rows, weights


def noted(training) -> list[tuple]:
    """What the term Noted was shown: progress, epoch, labelled and unlabelled scans, labels, dtype, autocast."""
    Noted.notes.clear()
    fit(training, Kept(None, "trial", {}), CPU)
    return list(Noted.notes)


def test_a_step_of_two_sets_is_given_both_and_labels_of_the_first(world):
    notes = noted(prepared(world, two=True, objective=term("Noted"), epochs=2))
    assert [note[2:5] for note in notes] == [(4, 4, 4), (4, 4, 4), (2, 4, 2)] * 2
    several = {"class_path": "Simultaneous", "init_args": {"unlabelled_batch": 2, "epoch": "unlabelled"}}
    notes = noted(prepared(world, two=True, objective=term("Noted"), scenario=several, epochs=1))
    assert [note[2:5] for note in notes] == [(4, 2, 4), (4, 2, 4), (4, 3, 4)]


def test_a_scenario_that_shows_one_set_leaves_the_second_one_out(world):
    plain = {"class_path": "Sequential", "init_args": {}}
    one, two = (prepared(world, two=two, scenario=plain, objective=term("Noted"), epochs=1) for two in (False, True))
    assert [note[2:5] for note in noted(two)] == [note[2:5] for note in noted(one)] == [(4, 0, 4), (4, 0, 4), (2, 0, 2)]
    mixed = [{"class_path": "MixUp", "init_args": {}}]
    one, two = (prepared(world, two=two, scenario=plain, augment=mixed, epochs=1) for two in (False, True))
    assert trained(two) == trained(one)


def test_progress_runs_from_0_to_1_over_the_planned_steps_of_the_optimiser(world):
    for accumulate, steps in ((1, 9), (2, 6)):
        training = prepared(world, objective=term("Noted"), trainer=trainer(accumulate=accumulate))
        assert steps_an_epoch(training) == steps / 3
        progress = [note[0] for note in noted(training)]
        assert len(progress) == 9 and progress[0] == 0 and progress[-1] == 1
        assert sorted(set(progress)) == pytest.approx(np.linspace(0, 1, steps))
    stopping = {"patience": 1, "min_delta": 10.0}
    progress = [note[0] for note in noted(prepared(world, objective=term("Noted"), early_stopping=stopping))]
    assert len(progress) == 6 and progress[0] == 0 and progress[-1] == 5 / 8


def test_gradients_that_are_added_up_are_those_of_one_large_batch(world):
    small = trained(prepared(world, batch_size=2, trainer=trainer(accumulate=2), gradient_clip=0.1))
    large = trained(prepared(world, batch_size=4, gradient_clip=0.1))
    for name, weights in large[1].items():
        np.testing.assert_allclose(np.frombuffer(small[1][name], "f4"), np.frombuffer(weights, "f4"), atol=1e-6)
    assert [row["train_loss"] for row in small[0]] == pytest.approx([row["train_loss"] for row in large[0]], rel=1e-4)


def test_a_mean_of_weights_follows_steps_and_not_batches(world):

    small = trained(prepared(world, batch_size=2, trainer=trainer(accumulate=2), tuning=EMA))
    large = trained(prepared(world, batch_size=4, tuning=EMA))
    losses = [[row["validation_loss"] for row in rows] for rows, _ in (small, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Preempted(BaseException):
    """Ends a training as a scheduler would."""


class Preempting(Kept):
    """Writes a state between any two epochs and ends the training after the second one."""

    def __init__(self, folder):
        super().__init__(folder, "trial", {}, seconds=0)

    def save(self, state: dict) -> None:
        super().save(state)
        if len(state["progress"]["history"]) == 2:
            raise Preempted


TWO_SETS = {"two": True, "scenario": {"class_path": "Simultaneous", "init_args": {"epoch": "longest"}}}
RESUMED = {
    "teacher": {"two": True, "objective": term("Teacher"), "augment": NOISE},
    "critic": TWO_SETS | {"objective": term("Critic"), "optimizer": {"class_path": "Adam", "init_args": {"lr": 0.01}}},
    "two sets": TWO_SETS | {"sampler": BALANCED, "scheduler": COSINE, "objective": term("Teacher", 0.5)},
    "callback": {"callbacks": [{"class_path": "own_data.Counting", "init_args": {}}]},
    "all settings": {
        "trainer": trainer(precision="bf16", accumulate=2, keep="last"),
        "tuning": EMA,
    },
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_a_preempted_training_goes_on_to_the_same_numbers(world, tmp_path, changes):
    whole = trained(prepared(world, **{"epochs": 4} | changes))
    with pytest.raises(Preempted):
        trained(prepared(world, **{"epochs": 4} | changes), Preempting(tmp_path))
    resumed = Kept(tmp_path, "trial", {})
    assert len(resumed.load()["progress"]["history"]) == 2
    assert trained(prepared(world, **{"epochs": 4} | changes), resumed) == whole


def test_what_terms_learn_is_kept_as_of_the_best_epoch(world):
    for keep in ("best", "last"):
        common = {"two": True, "objective": term("Critic"), "epochs": 4}
        training = prepared(world, **common, trainer=trainer(keep=keep))
        shorter = prepared(world, **common, trainer=trainer(keep="last"))
        progress = fit(training, Kept(None, "trial", {}), CPU)
        epochs = progress.best_epoch if keep == "best" else 4
        fit(replace(shorter, stage=shorter.stage | {"epochs": epochs}), Kept(None, "trial", {}), CPU)
        for part in ("objective", "network"):
            found, wanted = (getattr(of, part).state_dict() for of in (training, shorter))
            assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_teacher_stays_in_evaluation_mode_and_out_of_the_optimiser(world):
    training = prepared(world, two=True, objective=term("Teacher"), epochs=2)
    (teacher,) = training.objective.auxiliary
    fit(training, Kept(None, "trial", {}), CPU)
    assert not any(module.training for module in teacher.teacher.modules())
    assert [of for of in training.objective.parameters() if of.requires_grad] == []


def test_sixteen_bits_are_for_what_passes_the_network_alone(world):
    training = prepared(world, two=True, objective=term("Noted"), trainer=trainer(precision="bf16"))
    dtypes = []
    training.network.heads[0].register_forward_hook(lambda head, given, made: dtypes.append(made.dtype))
    notes = noted(training)
    assert {note[5:] for note in notes} == {(torch.float32, False)} and set(dtypes) == {torch.bfloat16}
    assert {tensor.dtype for tensor in training.network.weights().values()} == {torch.float32}
    low, plain = trained(prepared(world, trainer=trainer(precision="bf16"))), trained(prepared(world))
    assert low[0][0]["train_loss"] == pytest.approx(plain[0][0]["train_loss"], rel=0.02)
    assert low[1] != plain[1]
    with pytest.raises(InputError, match="stages.finetune.trainer.precision: '16' needs a GPU"):
        trained(prepared(world, trainer=trainer(precision="16")))


def test_a_deadline_ends_training_after_the_epoch_in_which_it_passes(world):
    training = prepared(world, epochs=5, trainer=trainer(max_hours=1e-9))
    progress = fit(training, Kept(None, "trial", {}), CPU)
    assert (progress.epochs_run, progress.stopped) == (1, "max_hours")
    progress = fit(prepared(world, epochs=2, trainer=trainer(max_hours=1.0)), Kept(None, "trial", {}), CPU)
    assert (progress.epochs_run, progress.stopped) == (2, "")


def test_time_counts_from_the_first_task_of_an_interrupted_training(world, tmp_path):
    with pytest.raises(Preempted):
        trained(prepared(world, epochs=9), Preempting(tmp_path))
    kept = Kept(tmp_path, "trial", {})
    state = kept.load()
    for row in state["progress"]["history"]:
        row["seconds"] = 1800.0
    kept.save(state)
    progress = fit(prepared(world, epochs=9, trainer=trainer(max_hours=1.0)), kept, CPU)
    assert (progress.epochs_run, progress.stopped) == (2, "max_hours")


def test_a_callback_sees_epochs_and_measures_and_may_stop(world):
    spec = [{"class_path": "own_data.Counting", "init_args": {"stop": 2}}]
    progress = fit(prepared(world, epochs=4, callbacks=spec), Kept(None, "trial", {}), CPU)
    assert (progress.epochs_run, progress.stopped) == (2, "callback")
    no_callback = [{"class_path": "own_data.Noted", "init_args": {}}]
    with pytest.raises(InputError, match=r"callbacks\[0\]: own_data.Noted is no lightning.pytorch.Callback"):
        trained(prepared(world, callbacks=no_callback))


def test_epochs_of_a_callback_are_counted_from_the_first_task_on(world, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Counting, "__init__", lambda self: vars(self).update(count=0, stop=100, seen=seen))
    spec = [{"class_path": "own_data.Counting", "init_args": {}}]
    with pytest.raises(Preempted):
        trained(prepared(world, callbacks=spec), Preempting(tmp_path))
    trained(prepared(world, callbacks=spec), Kept(tmp_path, "trial", {}))
    assert seen == [(0, 1), (1, 2), (2, 3)]


def test_a_scenario_of_a_lab_says_what_a_step_is_given_and_minimises(world):
    halves = {"class_path": "own_data.Halves", "init_args": {"share": 0.5}}
    fast, slow = (SGD | {"init_args": {"lr": lr}} for lr in (0.02, 0.01))
    training = prepared(world, scenario=halves, optimizer=fast, epochs=2)
    assert steps_an_epoch(training) == 5
    found, plain = trained(training), trained(prepared(world, batch_size=2, optimizer=slow, epochs=2))
    for name, weights in plain[1].items():
        np.testing.assert_allclose(np.frombuffer(found[1][name], "f4"), np.frombuffer(weights, "f4"), atol=1e-6)


def test_what_cannot_be_together_is_refused_before_training(world):
    mixed = {"augment": [{"class_path": "MixUp", "init_args": {}}]}
    with pytest.raises(InputError, match="stages.finetune.data.augment: MixUp mixes the labels of scans"):
        trained(prepared(world, two=True, **mixed))
    one = {"class_path": "Simultaneous", "init_args": {"unlabelled_batch": 0}}
    with pytest.raises(InputError, match="(?s)there is one set of scans.*unlabelled_batch: expected at least 1"):
        prepared(world, scenario=one)


def test_validation_is_the_same_whenever_it_is_measured(world):
    still = prepared(world, optimizer=SGD | {"init_args": {"lr": 0.0}}, augment=NOISE, epochs=3)
    rows = trained(still)[0]
    assert len({row["validation_loss"] for row in rows}) == 1 and len({row["train_loss"] for row in rows}) == 3


def test_any_metric_of_any_target_may_decide(world):
    several = {"targets": ("age", "diagnosis"), "epochs": 6, "optimizer": SGD | {"init_args": {"lr": 0.1}}}
    combine = {"combine": {"class_path": "WeightedSum", "init_args": {"weights": {"age": 3.0}}}}
    stopping = {"patience": 2, "min_delta": 0.0}
    for monitor, best in (("validation_age_r2", max), ("validation_diagnosis_log_loss", min), ("validation_loss", min)):
        training = prepared(world, monitor=monitor, early_stopping=stopping, objective=combine, **several)
        progress = fit(training, Kept(None, "trial", {}), CPU)
        values = [row[monitor] for row in progress.history]
        assert progress.best_epoch == values.index(best(values)) + 1
        assert progress.epochs_run == min(progress.best_epoch + 2, 6)
        for row in progress.history:
            assert row["train_loss"] == pytest.approx(3 * row["train_age_loss"] + row["train_diagnosis_loss"])


def test_a_loss_that_is_not_finite_is_found_in_its_step_with_the_last_values_that_were(world):
    with pytest.raises(TrainingFailed) as raised:
        trained(prepared(world, objective=term("Turning", 2.0, calls=7), epochs=4))
    failure = raised.value.failure
    assert (failure["epoch"], failure["step"], failure["values"]["turning"]) == (3, 2, "nan")
    last = failure["last_finite"]
    assert (last["epoch"], last["step"], last["values"]["turning"]) == (3, 1, 0.5)
    assert math.isfinite(failure["values"]["primary"]) and len(raised.value.history) == 2
    told = "diverged: turning is nan in step 2 of epoch 3; last finite in step 1 of epoch 3: primary"
    assert str(raised.value).startswith(told)


def test_a_diverged_trial_leaves_its_history_and_the_pack_goes_on(world, tmp_path):
    folder, table, _ = world
    common = {"strategy": "scratch", "module": WHOLE, "batch_size": 4, "epochs": 3}
    trials = [
        trial_line(stage("finetune", "diagnosis", **common, **more), architecture=PLAIN)
        for more in ({"objective": term("Turning", calls=7)}, {"objective": objective({})})
    ]
    pack_job(tmp_path / "job", table, trials)
    finetune(tmp_path / "job", folder, None, tmp_path / "models", Settings(CPU, trusted=TRUSTED))
    failed, fine = (read_json(tmp_path / "models" / trial["id"] / "model.json") for trial in trials)
    for about in (failed, fine):
        check_json("model", about)
    history = pd.read_csv(tmp_path / "models" / trials[0]["id"] / "history.csv")
    check_table("history", history)
    assert failed["status"] == "failed" and failed["failure"]["step"] == 2 and len(history) == 2
    assert (fine["status"], fine["stopped"], fine["stopped_early"]) == ("ok", "epochs", False), fine["reason"]


def test_a_watch_names_the_last_step_that_was_finite():
    watch = Watch()
    watch.see(1, 1, {"primary": torch.tensor(0.5), "penalty": torch.tensor(2.0)})
    with pytest.raises(TrainingFailed) as raised:
        watch.see(1, 2, {"primary": torch.tensor(float("inf")), "penalty": torch.tensor(2.0)})
    last = {"epoch": 1, "step": 1, "values": {"primary": 0.5, "penalty": 2.0}}
    wanted = {"epoch": 1, "step": 2, "values": {"primary": "inf", "penalty": 2.0}, "last_finite": last}
    assert raised.value.failure == wanted


def test_deterministic_holds_for_a_stage_alone(world):
    before = torch.are_deterministic_algorithms_enabled()
    for wanted in (True, False):
        with deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() == torch.backends.cudnn.deterministic == wanted
    assert torch.are_deterministic_algorithms_enabled() == before


def ending(number: int, rank: int = 0) -> list[dict]:
    """Callbacks that send a process a signal."""
    return [{"class_path": "own_data.Ending", "init_args": {"number": int(number), "rank": rank}}]


def beside(world, kept=None, **changes) -> tuple[list[dict], dict]:
    """The history and the weights of a training in two processes."""
    training = prepared(world, **changes | {"trainer": trainer(devices=2, **changes.get("trainer", {}))})
    progress = fit_apart(training, kept or Kept(None, "trial", {}), CPU)
    return progress.history, training.network.weights()


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_train_on_the_gradients_of_one(world, strategy):
    folder, one, both = world
    world = folder, one, pd.concat([both, roles(make_people("spare", 9, seed=2), 9, 0)], ignore_index=True)
    assert (world[2]["role"] == "validation").sum() == 13  # three batches for two processes
    settings = {"two": True, "batch_size": 6, "objective": term("Critic"), "gradient_clip": 0.5, "scheduler": COSINE}
    settings["network"] = DEEP
    together = beside(world, **settings, trainer={"strategy": strategy})
    training = prepared(world, **settings, trainer=trainer())
    alone = fit(training, Kept(None, "trial", {}), CPU).history
    assert [row["epoch"] for row in together[0]] == [1, 2, 3]
    for one, other in zip(alone, together[0]):
        assert list(one) == list(other)
        assert all(one[name] == pytest.approx(other[name], rel=1e-4) for name in one if name != "seconds")
    for name, tensor in training.network.weights().items():
        torch.testing.assert_close(together[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_a_process_that_fails_ends_the_training_with_its_reason(world):
    with pytest.raises(TrainingFailed) as raised:
        beside(world, objective=term("Turning", calls=3))
    assert (raised.value.failure["epoch"], raised.value.failure["step"], len(raised.value.history)) == (2, 2, 1)
    for changes, message in (
        ({"batch_size": 3}, "2 processes need batches and a training part of at least 4 scans, found 3 and 10"),
        ({"trainer": {"strategy": "fsdp"}, "tuning": EMA}, "trainer.strategy: 'fsdp'"),
    ):
        with pytest.raises(InputError, match=message):
            beside(world, **changes)
    folder, one, both = world
    few = pd.concat([one, both[both["role"] == "unlabelled"].head(1)], ignore_index=True)
    with pytest.raises(InputError, match="trainer.devices: 2 processes need as many unlabelled scans, found 1"):
        beside((folder, one, few), two=True)


@given(n=st.integers(2, 40), most=st.integers(1, 9), size=st.integers(1, 8))
def test_processes_validate_on_equally_many_batches_and_every_scan_once(n, most, size):
    size = min(n, size)
    turns = [list(Turns(n, most, rank, size)) for rank in range(size)]
    assert len({len(turn) for turn in turns}) == 1
    assert sorted(sum(sum(turns, []), [])) == list(range(n))
    largest = max(len(batch) for turn in turns for batch in turn)
    assert largest <= most or sum(map(len, turns)) == n // size * size


@pytest.mark.long
def test_two_processes_go_on_to_the_same_numbers_with_statistics_in_a_mean_of_weights(world, tmp_path):
    kept = Kept(tmp_path, "trial", {}, seconds=0)
    settings = {"network": NORMED, "tuning": EMA, "epochs": 2, "trainer": {"keep": "last"}}
    (whole, weights), (resumed, again) = (beside(world, **settings, kept=kept) for _ in range(2))
    assert kept.load()["progress"]["history"][0] == whole[0] == resumed[0]
    assert {**whole[1], "seconds": 0} == {**resumed[1], "seconds": 0}
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_a_task_that_is_ended_says_so_and_records_no_trial(world, tmp_path):
    folder, table, _ = world
    common = {"strategy": "scratch", "module": WHOLE, "batch_size": 4}
    trials = [
        trial_line(stage("finetune", "diagnosis", **common, callbacks=ended), architecture=PLAIN)
        for ended in (ending(signal.SIGTERM), [])
    ]
    pack_job(tmp_path / "job", table, trials)
    given = str(tmp_path / "job"), str(folder), str(tmp_path / "models")
    process = multiprocessing.get_context("forkserver").Process(target=fine_tuned, args=given)
    process.start()
    process.join()
    assert process.exitcode == 143 and not list((tmp_path / "models").rglob("model.json"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_task_ends_as_one_of_its_processes_was_ended(world, number):
    with pytest.raises(SystemExit) as ended:
        beside(world, callbacks=ending(number, rank=1))
    assert ended.value.code == 128 + number
