"""Ways to tune: what trains when and how fast, what stays, what is kept, and that resuming changes nothing."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from contracts import check_table
from training_jobs import LABELS, RESNET, make_people, make_store, pretrain_job, roles, stage

from tlimb.architectures.build import build_network
from tlimb.architectures.freezing import slots_of
from tlimb.architectures.network import Network
from tlimb.architectures.weights import read_weights
from tlimb.config import Tuning
from tlimb.errors import InputError
from tlimb.scenarios.averaging import Average, measure_statistics
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.direct import measure
from tlimb.scenarios.job import Pretrained, read_pretrained
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.scenarios.schedules import WarmupCosine, build_optimizer, build_scheduler
from tlimb.scenarios.scenario import fit
from tlimb.scenarios.tuning import Tuner
from tlimb.search.tuning_problems import tuning_problems
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")
LORA = {"class_path": "LoRA", "init_args": {"rank": 2}}
PARALLEL = {"class_path": "ParallelAdapter", "init_args": {}}
SGD = {"class_path": "SGD", "init_args": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}}


class Tiny(nn.Module):
    """Two blocks, each with a normalisation and a dropout, and a normalisation between that is in no block."""

    dims, features, blocks = 2, 4, ("first", "second.inner")

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1))
        self.between = nn.BatchNorm2d(4)
        self.second = nn.ModuleDict({"inner": nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1))})

    def forward(self, images):
        return self.second["inner"](self.between(self.first(images * self.scale))).flatten(2).mean(2)


def tuner_of(encoder: nn.Module, strategy: str = "full", epochs: int = 10, **tuning) -> Tuner:
    """A started tuner of a network with one head."""
    network = Network(encoder, {"sex": nn.Linear(encoder.features, 2)})
    spec = {"name": "finetune", "strategy": strategy, "epochs": epochs, "tuning": Tuning(**tuning).model_dump()}
    tuner = Tuner(network, spec, seed=0)
    tuner.start()
    return tuner


def training_names(tuner: Tuner, epoch: int) -> list[str]:
    """The encoder's parameters that train in an epoch."""
    tuner.set_epoch(epoch)
    return [name for name, of in tuner.encoder.named_parameters() if of.requires_grad]


def evaluating(tuner: Tuner) -> set[str]:
    """The encoder's modules without children that are in evaluation mode."""
    return {name for name, of in tuner.encoder.named_modules() if not of.training and not list(of.children())}


def test_the_order_is_that_of_the_blocks_and_what_is_in_none_goes_with_the_one_before():
    names = [(slot.name, slot.block) for slot in slots_of(Tiny()) if slot.parameter is not None]
    layers = ("first.0", "first.1", "between")
    first = ["scale", *(f"{layer}.{name}" for layer in layers for name in ("weight", "bias"))]
    second = [f"second.inner.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")]
    assert names == [(name, 0) for name in first] + [(name, 1) for name in second]


@pytest.mark.parametrize(
    ("until", "trainable"),
    [(None, 11_171_266), ("layer3.1.conv1", 9_575_426), ("layer4.0.conv1", 8_394_754), ("layer4.1.conv1", 4_721_666)],
)
def test_freezing_up_to_a_layer_leaves_the_millions_of_the_papers_table(until, trainable):
    """Table 4 of TLIMB: 11.2, 9.6, 8.4, 4.7 M. The exact numbers: conv weights 9 in out, norms 2 out, a head of 2."""
    with torch.device("meta"):
        architecture = {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}
        network = build_network(architecture, (1, 64, 64), {"sex": 2}, 0)
    spec = {"name": "finetune", "strategy": "full", "epochs": 1, "tuning": Tuning(freeze_up_to=until).model_dump()}
    tuner = Tuner(network, spec, seed=0)
    tuner.start()
    assert tuner.counts() == {"total": 11_171_266, "trainable": trainable}
    table = {None: "11.2", "layer3.1.conv1": "9.6", "layer4.0.conv1": "8.4", "layer4.1.conv1": "4.7"}
    assert f"{trainable / 1e6:.1f}" == table[until]


def test_everything_before_a_block_submodule_or_parameter_is_fixed_and_in_evaluation_mode():
    tuner = tuner_of(Tiny(), freeze_up_to="between")
    assert training_names(tuner, 1)[0] == "between.weight"
    assert evaluating(tuner) == {"first.0", "first.1", "first.2"}
    tuner = tuner_of(Tiny(), freeze_up_to="second.inner.1.bias")
    assert training_names(tuner, 1) == ["second.inner.1.bias"]
    assert {"between", "second.inner.0", "second.inner.1"} <= evaluating(tuner)
    tuner = tuner_of(Tiny(), freeze_up_to="first")
    assert training_names(tuner, 1)[0] == "first.0.weight"


def test_parts_of_a_weight_that_its_layer_computes_train_like_any_other():
    encoder = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Linear(4, 4))
    encoder.blocks, encoder.features = ("0", "1"), 4
    names = ["0.bias", *(f"0.parametrizations.weight.original{k}" for k in (0, 1)), "1.weight", "1.bias"]
    assert training_names(tuner_of(encoder), 1) == names
    assert training_names(tuner_of(encoder, freeze_up_to="1"), 1) == names[3:]


def test_parameters_that_their_class_never_trains_stay_so_and_silence_nothing_else():
    encoder = Tiny()
    encoder.scale.requires_grad_(False)
    tuner = tuner_of(encoder, head_first=1)
    assert "scale" not in training_names(tuner, 2) and len(training_names(tuner, 2)) == 10
    assert not evaluating(tuner) and encoder.training
    assert tuner.counts()["trainable"] == tuner.counts()["total"] - 1


def test_heads_alone_train_first_then_all():
    tuner = tuner_of(Tiny(), head_first=2)
    assert [len(training_names(tuner, epoch)) for epoch in (1, 2, 3)] == [0, 0, 11]
    tuner.set_epoch(2)
    assert evaluating(tuner) == {"first.0", "first.1", "first.2", "between", *(f"second.inner.{k}" for k in range(3))}
    assert all(of.requires_grad for of in tuner.network.heads.parameters()) and tuner.network.heads[0].training


def test_blocks_train_one_after_the_other_from_the_last_on():
    tuner = tuner_of(Tiny(), unfreeze=2)
    assert [len(training_names(tuner, epoch)) for epoch in range(1, 7)] == [0, 0, 4, 4, 11, 11]
    tuner = tuner_of(Tiny(), unfreeze=1, freeze_up_to="between")
    assert [len(training_names(tuner, epoch)) for epoch in range(1, 5)] == [0, 4, 6, 6]


def test_a_list_says_which_blocks_train_from_when_on():
    plan = [{"epoch": 2, "block": "second.inner.1"}, {"epoch": 4, "block": "first.1"}]
    tuner = tuner_of(Tiny(), unfreeze=plan)
    assert [len(training_names(tuner, epoch)) for epoch in range(1, 6)] == [0, 2, 2, 8, 8]
    assert tuner.counts()["trainable"] == 8 + 8 + (144 + 4) + 8 + 10


def test_only_biases_or_only_normalisations_train_and_statistics_move_with_the_latter_alone():
    biases, norms = tuner_of(Tiny(), only="bias"), tuner_of(Tiny(), only="norm")
    assert all(name.endswith(".bias") for name in training_names(biases, 1)) and len(training_names(biases, 1)) == 5
    assert {"first.1", "between", "second.inner.1"} <= evaluating(biases) and "first.2" not in evaluating(biases)
    layers = ("first.1", "between", "second.inner.1")
    assert training_names(norms, 1) == [f"{layer}.{name}" for layer in layers for name in ("weight", "bias")]
    assert evaluating(norms) == {"first.0", "second.inner.0"}


def test_recurrent_layers_that_gradients_pass_stay_in_training_mode():
    """CuDNN has no backward pass of them in evaluation mode."""
    encoder = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4), nn.LSTM(4, 4))
    encoder.blocks, encoder.features = ("0", "1", "2"), 4
    assert encoder[1].training
    tuner_of(encoder, only="bias")
    assert encoder[1].training and encoder[2].training and not encoder[0].training
    tuner_of(encoder, freeze_up_to="2")
    assert encoder[2].training and not encoder[1].training


def test_with_an_adapter_it_and_the_heads_train_and_normalisations_where_it_says_so():
    low, parallel = tuner_of(Tiny(), adapter=LORA), tuner_of(Tiny(), adapter=PARALLEL)
    assert {name.rpartition(".")[2] for name in training_names(low, 1)} == {"a", "b"}
    assert {"first.1", "between", "second.inner.1"} <= evaluating(low)
    assert len(training_names(parallel, 1)) == 2 + 6 and not {"between", "first.1"} & evaluating(parallel)
    assert low.counts()["trainable"] == 2 * (4 + 9) + 2 * (4 + 36) + 10
    later = tuner_of(Tiny(), adapter=LORA, freeze_up_to="second.inner")
    assert len(training_names(later, 1)) == 2 and later.counts()["total"] == low.counts()["total"]


def test_the_last_blocks_start_anew_and_the_others_from_what_was_loaded():
    encoder, pretrained = Tiny(), Tiny()
    for of in pretrained.parameters():
        of.data.add_(1.0)
    pretrained.second["inner"][1].running_mean.add_(5.0)
    fresh = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    spec = {"name": "finetune", "strategy": "full", "epochs": 1, "tuning": Tuning(reinitialise=1).model_dump()}
    tuner = Tuner(Network(encoder, {"sex": nn.Linear(4, 2)}), spec, seed=0)
    encoder.load_state_dict(pretrained.state_dict())
    tuner.start()
    for name, tensor in encoder.state_dict().items():
        wanted = fresh if name.startswith("second") else pretrained.state_dict()
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"freeze_up_to": "layer3"}, "tuning.freeze_up_to: the encoder has no block, submodule or parameter 'layer3'"),
        ({"freeze_up_to": "betwen"}, "did you mean 'between'?"),
        ({"unfreeze": [{"epoch": 1, "block": "third"}]}, r"unfreeze\[0\].block: .* 'third'"),
        ({"unfreeze": [{"epoch": 1, "block": "first"}, {"epoch": 2, "block": "between"}]}, "between trains already"),
        ({"adapter": {"class_path": "LoRA", "init_args": {"layers": ["sixth"]}}}, r"layers\[0\]: .* 'sixth'"),
        ({"adapter": {"class_path": "LoRA", "init_args": {"layers": ["between"]}}}, "no weight that it could adapt"),
        ({"reinitialise": 2}, "has 2 blocks; found 2, expected fewer"),
        ({"reinitialise": 1, "freeze_up_to": "second.inner.1"}, "second.inner starts anew and not all of it trains"),
        ({"only": "bias", "freeze_up_to": "second.inner.2"}, "what may train of the encoder has no bias"),
    ],
)
def test_what_the_encoder_does_not_have_is_told_before_training(tuning, message):
    with pytest.raises(InputError, match=message):
        tuner_of(Tiny(), **tuning)


def test_all_unknown_names_are_told_at_once():
    layers = {"class_path": "LoRA", "init_args": {"layers": ["one", "between", "two"]}}
    with pytest.raises(InputError) as raised:
        tuner_of(Tiny(), freeze_up_to="three", adapter=layers)
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize(
    ("strategy", "tuning", "told"),
    [
        ("full", {}, []),
        ("full", {"freeze_up_to": "layer2", "only": "bias", "layer_decay": 0.9}, []),
        ("scratch", {"layer_decay": 0.5, "average": {"kind": "ema"}}, []),
        ("scratch", {"freeze_up_to": "layer2", "reinitialise": 1}, ["freeze_up_to", "reinitialise"]),
        ("frozen", {"unfreeze": 2, "layer_decay": 0.5, "average": {"kind": "swa"}}, ["unfreeze", "layer_decay"]),
        ("direct", {"head_first": 1, "average": {"kind": "ema"}}, ["head_first", "average"]),
        ("full", {"only": "norm", "adapter": LORA}, ["only"]),
        ("full", {"head_first": 1, "unfreeze": 1}, ["head_first"]),
        ("full", {"freeze_up_to": "a", "unfreeze": [{"epoch": 1, "block": "b"}]}, ["freeze_up_to"]),
        ("full", {"reinitialise": 1, "adapter": LORA}, ["reinitialise"]),
        ("full", {"unfreeze": [{"epoch": 3, "block": "b"}, {"epoch": 3, "block": "a"}]}, ["unfreeze[1].epoch"]),
        ("full", {"unfreeze": [{"epoch": 6, "block": "b"}]}, ["unfreeze[0].epoch"]),
        ("full", {"head_first": 5, "average": {"kind": "swa", "start": 6}}, ["head_first", "average.start"]),
        ("full", {"average": {"kind": "ema", "start": 2}}, ["average.start"]),
    ],
)
def test_ways_that_make_no_sense_together_are_told_with_their_place(strategy, tuning, told):
    problems = tuning_problems(Tuning(**tuning).model_dump(), strategy, "stages[1].tuning", epochs=5)
    assert [problem.where for problem in problems] == [f"stages[1].tuning.{key}" for key in told]


def test_blocks_learn_at_falling_rates_and_heads_at_the_full_one():
    tuner = tuner_of(Tiny(), layer_decay=0.5)
    groups = tuner.groups()
    assert [group["scale"] for group in groups] == [1.0, 0.5, 0.25]
    assert [sum(of.numel() for of in group["params"]) for group in groups] == [10, 148 + 8, 1 + 40 + 8 + 8]


@pytest.mark.parametrize("name", ["constant", "WarmupCosine", "OneCycleLR", "ReduceLROnPlateau", "CosineAnnealingLR"])
def test_each_block_moves_as_far_as_with_its_own_rate_whatever_the_scheduler(name):
    """Against optimisers of one block each, whose rate is the head's of that step times the scale."""
    arguments = {"OneCycleLR": {"max_lr": 0.3}, "CosineAnnealingLR": {"eta_min": 0.01}, "WarmupCosine": {"warmup": 2}}
    where = "torch.optim.lr_scheduler." if name in ("OneCycleLR", "ReduceLROnPlateau") else ""
    spec = {"class_path": where + name, "init_args": arguments.get(name, {"patience": 0} if where else {})}
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(3)) for _ in range(2)] for _ in range(2))
    scales = (1.0, 0.25)
    groups = [{"params": [of], "scale": scale} for of, scale in zip(ours, scales)]
    optimizer = build_optimizer(SGD, groups)
    scheduler = None if name == "constant" else build_scheduler(spec, optimizer, 5)
    singles = [torch.optim.SGD([of], **SGD["init_args"]) for of in theirs]
    for _ in range(5):
        rate = optimizer.param_groups[0]["lr"]
        for single, scale in zip(singles, scales):
            single.param_groups[0]["lr"] = rate * scale
            single.param_groups[0]["momentum"] = optimizer.param_groups[0]["momentum"]
        gradient = torch.randn(3)
        for of in (*ours, *theirs):
            of.grad = gradient.clone()
        for each in (optimizer, *singles):
            each.step()
        assert optimizer.param_groups[0]["lr"] == rate
        if scheduler is not None:
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def rates(make, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.2)
    scheduler, found = make(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_and_cosine_are_torchs_one_after_the_other():
    def chained(optimizer):
        parts = [LinearLR(optimizer, 1 / 4, total_iters=3), CosineAnnealingLR(optimizer, 7, eta_min=0.02)]
        return SequentialLR(optimizer, parts, milestones=[3])

    found = rates(lambda optimizer: WarmupCosine(optimizer, 10, warmup=3, floor=0.1), 10)
    assert found == pytest.approx(rates(chained, 10))
    plain = rates(lambda optimizer: WarmupCosine(optimizer, 6, warmup=0), 6)
    assert plain == pytest.approx(rates(lambda optimizer: CosineAnnealingLR(optimizer, 6), 6))


def test_more_warm_up_than_epochs_is_refused():
    with pytest.raises(InputError, match="0 <= warmup < 3 epochs"):
        rates(lambda optimizer: WarmupCosine(optimizer, 3), 3)


def steps(network: nn.Module, count: int, after) -> None:
    """Some steps of SGD on noise."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        network(torch.randn(6, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def test_exponential_means_are_those_of_torch():
    network = Tiny()
    own = Average(Tuning(average={"kind": "ema", "decay": 0.7}).model_dump()["average"], network)
    peer = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    assert not own.swap_in()
    steps(network, 4, lambda: (own.after_step(), own.after_epoch(1), peer.update_parameters(network)))
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert own.swap_in()
    for name, tensor in peer.module.state_dict().items():
        if tensor.is_floating_point():  # torch rounds the mean number of batches down
            torch.testing.assert_close(network.state_dict()[name], tensor)
    own.swap_out()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_means_over_epochs_and_their_statistics_are_those_of_torch():
    network = Tiny()
    for of in network.modules():
        if isinstance(of, nn.Dropout):
            of.p = 0.0
    own, peer = Average({"kind": "swa", "start": 2, "decay": 0.9}, network), AveragedModel(network)
    images = [torch.randn(5, 1, 8, 8) for _ in range(3)]
    for epoch in (1, 2, 3):
        steps(network, 2, own.after_step)
        own.after_epoch(epoch)
        if epoch >= 2:
            peer.update_parameters(network)
    update_bn(images, peer)
    own.swap_in()
    measure_statistics(network, images, network)
    for name, tensor in peer.module.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, msg=name)
    assert network.between.momentum == 0.1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of two cohorts and an encoder pretrained on age and diagnosis in the first."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("tuning")
    lifespan, clinic = make_people("lifespan", 16), make_people("clinic", 14, seed=1)
    make_store(folder / "store", pd.concat([lifespan, clinic], ignore_index=True))
    first = stage("pretrain", "age", targets=["age", "diagnosis"], epochs=2)
    pretrain_job(folder / "pretrain", roles(lifespan, 4, 4), first)
    encoder = pretrain(folder / "pretrain", folder / "store", None, folder / "encoders", Settings(CPU))
    return SimpleNamespace(store=folder / "store", table=roles(clinic, 4, 4), encoder=read_pretrained(encoder))


def prepared(world, encoder=True, target: str = "diagnosis", tuning: dict | None = None, **changes):
    """A training of the last stage that may start."""
    tuned = Tuning(**(tuning or {})).model_dump()
    spec = stage("finetune", target, tuning=tuned, **{"batch_size": 3, "optimizer": SGD} | changes)
    run = StageRun(RESNET, spec, 0, world.table, LABELS, world.encoder if encoder else None)
    return prepare(run, Source(Store(world.store), world.table["scan_id"].tolist(), CPU))


def outcome(training, kept=None):
    """What two equal trainings have in common bit for bit."""
    progress = fit(training, kept or Kept(None, "trial", {}), CPU)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.history]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in training.network.weights().items()}


class Preempted(BaseException):
    """Ends a training as a scheduler would."""


class Preempting(Kept):
    """Writes a state after every epoch and ends the training after the second."""

    def __init__(self, folder):
        super().__init__(folder, "trial", {}, seconds=0)
        self.left = 2

    def save(self, state: dict) -> None:
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Preempted


L2SP = {"primary": None, "auxiliary": [{"class_path": "L2SP", "init_args": {"alpha": 0.1, "beta": 0.1}}]}
FUSED = {"class_path": "AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1, "fused": True}}
CASES = {
    "unfreezing": ({"unfreeze": 1, "layer_decay": 0.5}, {"optimizer": FUSED, "objective": L2SP}),
    "unfreezing by a list": ({"unfreeze": [{"epoch": 3, "block": "layer4.0.conv2"}]}, {}),
    "head first": ({"head_first": 2}, {"scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup": 1}}}),
    "exponential mean": ({"average": {"kind": "ema", "decay": 0.8}, "freeze_up_to": "layer3"}, {"optimizer": FUSED}),
    "mean over epochs": ({"average": {"kind": "swa", "start": 2}}, {"monitor": "validation_accuracy"}),
    "low rank": ({"adapter": LORA, "average": {"kind": "ema", "decay": 0.5}}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_preempted_in_the_middle_goes_on_to_the_same_numbers(world, tmp_path, case):
    tuning, changes = CASES[case]
    changes = {"epochs": 3, **changes}
    whole = outcome(prepared(world, tuning=tuning, **changes))
    with pytest.raises(Preempted):
        outcome(prepared(world, tuning=tuning, **changes), Preempting(tmp_path / "states"))
    assert outcome(prepared(world, tuning=tuning, **changes), Kept(tmp_path / "states", "trial", {})) == whole


@pytest.mark.parametrize(
    ("tuning", "moves"),
    [
        ({"freeze_up_to": "layer3.0.bn2"}, "layer3.0.bn2 layer3.0.downsample layer3.1 layer4"),
        ({"unfreeze": 1}, "layer4"),
        ({"only": "bias"}, "bias"),
        ({"only": "norm"}, "bn downsample.1"),
    ],
)
def test_what_is_fixed_keeps_its_weights_and_statistics_under_weight_decay_and_momentum(world, tuning, moves):
    training = prepared(world, tuning=tuning, epochs=2)
    before = read_weights(world.encoder.folder / "encoder.safetensors")
    fit(training, Kept(None, "trial", {}), CPU)
    for name, tensor in training.network.encoder.state_dict().items():
        if not any(part in name for part in moves.split()):
            assert torch.equal(tensor, before[name]), name
    after = training.network.encoder.state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("adapter", [LORA, PARALLEL], ids=["low rank", "parallel"])
def test_what_is_kept_of_an_adapted_network_is_an_ordinary_one(world, adapter):
    training = prepared(world, tuning={"adapter": adapter}, epochs=2)
    counts = training.tuner.counts()
    progress = fit(training, Kept(None, "trial", {}), CPU)
    before = read_weights(world.encoder.folder / "encoder.safetensors")
    after = training.network.encoder.state_dict()
    assert {name: tensor.shape for name, tensor in after.items()} == {name: of.shape for name, of in before.items()}
    assert not torch.equal(after["layer2.0.conv1.weight"], before["layer2.0.conv1.weight"])
    fixed = torch.equal(after["layer2.0.bn1.running_mean"], before["layer2.0.bn1.running_mean"])
    assert fixed == (adapter is LORA)
    assert counts["total"] == sum(of.numel() for of in training.network.parameters()) != counts["trainable"]
    found = progress.history[progress.best_epoch - 1]["validation_loss"]
    assert validation_loss(training) == pytest.approx(found, rel=1e-5)


def validation_loss(training) -> float:
    """The loss of the network that was kept, measured anew."""
    return measure(training, CPU).history[0]["validation_loss"]


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_what_is_validated_and_kept_are_the_averaged_weights(world, kind):
    means, last = [], {}

    class Watching(Average):
        def swap_out(self):
            means.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
            super().swap_out()
            last.update({name: tensor.clone() for name, tensor in self.network.state_dict().items()})

    training = prepared(world, tuning={"average": {"kind": kind, "decay": 0.9}}, epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlimb.scenarios.scenario.Average", Watching)
        progress = fit(training, Kept(None, "trial", {}), CPU)
    own = training.network.state_dict()
    assert all(torch.equal(tensor, means[progress.best_epoch - 1][name]) for name, tensor in own.items())
    assert not torch.equal(own["encoder.layer1.0.conv1.weight"], last["encoder.layer1.0.conv1.weight"])
    found = progress.history[progress.best_epoch - 1]["validation_loss"]
    assert validation_loss(training) == pytest.approx(found, rel=1e-5)


def test_direct_transfer_measures_the_pretrained_head_on_its_own_scale_and_trains_nothing(world):
    training = prepared(world, target="age", strategy="direct")
    progress = measure(training, CPU)
    (row,) = progress.history
    check_table("history", pd.DataFrame(progress.history))
    assert (progress.best_epoch, progress.epochs_run, row["epoch"], row["lr"]) == (0, 0, 0, 0.0)
    facts = world.encoder.facts["targets"]["age"]
    people = world.table[world.table["role"] == "validation"]
    images = training.view.images(people["scan_id"].tolist())
    with torch.no_grad():
        ages = training.network.eval()(images)["age"][:, 0].double().numpy() * facts["sd"] + facts["mean"]
    truth = people["age"].to_numpy()
    assert row["validation_mae"] == pytest.approx(np.abs(ages - truth).mean(), rel=1e-5)
    assert row["validation_loss"] == pytest.approx((((ages - truth) / facts["sd"]) ** 2).mean(), rel=1e-4)
    saved = {part: read_weights(world.encoder.folder / f"{part}.safetensors") for part in ("encoder", "heads")}
    for name, tensor in training.network.weights().items():
        part, _, key = name.partition(".")
        assert torch.equal(tensor, saved[part][key]), name
    assert training.tuner.counts()["trainable"] == 0


def test_direct_and_frozen_need_something_to_start_from_and_direct_the_same_target(world):
    with pytest.raises(InputError, match="no pretrained encoder to freeze"):
        prepared(world, encoder=False, strategy="frozen")
    with pytest.raises(InputError, match="no pretrained encoder with a head of its own"):
        prepared(world, encoder=False, strategy="direct")
    with pytest.raises(InputError, match="tuning.unfreeze: a training from scratch has no pretrained encoder"):
        prepared(world, encoder=False, tuning={"unfreeze": 1})
    facts = world.encoder.facts | {"targets": {"age": {"kind": "classification", "classes": ["old", "young"]}}}
    other = SimpleNamespace(store=world.store, table=world.table, encoder=Pretrained(world.encoder.folder, facts))
    with pytest.raises(InputError, match="strategy direct, encoder .*has not learned 'diagnosis' .*age"):
        prepared(other, strategy="direct")
    with pytest.raises(InputError, match="learned 'age' as classification, and here it is regression"):
        prepared(other, target="age", strategy="direct")


@pytest.mark.parametrize("learned", [["patient", "control"], ["control", "case"]])
def test_direct_transfer_needs_the_classes_of_the_data_in_their_order(world, learned):
    facts = world.encoder.facts
    facts = facts | {"targets": {"diagnosis": facts["targets"]["diagnosis"] | {"classes": learned}}}
    other = SimpleNamespace(store=world.store, table=world.table, encoder=Pretrained(world.encoder.folder, facts))
    told = f"learned the classes {', '.join(learned)} of 'diagnosis', and the data have control, patient"
    with pytest.raises(InputError, match=told):
        prepared(other, strategy="direct")


def test_features_are_computed_once_only_where_the_encoder_never_changes(world):
    assert prepared(world, strategy="frozen").featured
    assert prepared(world, strategy="frozen", tuning={"average": {"kind": "ema"}}).featured
    assert not prepared(world, tuning={"head_first": 1}, epochs=2).featured
