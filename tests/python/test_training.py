"""Real trainings of small networks: strategies, determinism, states, leaks, failures, and the folders they leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json, check_table
from training_jobs import (
    LABELS,
    RESNET,
    make_store,
    make_world,
    objective,
    pack_job,
    pretrain_job,
    roles,
    stage,
    trial_line,
)

from tlimb.architectures.weights import read_weights
from tlimb.config import Tuning
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.evaluate_settings import Evaluate
from tlimb.evaluation.predict import evaluate
from tlimb.files import read_json
from tlimb.scenarios.device import find_device
from tlimb.scenarios.finetune import finetune
from tlimb.persons import person_digest
from tlimb.scenarios.job import Pretrained, read_pretrained
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.progress import Progress, monitor_of
from tlimb.scenarios.results import Settings
from tlimb.scenarios.scenario import fit
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")
COMMAND = Path(__file__).parents[2] / "bin" / "tlimb_finetune.py"
L2SP = {"primary": None, "auxiliary": [{"class_path": "L2SP", "init_args": {"alpha": 0.1, "beta": 0.1}}]}
SCRATCH = stage("finetune", "diagnosis", strategy="scratch")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of two cohorts and one encoder pretrained on age in the first."""
    return make_world(tmp_path_factory.mktemp("world"), epochs=3)


def train(world, folder, trials, table=None, **settings) -> list[dict]:
    """Fine-tune a pack in `folder` and return each trial's model.json."""
    pack_job(folder / "job", world.table if table is None else table, trials)
    finetune(folder / "job", world.store, world.encoder.parent, folder / "models", Settings(CPU, **settings))
    return [read_json(folder / "models" / trial["id"] / "model.json") for trial in trials]


def numbers(folder, trial) -> dict:
    """What two equal trainings have in common bit for bit."""
    history = pd.read_csv(folder / "models" / trial["id"] / "history.csv").drop(columns="seconds")
    weights = read_weights(folder / "models" / trial["id"] / "model.safetensors")
    return {"history": history.to_csv(), **{name: tensor.numpy().tobytes() for name, tensor in weights.items()}}


def tuned(world, strategy="full", **changes) -> dict:
    return trial_line(stage("finetune", "diagnosis", strategy=strategy, **changes), init=world.line["id"])


def test_a_pretraining_leaves_the_folder_of_the_contract(world):
    weights = {"encoder.safetensors", "heads.safetensors"}
    names = {"encoder.json", "history.csv", "model-card.md", "scores.json"} | weights
    assert {path.name for path in world.encoder.iterdir()} == names
    about, history = read_json(world.encoder / "encoder.json"), pd.read_csv(world.encoder / "history.csv")
    check_json("encoder", about)
    check_json("scores", read_json(world.encoder / "scores.json"))
    check_table("history", history)
    assert list(history.columns[5:]) == ["validation_mae"] and history["epoch"].tolist() == [1, 2, 3]
    assert about["n"] == {"train": 14, "validation": 5, "test": 5}
    assert about["persons"] == sorted(map(person_digest, world.lifespan["person"]))
    assert about["best_epoch"] == history["validation_loss"].idxmin() + 1
    assert all(name.startswith("age.") for name in read_weights(world.encoder / "heads.safetensors"))


def test_the_labels_scale_comes_from_the_training_part(world):
    ages = world.lifespan["age"][:14]
    target = read_json(world.encoder / "encoder.json")["targets"]["age"]
    assert target["mean"] == pytest.approx(ages.mean()) and target["sd"] == pytest.approx(ages.std(ddof=0))


def test_training_learns_a_signal_that_is_there(world, tmp_path):
    trial = trial_line(SCRATCH | {"epochs": 12})
    train(world, tmp_path, [trial])
    losses = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")["train_loss"]
    assert losses.iloc[-1] < 0.2 < 0.5 < losses.iloc[0]


def test_a_pack_leaves_a_model_of_the_contract_for_each_strategy(world, tmp_path):
    trials = [trial_line(SCRATCH), tuned(world, "frozen"), tuned(world), tuned(world, objective=L2SP)]
    for trial, about in zip(trials, train(world, tmp_path, trials)):
        check_json("model", about)
        assert about["status"] == "ok", about["reason"]
        assert not about["reused"] and about["spec"] == trial["spec"]
    history = pd.read_csv(tmp_path / "models" / trials[-1]["id"] / "history.csv")
    check_table("history", history)
    assert list(history.columns[5:]) == ["train_l2sp", "validation_balanced_accuracy"]


def test_direct_transfer_leaves_a_model_that_trained_for_no_epoch_and_scores_as_it_was_measured(world, tmp_path):
    trial = trial_line(stage("finetune", "age", strategy="direct"), init=world.line["id"])
    (about,) = train(world, tmp_path, [trial])
    check_json("model", about)
    assert (about["status"], about["best_epoch"], about["epochs_run"]) == ("ok", 0, 0), about["reason"]
    assert about["parameters"]["trainable"] == 0
    assert about["targets"] == read_json(world.encoder / "encoder.json")["targets"]
    model = read_weights(tmp_path / "models" / trial["id"] / "model.safetensors")
    for name, tensor in read_weights(world.encoder / "encoder.safetensors").items():
        assert torch.equal(model[f"encoder.{name}"], tensor), name
    evaluate(tmp_path / "job", world.store, tmp_path / "models", tmp_path / "scores", Evaluate(bootstrap=100), CPU)
    history = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")
    scores = read_json(tmp_path / "scores" / trial["id"] / "scores-validation.json")
    assert history["epoch"].tolist() == [0]
    found = scores["targets"]["age"]["metrics"]["mae"]["value"]
    assert found == pytest.approx(history["validation_mae"][0], rel=1e-5)


def test_a_model_tuned_by_an_adapter_is_evaluated_as_it_was_validated(world, tmp_path):
    lora = {"class_path": "LoRA", "init_args": {"rank": 2}}
    tuning = Tuning(adapter=lora, average={"kind": "ema", "decay": 0.5}).model_dump()
    trial = tuned(world, tuning=tuning)
    (about,) = train(world, tmp_path, [trial])
    check_json("model", about)
    assert about["parameters"]["trainable"] < about["parameters"]["total"], about["reason"]
    evaluate(tmp_path / "job", world.store, tmp_path / "models", tmp_path / "scores", Evaluate(bootstrap=100), CPU)
    history = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")
    metrics = read_json(tmp_path / "scores" / trial["id"] / "scores-validation.json")["targets"]["diagnosis"]["metrics"]
    assert metrics["log_loss"]["value"] == pytest.approx(history["validation_loss"].min(), rel=1e-4)


def test_strategies_start_from_the_same_head_and_only_scratch_from_another_encoder(world):
    rows = world.table
    source = Source(Store(world.store), rows["scan_id"].tolist(), CPU)
    labels = {"diagnosis": {"kind": "classification", "classes": ["control", "patient"]}}
    encoder = read_pretrained(world.encoder)
    starts = {}
    for strategy, init in (("scratch", None), ("frozen", encoder), ("full", encoder)):
        run = StageRun(world.line["spec"]["architecture"], SCRATCH | {"strategy": strategy}, 0, rows, labels, init)
        starts[strategy] = prepare(run, source).network.weights()
    saved = read_weights(world.encoder / "encoder.safetensors")
    assert all(
        torch.equal(starts[other]["encoder." + name], tensor)
        for name, tensor in saved.items()
        for other in ("frozen", "full")
    )
    assert not torch.equal(starts["scratch"]["encoder.conv1.weight"], saved["conv1.weight"])
    assert all(
        torch.equal(starts["scratch"]["heads.diagnosis.weight"], start["heads.diagnosis.weight"])
        for start in starts.values()
    )


def test_a_frozen_encoder_and_its_batch_norm_are_unchanged_by_training(world, tmp_path):
    trial = tuned(world, "frozen")
    (about,) = train(world, tmp_path, [trial])
    model = read_weights(tmp_path / "models" / trial["id"] / "model.safetensors")
    for name, tensor in read_weights(world.encoder / "encoder.safetensors").items():
        assert torch.equal(model[f"encoder.{name}"], tensor), name
    heads = sum(tensor.numel() for name, tensor in model.items() if name.startswith("heads."))
    assert about["parameters"]["trainable"] == heads


def test_features_computed_beforehand_train_the_same_head_as_the_plain_way(world, tmp_path, monkeypatch):
    trial = tuned(world, "frozen", epochs=4)
    train(world, tmp_path / "features", [trial])
    monkeypatch.setattr("tlimb.data.modules.BaseDataModule.augments", lambda self: True)
    train(world, tmp_path / "plain", [trial])
    quick, plain = (
        read_weights(tmp_path / way / "models" / trial["id"] / "model.safetensors") for way in ("features", "plain")
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(quick[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_trial_gives_the_same_numbers_alone_and_in_a_pack(world, tmp_path):
    trials = [tuned(world, "frozen"), trial_line(SCRATCH, seed=5), tuned(world, objective=L2SP), tuned(world)]
    train(world, tmp_path / "pack", trials)
    for number, trial in enumerate(trials):
        torch.randn(number + 1)
        train(world, tmp_path / trial["id"], [trial])
        assert numbers(tmp_path / trial["id"], trial) == numbers(tmp_path / "pack", trial)


def test_another_seed_gives_other_numbers(world, tmp_path):
    trials = [trial_line(SCRATCH, seed=seed) for seed in (0, 1)]
    train(world, tmp_path, trials)
    assert (
        numbers(tmp_path, trials[0])["heads.diagnosis.weight"] != numbers(tmp_path, trials[1])["heads.diagnosis.weight"]
    )


class Preempted(BaseException):
    """Ends a training as a scheduler would."""


class Preempting(Kept):
    """Writes a state after every epoch and ends the training after some."""

    def __init__(self, folder, epochs: int):
        super().__init__(folder, "trial", {}, seconds=0)
        self.left = epochs

    def save(self, state: dict) -> None:
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Preempted


SFCN = {"class_path": "SFCN", "init_args": {}}
COSINE = {"class_path": "CosineAnnealingLR", "init_args": {}}
SHIFTED = {"class_path": "BioImageDataModule", "init_args": {"size": [14, 14, 1], "shift": 2, "channels": "axial"}}
READY = [{"class_path": name, "init_args": {}} for name in ("RandomAffine", "RandomNoise", "MixUp")]
JITTER = [{"class_path": "own_data.Jitter", "init_args": {}}]
BALANCED = {"class_path": "BalancedSampler", "init_args": {"label": "diagnosis"}}
NYUL = {"class_path": "HistogramStandardisation", "init_args": {}}
REFIT = NYUL | {"init_args": {"refit": True}}
HOOKS = {"on_before_batch_transfer": "own_data.brighter", "on_after_batch_transfer": "own_data.noisier"}
RANDOM = {"module": SHIFTED, "augment": JITTER, "sampler": BALANCED, "normalise": REFIT, "hooks": HOOKS}
OWN = ("own_data",)
WHOLE = {"class_path": "BaseDataModule", "init_args": {}}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        (None, {"scheduler": COSINE, "early_stopping": {"patience": 2, "min_delta": 0.5}, "epochs": 5}),
        (None, {"strategy": "frozen", "epochs": 5}),
        (None, {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001, "fused": True}}, "epochs": 4}),
        (
            None,
            {
                "objective": L2SP,
                "gradient_clip": 0.1,
                "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
                "epochs": 4,
            },
        ),
        (SFCN, {"strategy": "scratch", "module": WHOLE, "epochs": 3, "batch_size": 4}),
        (None, RANDOM | {"epochs": 4}),
        (None, RANDOM | {"strategy": "frozen", "epochs": 3}),
        (None, {"augment": READY, "epochs": 4}),
    ],
    ids=["scheduler and patience", "frozen", "fused", "l2sp", "dropout", "all random", "frozen, random", "mixup"],
)
def test_a_preempted_training_goes_on_to_the_same_numbers(world, tmp_path, architecture, changes):
    store, table = world.store, world.table
    if architecture is SFCN:
        table = roles(world.table.drop(columns=["split", "role"]).head(8), 2, 2)
        make_store(tmp_path / "store", table, shape=(32, 32, 32))
        store = tmp_path / "store"
    run = StageRun(
        architecture or world.line["spec"]["architecture"],
        stage("finetune", "diagnosis", **changes),
        0,
        table,
        {"diagnosis": {"kind": "classification", "classes": ["control", "patient"]}},
        None if architecture else read_pretrained(world.encoder),
    )

    def outcome(kept):
        training = prepare(run, Source(Store(store), table["scan_id"].tolist(), CPU, OWN))
        progress = fit(training, kept, CPU)
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.history]
        return rows, {name: tensor.numpy().tobytes() for name, tensor in training.network.weights().items()}

    whole = outcome(Kept(None, "trial", {}))
    with pytest.raises(Preempted):
        outcome(Preempting(tmp_path / "states", 2))
    assert len(Kept(tmp_path / "states", "trial", {}).load()["progress"]["history"]) == 2
    assert outcome(Kept(tmp_path / "states", "trial", {})) == whole


def test_evaluation_sees_scans_as_validation_did(world, tmp_path):
    slow = {"class_path": "own_data.Slow", "init_args": {"factor": 2.0}}
    kinds = [RANDOM | {"sampler": None}, RANDOM | {"sampler": None, "dataset": slow}, {}]
    trials = [trial_line(stage("finetune", "age", strategy="scratch", epochs=3, **kind)) for kind in kinds]
    for about in train(world, tmp_path, trials, trusted=OWN):
        check_json("model", about)
        assert about["status"] == "ok", about["reason"]
    evaluate(tmp_path / "job", world.store, tmp_path / "models", tmp_path / "scores", Evaluate(bootstrap=100), CPU, OWN)
    found = []
    for trial in trials:
        history = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")
        scores = read_json(tmp_path / "scores" / trial["id"] / "scores-validation.json")
        found.append(scores["targets"]["age"]["metrics"]["mae"]["value"])
        best = history.loc[history["validation_loss"].idxmin(), "validation_mae"]
        assert found[-1] == pytest.approx(best, rel=1e-5)
    assert len(set(found)) == 3


def test_the_normaliser_is_fitted_on_training_scans_and_saved_with_the_model(world, tmp_path):
    zscore = {"class_path": "DatasetZScore", "init_args": {}}
    trial = trial_line(SCRATCH | {"data": SCRATCH["data"] | {"normalise": zscore}})
    (about,) = train(world, tmp_path, [trial])
    training = world.table.loc[world.table["role"] == "train", "scan_id"]
    slices = Store(world.store).gather(training.tolist())[..., 7].astype("float64")
    assert about["normalise"]["fitted"] == {"mean": pytest.approx(slices.mean()), "sd": pytest.approx(slices.std())}


def test_a_continued_encoder_brings_its_scale(world, tmp_path):
    line = pretrain_job(tmp_path / "pretrain", roles(world.lifespan, 5, 5), stage("pretrain", "age", normalise=NYUL))
    encoder = pretrain(tmp_path / "pretrain", world.store, None, tmp_path / "encoders", Settings(CPU))
    check_json("encoder", read_json(encoder / "encoder.json"))
    trials = [
        trial_line(stage("finetune", "diagnosis", strategy=strategy, normalise=spec), init=line["id"])
        for strategy, spec in (("full", NYUL), ("frozen", NYUL), ("full", REFIT), ("scratch", NYUL))
    ]
    pack_job(tmp_path / "job", world.table, trials)
    finetune(tmp_path / "job", world.store, encoder.parent, tmp_path / "models", Settings(CPU))
    fitted = [read_json(tmp_path / "models" / trial["id"] / "model.json")["normalise"]["fitted"] for trial in trials]
    before = read_json(encoder / "encoder.json")["normalise"]["fitted"]
    assert fitted[0] == fitted[1] == before and fitted[2] == fitted[3] != before


def test_a_stage_whose_scale_is_not_its_encoders_is_refused_unless_it_refits(world):
    rows = world.table
    facts = read_json(world.encoder / "encoder.json")
    marked = NYUL | {"fitted": {"landmarks": np.linspace(0, 1, 11).tolist()}}
    zscore = {"class_path": "DatasetZScore", "init_args": {}}
    wider = {"class_path": "HistogramStandardisation", "init_args": {"percentiles": [5.0, 95.0]}}
    by_path = {"class_path": "tlimb.data.normalise.HistogramStandardisation", "init_args": {}}

    def start(own, earlier, strategy="full"):
        encoder = Pretrained(world.encoder, facts | {"normalise": earlier})
        spec = stage("finetune", "diagnosis", strategy=strategy, normalise=own)
        return prepare(
            StageRun(RESNET, spec, 0, rows, LABELS, encoder), Source(Store(world.store), rows["scan_id"].tolist(), CPU)
        )

    for own, earlier in ((None, marked), (NYUL, None), (zscore, marked), (wider, marked)):
        with pytest.raises(InputError, match="set stages.finetune.data.normalise") as raised:
            start(own, earlier)
        told = str(raised.value)
        assert all((spec["class_path"] if spec else "none") in told for spec in (own, earlier))
        assert facts["id"] in told and "landmarks" not in told
        assert start(own, earlier, "scratch").normalise is None or own is not None
    assert start(by_path, marked).normalise["fitted"] == marked["fitted"]
    for own, earlier in ((REFIT, None), (REFIT, marked), (zscore | {"init_args": {"refit": True}}, marked)):
        assert start(own, earlier).normalise["fitted"] != marked["fitted"]


def test_a_scan_drawn_twice_stands_twice_in_everything_that_is_fitted(world):
    table = world.table.assign(times=np.where(world.table.index == 1, 3, np.where(world.table.index == 2, 0, 1)))
    zscore = {"class_path": "DatasetZScore", "init_args": {}}
    run = StageRun(RESNET, stage("finetune", "age", strategy="scratch", normalise=zscore), 0, table, LABELS)
    training = prepare(run, Source(Store(world.store), table["scan_id"].tolist(), CPU))
    drawn = [0, 1, 1, 1, *range(3, 10)]
    assert training.train.scan_ids == table["scan_id"].iloc[drawn].tolist()
    assert len(training.order) == len(drawn) and len(training.validation) == 5
    assert training.targets[0].mean == pytest.approx(table["age"].iloc[drawn].mean())
    slices = Store(world.store).gather(training.train.scan_ids)[..., 7].astype("float64")
    assert training.normalise["fitted"]["mean"] == pytest.approx(slices.mean())


def test_what_a_lab_brings_by_import_path_takes_part_in_training(world, tmp_path):
    own = {
        "module": {"class_path": "own_data.LeftHalf", "init_args": {}},
        "dataset": {"class_path": "own_data.Slow", "init_args": {"factor": 0.5}},
        "sampler": {"class_path": "own_data.FirstHalf", "init_args": {}},
        "normalise": {"class_path": "own_data.ByLargest", "init_args": {}},
        "augment": JITTER,
        "hooks": HOOKS,
    }
    spec = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 3, "width": 0.125}}
    bare = own | {"dataset": {"class_path": "own_data.Bare", "init_args": {}}}
    stages = [stage("finetune", "age", strategy="scratch", **kind) for kind in (own, bare)]
    trials = [trial_line(one, architecture=spec) for one in stages]
    fine, failed = train(world, tmp_path, trials, trusted=OWN)
    check_json("model", fine)
    assert fine["status"] == "ok" and fine["input_shape"] == [1, 8, 18, 16], fine["reason"]
    assert list(fine["normalise"]["fitted"]) == ["largest"]
    assert "dataset Bare: its items are not (image, [labels])" in failed["reason"]
    assert "not trusted" in train(world, tmp_path / "distrusted", trials)[0]["reason"]


def test_features_are_computed_beforehand_only_where_nothing_is_random(world):
    rows = world.table
    source = Source(Store(world.store), rows["scan_id"].tolist(), CPU, OWN)
    encoder = read_pretrained(world.encoder)
    featured, still = [], [{}, {"normalise": REFIT}, {"sampler": BALANCED}]
    for kind in [*still, {"augment": JITTER}, {"hooks": HOOKS}, {"module": SHIFTED}]:
        spec = stage("finetune", "diagnosis", strategy="frozen", **kind)
        featured.append(prepare(StageRun(RESNET, spec, 0, rows, LABELS, encoder), source).featured)
    assert featured == [True, True, True, False, False, False]


def test_a_term_of_a_lab_beside_a_frozen_encoder_is_given_images(world):
    objective = {"primary": None, "auxiliary": [{"class_path": "own_data.Echo", "init_args": {}}]}
    loss = {"primary": {"class_path": "torch.nn.modules.loss.L1Loss", "init_args": {}}, "auxiliary": L2SP["auxiliary"]}
    source = Source(Store(world.store), world.table["scan_id"].tolist(), CPU, OWN)
    encoder, featured = read_pretrained(world.encoder), []
    for terms in (objective, loss):
        spec = stage("finetune", "age", strategy="frozen", epochs=1, objective=terms)
        training = prepare(StageRun(RESNET, spec, 0, world.table, LABELS, encoder), source)
        featured.append(training.featured)
        fit(training, Kept(None, "trial", {}), CPU)
        assert [getattr(term, "axes", 4) for term in training.objective.auxiliary] == [4]
    assert featured == [False, True]


def test_a_task_that_is_killed_is_taken_up_where_it_was(world, tmp_path):
    trial = trial_line(SCRATCH | {"epochs": 40, "scheduler": COSINE})
    pack_job(tmp_path / "job", world.table, [trial])
    arguments = [
        "--job",
        tmp_path / "job",
        "--store",
        world.store,
        "--out",
        tmp_path / "killed",
        "--state-seconds",
        "0",
    ]
    states = tmp_path / "states"
    process = subprocess.Popen(
        [sys.executable, str(COMMAND), *map(str, arguments), "--state-dir", str(states)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not list(states.rglob("training.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
    assert not list(states.rglob("result"))
    train(world, tmp_path / "resumed", [trial], state_dir=str(states))
    train(world, tmp_path / "whole", [trial])
    assert numbers(tmp_path / "resumed", trial) == numbers(tmp_path / "whole", trial)


def test_a_finished_trial_is_taken_from_the_states_and_says_so(world, tmp_path):
    trial, states = tuned(world), str(tmp_path / "states")
    (first,) = train(world, tmp_path / "first", [trial], state_dir=states)
    (again,) = train(world, tmp_path / "again", [trial], state_dir=states)
    (recoded,) = train(world, tmp_path / "recoded", [trial], state_dir=states, code="changed")
    assert (first["reused"], again["reused"], recoded["reused"]) == (False, True, False)
    assert again | {"reused": False} == first
    assert numbers(tmp_path / "again", trial) == numbers(tmp_path / "first", trial)


def test_a_label_whose_classes_are_told_in_another_order_is_learned_anew(world, tmp_path, monkeypatch):
    trial, states = tuned(world), str(tmp_path / "states")
    train(world, tmp_path / "first", [trial], state_dir=states)
    turned = {"kind": "classification", "classes": ["patient", "control"]}
    monkeypatch.setitem(LABELS, "diagnosis", turned)
    (again,) = train(world, tmp_path / "again", [trial], state_dir=states)
    assert not again["reused"] and again["targets"]["diagnosis"]["classes"] == ["patient", "control"]


def test_a_corrected_label_trains_again(world, tmp_path):
    trial, states = trial_line(SCRATCH), str(tmp_path / "states")
    train(world, tmp_path / "first", [trial], state_dir=states)
    corrected = world.table.assign(
        diagnosis=world.table["diagnosis"]
        .replace({"control": "patient"})
        .where(world.table.index == 0, world.table["diagnosis"])
    )
    (about,) = train(world, tmp_path / "again", [trial], table=corrected, state_dir=states)
    assert not about["reused"]


def test_a_trial_that_diverges_is_a_result_and_the_pack_goes_on(world, tmp_path):
    wild = tuned(world, optimizer={"class_path": "SGD", "init_args": {"lr": 1e30}})
    failed, fine = train(world, tmp_path, [wild, tuned(world)])
    check_json("model", failed)
    assert failed["status"] == "failed" and failed["reason"].startswith("diverged: primary is ")
    assert "in step 2 of epoch 1; last finite in step 1 of epoch 1: primary 0." in failed["reason"]
    assert [path.name for path in (tmp_path / "models" / wild["id"]).iterdir()] == ["model.json"]
    assert fine["status"] == "ok"


def test_what_a_trial_raises_is_its_reason_and_the_pack_goes_on(world, tmp_path):
    trials = [
        trial_line(SCRATCH | {"objective": objective(L2SP)}),
        trial_line(stage("finetune", "diagnosis", strategy="frozen")),
        trial_line(stage("finetune", "diagnosis", module=WHOLE), architecture=SFCN),
        tuned(world, optimizer={"class_path": "SGD", "init_args": {"lr": -1.0}}),
        tuned(world, monitor="validation_acuracy"),
        tuned(world),
    ]
    reasons = [about["reason"] for about in train(world, tmp_path, trials)]
    assert "no pretrained encoder to stay near" in reasons[0]
    assert "no pretrained encoder to freeze" in reasons[1]
    assert "at least 32 voxels" in reasons[2]
    assert reasons[3] == 'optimizer.init_args: SGD refuses {"lr":-1.0}: Invalid learning rate: -1.0'
    assert "did you mean 'validation_accuracy'" in reasons[4]
    assert reasons[5] == ""


def test_running_out_of_device_memory_is_a_reason(world, tmp_path, monkeypatch):
    def exhausted(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tlimb.scenarios.finetune.prepare", exhausted)
    (about,) = train(world, tmp_path, [tuned(world)])
    assert about["reason"] == "the device ran out of memory"


def test_a_failed_pretraining_fails_its_trials_with_its_reason(world, tmp_path):
    wild = stage("pretrain", "age", optimizer={"class_path": "SGD", "init_args": {"lr": 1e30}})
    line = pretrain_job(tmp_path / "pretrain", roles(world.lifespan, 5, 5), wild)
    folder = pretrain(tmp_path / "pretrain", world.store, None, tmp_path / "encoders", Settings(CPU))
    about = read_json(folder / "encoder.json")
    check_json("encoder", about)
    assert about["status"] == "failed" and [path.name for path in folder.iterdir()] == ["encoder.json"]
    trial = trial_line(stage("finetune", "diagnosis"), init=line["id"])
    pack_job(tmp_path / "job", world.table, [trial])
    finetune(tmp_path / "job", world.store, tmp_path / "encoders", tmp_path / "models", Settings(CPU))
    reason = read_json(tmp_path / "models" / trial["id"] / "model.json")["reason"]
    assert reason == f"pretraining {line['id']} failed: {about['reason']}"


def test_a_chain_starts_from_its_parent_and_remembers_all_persons(world, tmp_path):
    second = stage("second", "diagnosis", strategy="frozen")
    line = pretrain_job(tmp_path / "job", world.table, second, parent=world.line["id"])
    folder = pretrain(tmp_path / "job", world.store, world.encoder, tmp_path, Settings(CPU))
    own, parents = read_weights(folder / "encoder.safetensors"), read_weights(world.encoder / "encoder.safetensors")
    assert all(torch.equal(own[name], tensor) for name, tensor in parents.items())
    about = read_json(folder / "encoder.json")
    assert about["parent"] == world.line["id"] and line["id"] == about["id"]
    assert set(about["persons"]) == {
        *map(person_digest, world.lifespan["person"]),
        *map(person_digest, world.table["person"]),
    }


def test_a_held_out_person_seen_in_pretraining_stops_the_task_by_name(world, tmp_path):
    leaked = world.table.copy()
    leaked.loc[leaked.index[-1], "person"] = "lifespan/sub-003"
    leaked.loc[leaked.index[-7], "person"] = "lifespan/sub-004"
    with pytest.raises(InputError) as raised:
        train(world, tmp_path, [tuned(world)], table=leaked)
    text = str(raised.value)
    assert "person lifespan/sub-003 of test took part in pretraining" in text
    assert "person lifespan/sub-004 of validation" in text
    assert not (tmp_path / "models").exists()


def test_training_persons_may_be_shared_unless_the_stages_are_disjoint(world, tmp_path):
    shared = world.table.copy()
    shared.loc[shared.index[0], "person"] = "lifespan/sub-003"
    last = stage("finetune", "diagnosis")
    before = [world.line["spec"]["stage"] | {"disjoint": disjoint} for disjoint in (False, True)]
    allowed, barred = (trial_line(last, init=world.line["id"], before=[first]) for first in before)
    assert train(world, tmp_path / "allowed", [allowed], table=shared)[0]["status"] == "ok"
    with pytest.raises(InputError, match="lifespan/sub-003 of train"):
        train(world, tmp_path / "barred", [barred], table=shared)


def test_a_person_in_two_roles_stops_the_task(world, tmp_path):
    torn = world.table.copy()
    torn.loc[torn.index[-1], "person"] = torn["person"].iloc[0]
    with pytest.raises(InputError, match="person clinic/sub-000 stands in test, train"):
        train(world, tmp_path, [trial_line(SCRATCH)], table=torn)


def test_an_encoder_of_another_recipe_stops_the_task_and_both_are_named(world, tmp_path):
    make_store(tmp_path / "store", world.table, spacing=4.0)
    pack_job(tmp_path / "job", world.table, [tuned(world)])
    with pytest.raises(InputError, match="spacing 8.0 against 4.0"):
        finetune(tmp_path / "job", tmp_path / "store", world.encoder.parent, tmp_path / "models", Settings(CPU))


def test_scans_without_the_label_are_passed_over_where_others_have_it(world, tmp_path):
    table = world.table.assign(diagnosis=world.table["diagnosis"].mask(world.table.index == 2))
    (about,) = train(world, tmp_path, [trial_line(SCRATCH)], table=table)
    assert about["status"] == "ok"


def test_a_validation_part_without_labels_is_a_reason(world, tmp_path):
    table = world.table.assign(diagnosis=world.table["diagnosis"].mask(world.table["role"] == "validation"))
    (about,) = train(world, tmp_path, [trial_line(SCRATCH)], table=table)
    assert "none of the 5 validation scans has a label" in about["reason"]


def test_a_gpu_asked_for_in_vain_is_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TLIMB_ACCELERATOR", "gpu")
    assert find_device() == CPU
    assert capsys.readouterr().err == "no GPU answers: training on the CPU\n"


def follow(values, patience=None, min_delta=0.0, name="validation_loss") -> tuple[Progress, int]:
    """Progress over epochs with these monitored values, and the number of epochs until it stops."""
    progress = Progress()
    monitor = monitor_of([Target("sex", "classification", ("f", "m"))], name)
    stopping = {"patience": patience, "min_delta": min_delta} if patience else None
    for epoch, value in enumerate(values, start=1):
        progress.record({"epoch": epoch, name: value}, monitor, stopping)
        if progress.stops(stopping):
            return progress, epoch
    return progress, len(values)


def test_the_earliest_of_equally_good_epochs_is_best():
    assert follow([0.5, 0.3, 0.4, 0.3])[0].best_epoch == 2
    assert follow([0.5, 0.7, 0.7], name="validation_accuracy")[0].best_epoch == 2


def test_training_stops_when_patience_runs_out():
    assert follow([0.5, 0.4, 0.41, 0.42, 0.1], patience=2)[1] == 4
    assert follow([0.5, 0.4, 0.41, 0.39, 0.1], patience=2)[1] == 5


def test_a_gain_below_min_delta_is_best_but_does_not_renew_patience():
    progress, epochs = follow([0.5, 0.45, 0.44, 0.1], patience=2, min_delta=0.1)
    assert (epochs, progress.best_epoch) == (3, 3)


def test_a_value_that_cannot_be_computed_is_no_improvement():
    progress, epochs = follow([float("nan"), 0.2, float("nan"), float("nan")], patience=2, name="validation_auroc")
    assert (epochs, progress.best_epoch, progress.best) == (4, 2, 0.2)


def test_an_early_stop_is_recorded_and_the_best_epochs_weights_are_kept(world, tmp_path):
    trial = trial_line(SCRATCH | {"epochs": 30, "early_stopping": {"patience": 1, "min_delta": 10.0}})
    (about,) = train(world, tmp_path, [trial])
    assert about["stopped_early"] and about["epochs_run"] == 2
    longer = trial_line(SCRATCH | {"epochs": about["best_epoch"]})
    train(world, tmp_path, [longer])
    kept, last = numbers(tmp_path, trial), numbers(tmp_path, longer)
    assert kept["encoder.conv1.weight"] == last["encoder.conv1.weight"]


def test_the_scheduler_is_laid_out_for_all_epochs(world, tmp_path):
    trial = trial_line(SCRATCH | {"epochs": 4, "scheduler": COSINE})
    train(world, tmp_path, [trial])
    rates = pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv")["lr"]
    np.testing.assert_allclose(rates, 0.0005 * (1 + np.cos(np.pi * np.arange(4) / 4)))


def test_job_files_of_the_tests_are_those_of_the_contract(world, tmp_path):
    pack_job(tmp_path, world.table, [tuned(world)])
    for folder in (tmp_path, world.folder / "pretrain"):
        check_json("job", read_json(folder / "job.json"))
        check_table("job", pd.read_parquet(folder / "table.parquet"))
