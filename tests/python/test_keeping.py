"""Keeping what was learned: each term is its formula, and copies stay as they were."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from small_networks import AGE, BINNED, DIAGNOSIS, FINDINGS, Flat, Small, arrays, moved, network_of, noise, step_of
from torch import nn
from training_jobs import LABELS, RESNET, make_people, make_store, pretrain_job, roles, stage

from tlimb.architectures.network import Network
from tlimb.config import Tuning
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.objectives.attention import channel_attention, softened
from tlimb.objectives.bss import BSS
from tlimb.objectives.co_tuning import CoTuning, relationship
from tlimb.objectives.delta import DELTA
from tlimb.objectives.ewc import EWC
from tlimb.objectives.feature_distillation import FeatureDistillation
from tlimb.objectives.frozen import FrozenEncoder
from tlimb.objectives.l2sp import L2SP
from tlimb.objectives.objective import Objective
from tlimb.objectives.term import Beginning, Step
from tlimb.objectives.watching import chosen_layers
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.job import read_pretrained
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.scenarios.scenario import fit, scenario_class
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")


def test_l2sp_is_its_formula_and_grows_once_weights_move():
    network = network_of(Small(), diagnosis=2)
    start, term = arrays(network), L2SP(alpha=0.3, beta=0.7)
    term.start(Beginning(network, pretrained=True))
    step = step_of(network, noise(2, 1, 8, 8))
    heads = sum((start[name] ** 2).sum() for name in start if name.startswith("heads") and start[name].ndim > 1)
    assert term(step).item() == pytest.approx(0.7 / 2 * heads, rel=1e-6)
    now = arrays(moved(network))
    shared = sum(((now[n] - start[n]) ** 2).sum() for n in now if n.startswith("encoder") and now[n].ndim > 1)
    heads = sum((now[name] ** 2).sum() for name in now if name.startswith("heads") and now[name].ndim > 1)
    assert shared > 0.01
    assert term(step).item() == pytest.approx(0.3 / 2 * shared + 0.7 / 2 * heads, rel=1e-5)
    term(step).backward()
    weight = network.encoder.first[0].weight
    wanted = 0.3 * (now["encoder.first.0.weight"] - start["encoder.first.0.weight"])
    np.testing.assert_allclose(weight.grad.numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert network.encoder.first[1].weight.grad is None and network.head("diagnosis").bias.grad is None


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range_are_all_told(wrong):
    with pytest.raises(InputError) as told:
        DELTA(alpha=wrong, beta=wrong)
    assert [problem.where for problem in told.value.problems] == ["alpha", "beta"]
    for make in (lambda: L2SP(alpha=wrong), lambda: BSS(k=0), lambda: FeatureDistillation(temperature=wrong)):
        with pytest.raises(InputError, match="expected a number of at least"):
            make()


@pytest.mark.parametrize("make", [L2SP, EWC, DELTA, FeatureDistillation, CoTuning])
def test_there_must_be_something_to_keep(make):
    network = network_of(Small(), diagnosis=2)
    with pytest.raises(InputError, match="there is no pretrained encoder to stay near"):
        make().start(Beginning(network, input_shape=(1, 8, 8)))


def test_ewc_is_its_formula_over_every_parameter_of_the_encoder():
    network = network_of(Small(), diagnosis=2)
    start = arrays(network.encoder)
    fisher = {name: noise(*of.shape, seed=n).abs() for n, (name, of) in enumerate(network.encoder.named_parameters())}
    term = EWC()
    term.start(Beginning(network, pretrained=True, fisher=fisher))
    step = step_of(network, noise(2, 1, 8, 8))
    assert term(step).item() == 0
    now = arrays(moved(network).encoder)
    wanted = sum((of.double().numpy() * (now[name] - start[name]) ** 2).sum() for name, of in fisher.items()) / 2
    assert term(step).item() == pytest.approx(wanted, rel=1e-5)
    term(step).backward()
    bias = fisher["second.1.bias"].double().numpy() * (now["second.1.bias"] - start["second.1.bias"])
    np.testing.assert_allclose(network.encoder.second[1].bias.grad.numpy(), bias, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in network.heads.parameters())


@pytest.mark.parametrize("count", [1, 2])
def test_the_weight_of_ewc_that_the_page_names_gives_the_estimate_from_both_stages(count):
    """Of `count` targets alike, quantities linear in one weight: there Laplace is exact. 6 scans are before, 3 now."""
    x, y = noise(9, seed=1).double(), noise(9, seed=2).double()
    before, both = ((x[:n] @ y[:n]) / (x[:n] @ x[:n]) for n in (6, 9))
    network = Network(nn.Linear(1, 1, bias=False, dtype=torch.float64), {})
    network.encoder.weight.data.fill_(before)
    term, fisher = EWC(), {"weight": count * x[:6].square().mean().reshape(1, 1)}
    term.start(Beginning(network, pretrained=True, fisher=fisher))
    network.encoder.weight.data.fill_(both)
    errors = (network.encoder(x[6:, None])[:, 0] - y[6:]).square()
    (errors.mean() + 2 * 6 / 3 / count * term(step_of(network, x[6:, None]))).backward()
    assert abs(both - before) > 0.01
    assert network.encoder.weight.grad.item() == pytest.approx(0, abs=1e-12)


def test_ewc_needs_the_fisher_information_of_its_own_encoder():
    network = network_of(Small(), diagnosis=2)
    with pytest.raises(InputError, match='kept no Fisher information .*"fisher": true'):
        EWC().start(Beginning(network, pretrained=True))
    fisher = {name.replace("first", "frist"): of for name, of in network.encoder.named_parameters()}
    with pytest.raises(InputError) as told:
        EWC().start(Beginning(network, pretrained=True, fisher=fisher))
    assert len(told.value.problems) == 4 and "did you mean 'frist.0.weight'" in str(told.value)


def layer_means(network: Network, images: torch.Tensor) -> list[np.ndarray]:
    """What the two blocks of Small make of images, (B, C, ...)."""
    first = network.encoder.first(images)
    return [of.detach().double().numpy() for of in (first, network.encoder.second(first))]


def test_delta_is_its_formula_on_the_pass_of_the_step():
    network, images = network_of(Small(), diagnosis=2), noise(5, 1, 9, 9)
    term = DELTA(alpha=0.4, beta=0.6)
    term.start(Beginning(network, pretrained=True, input_shape=(1, 9, 9)))
    start = layer_means(deepcopy(network).eval(), images)
    moved(network).train()
    now = layer_means(deepcopy(network), images)
    tracked = network.encoder.first[1].num_batches_tracked.clone()
    step = step_of(network, images)
    with term.around_pass(step):
        _ = step.passed
    value = term(step)
    layers = sum(
        of.shape[1] / 2 * sum(((of - old)[:, c] ** 2).mean() / of.shape[1] for c in range(of.shape[1]))
        for of, old in zip(now, start)
    )
    head = (network.head("diagnosis").weight.detach().double().numpy() ** 2).sum()
    assert value.item() == pytest.approx(0.4 * layers + 0.6 / 2 * head, rel=1e-5)
    assert network.encoder.first[1].num_batches_tracked == tracked + 1
    assert not any(of._forward_hooks for of in [*network.modules(), *term.modules()])
    value.backward()
    assert network.encoder.first[0].weight.grad.abs().max() > 0
    with pytest.raises(InputError, match="has not seen the pass"):
        term(step)


def test_two_delta_terms_look_at_the_same_pass():
    network, images = network_of(Small(), diagnosis=2), noise(3, 1, 9, 9)
    terms = {"delta": DELTA(layers=["first"]), "delta_2": DELTA(layers=["second"])}
    for term in terms.values():
        term.start(Beginning(network, pretrained=True, input_shape=(1, 9, 9)))
    moved(network).eval()

    def values(names):
        made = Objective([], {}, {name: (terms[name], 1.0) for name in names}, primary_weight=0.0)
        return {name: value.item() for name, value in made(step_of(network, images)).items()}

    assert values(terms) == values(["delta"]) | values(["delta_2"])


def test_delta_weighs_channels_and_takes_the_layers_it_is_told():
    network, images = network_of(Small(), diagnosis=2), noise(4, 1, 9, 9)
    term = DELTA(alpha=1.0, beta=0.0, layers=["second.0"])
    term.start(Beginning(network, pretrained=True, input_shape=(1, 9, 9)))
    term.attention0.copy_(torch.tensor([0.7, 0.0, 0.2, 0.1]))
    copy = deepcopy(network).eval()
    moved(network).eval()
    step = step_of(network, images)
    with term.around_pass(step):
        _ = step.passed
    value = float(term(step).detach())
    with torch.no_grad():
        maps = [of.encoder.second[0](of.encoder.first(images)).double().numpy() for of in (network, copy)]
    each = ((maps[0] - maps[1]) ** 2).mean((0, 2, 3))
    assert value == pytest.approx(4 / 2 * (each @ [0.7, 0.0, 0.2, 0.1]), rel=1e-5)
    with pytest.raises(InputError, match=r"DELTA.layers\[0\].*'secnd' .*did you mean 'second'"):
        DELTA(layers=["secnd"]).start(Beginning(network, pretrained=True, input_shape=(1, 9, 9)))


def test_the_channels_of_maps_tokens_and_states_are_found():
    class Tokens(nn.Module):
        dims, features, channels, blocks = 2, 6, 6, ("tokens", "states", "flat")

        def __init__(self):
            super().__init__()
            self.tokens, self.states = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True)
            self.flat = nn.ModuleList([nn.Linear(5, 3), nn.Linear(3, 6)])

        def forward(self, images):
            return self.flat[1](self.flat[0](self.states(self.tokens(images.flatten(1, 2)))[0].mean(1)))

    network = network_of(Tokens())
    assert chosen_layers(network, None, (1, 7, 4), "term") == {"tokens": 6, "states": 5, "flat.1": 6}
    with pytest.raises(InputError, match="flat gives no tensor"):
        chosen_layers(network, ["flat"], (1, 7, 4), "term")


def test_attention_is_what_the_loss_rises_by_without_each_channel():
    network, images = network_of(Small()).eval(), noise(40, 1, 7, 7, seed=2)
    encoder = network.encoder
    with torch.no_grad():
        seen = network.encode(images)
    centred = seen - seen.median(0).values
    label = (centred[:, 0] > 0).float() + (centred[:, 1] + 0.3 * seen.std() * noise(40) > 0).float()
    label[7] = torch.nan

    def batches():
        return ((images[n : n + 15], [label[n : n + 15]]) for n in range(0, 40, 15))

    beginning = Beginning(network, True, (DIAGNOSIS,), batches=batches, input_shape=(1, 7, 7))
    found = channel_attention(FrozenEncoder(network), {"first": 3, "second": 4, "second.0": 4}, beginning, 40, "term")

    known = ~label.isnan()
    features, truth = seen[known].double().numpy(), label[known].numpy().astype(int)
    mean, sd = seen.double().numpy().mean(0), seen.double().numpy().std(0)
    peer = LogisticRegression(C=1.0, max_iter=1000, tol=1e-10).fit((features - mean) / sd, truth)

    def loss(values):
        values = values.flatten(2).mean(2).double().numpy()
        return -peer.predict_log_proba((values - mean) / sd)[np.arange(len(truth)), truth].mean()

    def dropped(maps, channel):
        return maps * (torch.arange(maps.shape[1]) != channel)[:, None, None]

    with torch.no_grad():
        one = encoder.first(images[known])
        two, inner = encoder.second(one), encoder.second[0](one)
        losses = {
            "first": [loss(encoder.second(dropped(one, c))) for c in range(3)],
            "second": [loss(dropped(two, c)) for c in range(4)],
            "second.0": [loss(encoder.second[1](dropped(inner, c))) for c in range(4)],
        }
    for name, of in losses.items():
        rises = np.array(of) - loss(two)
        np.testing.assert_allclose(found[name].numpy(), softmax((rises - rises.mean()) / rises.std() / 5), rtol=1e-3)
    assert not any("forward" in vars(of) for of in encoder.modules())
    assert torch.equal(softened(torch.ones(4)), torch.full((4,), 0.25))
    with pytest.raises(InputError, match="found relapse"):
        relapse = Beginning(network, True, (Target("relapse", "survival"),), batches=batches)
        channel_attention(FrozenEncoder(network), {"first": 3}, relapse, 40, "term")


def test_feature_distillation_is_its_formula():
    network, images = network_of(Small(), diagnosis=2), noise(6, 1, 8, 8)
    term = FeatureDistillation()
    term.start(Beginning(network, pretrained=True, input_shape=(1, 8, 8)))
    with torch.no_grad():
        start = deepcopy(network).eval().encode(images[:4]).double().numpy()
        now = deepcopy(moved(network)).train().encode(images[:4]).double().numpy()
    step = step_of(network.train(), images, labelled=4)
    assert term(step).item() == pytest.approx((((now - start) ** 2).sum(1) / 4).mean(), rel=1e-5)


def test_learning_without_forgetting_compares_what_the_heads_before_say():
    network, images = network_of(Small(), sex=2), noise(5, 1, 8, 8)
    sources = (DIAGNOSIS, AGE, FINDINGS)
    made = [{"weight": noise(of.outputs, 4, seed=n), "bias": noise(of.outputs)} for n, of in enumerate(sources)]
    heads = dict(zip(["diagnosis", "age", "findings"], made))
    term = FeatureDistillation(kind="outputs", temperature=3.0)
    term.start(Beginning(network, True, input_shape=(1, 8, 8), source_targets=sources, source_heads=heads))
    network.eval()
    assert term(step_of(network, images)).item() == pytest.approx(0, abs=1e-6)
    start = network.encode(images).detach().double().numpy()
    now = moved(network).encode(images).detach().double().numpy()
    weights = {name: (head["weight"].double().numpy(), head["bias"].double().numpy()) for name, head in heads.items()}
    new, old = ({name: of @ w.T + b for name, (w, b) in weights.items()} for of in (now, start))
    p, q = (softmax(outputs["diagnosis"] / 3, axis=1) for outputs in (old, new))
    wanted = (p * np.log(p / q)).sum(1).mean()
    wanted += ((new["age"] - old["age"]) ** 2 / 2).mean()
    p, q = (expit(outputs["findings"] / 3) for outputs in (old, new))
    wanted += (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(1).mean()
    value = term(step_of(network, images))
    assert value.item() == pytest.approx(wanted, rel=1e-4)
    value.backward()
    assert all(of.grad is not None for of in term.own_heads.parameters())
    assert all(not of.requires_grad for of in [*term.before.parameters(), *term.kept_heads.parameters()])


def test_heads_before_are_taken_over_where_they_are_linear_layers():
    network, images = network_of(Small(), sex=2), noise(3, 1, 8, 8)
    mlp = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Dropout(0.0), nn.Linear(7, 3))
    term = FeatureDistillation(kind="outputs")

    def begin(head: dict) -> Beginning:
        return Beginning(network, True, source_targets=(DIAGNOSIS,), source_heads={"diagnosis": head})

    term.start(begin(mlp.state_dict()))
    features = network.encode(images)
    torch.testing.assert_close(term.own_heads[0](features), mlp(features))
    with pytest.raises(InputError, match="is no LinearHead and no MLPHead"):
        term.start(begin({"attend.weight": torch.ones(3, 4)}))
    with pytest.raises(InputError, match="takes 5 features, and the encoder gives 4"):
        term.start(begin({"weight": torch.ones(3, 5), "bias": torch.ones(3)}))
    with pytest.raises(InputError, match="kind 'outputs' needs heads of the stage before"):
        term.start(Beginning(network, True))


@pytest.mark.parametrize("k", [1, 2, 9])
def test_bss_is_the_sum_of_the_smallest_squared_singular_values(k):
    network, images = network_of(Flat(), sex=2), noise(6, 1, 2, 2)
    with torch.no_grad():
        values = np.linalg.svd(network.encode(images).double().numpy(), compute_uv=False)
    step = step_of(network, images)
    assert BSS(k)(step).item() == pytest.approx((values[-k:] ** 2).sum(), rel=1e-4)
    features = noise(5, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda of: BSS(k)(SimpleNamespace(features=of)), features)


def co_tuned(label: torch.Tensor, images: torch.Tensor, **facts):
    """A started term between a head of four bins and a target of three classes, with its network."""
    network = network_of(Small(), diagnosis=3).eval()
    head = {"weight": noise(4, 4, seed=8), "bias": noise(4, seed=9)}
    batches = lambda: iter([(images[:5], [label[:5]]), (images[5:], [label[5:]])])  # noqa: E731
    term = CoTuning()
    term.start(Beginning(network, True, (DIAGNOSIS,), (), batches, (BINNED,), {"age": head}, **facts))
    return term, network, head


def test_co_tuning_is_its_formula_with_a_calibrated_relation():
    images, label = noise(9, 1, 8, 8), torch.tensor([0.0, 1, 0, 1, np.nan, 0, 1, 1, np.nan])
    term, network, head = co_tuned(label, images, source_temperatures={"age": 2.5})
    with torch.no_grad():
        features = network.encode(images).double().numpy()
    outputs = features @ head["weight"].double().numpy().T + head["bias"].double().numpy()
    p = softmax(outputs / 2.5, axis=1)
    truth = label.numpy()
    relation = np.stack([p[truth == 0].mean(0), p[truth == 1].mean(0), p.mean(0)])
    np.testing.assert_allclose(term.relation0_0.numpy(), relation, rtol=1e-5)
    logs, known = log_softmax(outputs, axis=1), ~np.isnan(truth)
    losses = -(relation[np.nan_to_num(truth).astype(int)] * logs).sum(1)
    assert term(step_of(network, images, [label])).item() == pytest.approx(losses[known].mean(), rel=1e-5)
    value = term(step_of(network, images, [label]))
    value.backward()
    assert term.own_heads[0][0].weight.grad.abs().max() > 0 and network.encoder.first[0].weight.grad.abs().max() > 0
    assert term(step_of(network, images, [torch.full((9,), torch.nan)])).item() == 0


def test_co_tuning_of_mixed_scans_weighs_both_labels():
    images, label = noise(6, 1, 8, 8), torch.tensor([0.0, 1, 2, 0, 1, 2])
    term, network, _ = co_tuned(label, images)
    partner, share = label.flip(0), torch.tensor([0.2, 0.9, 1.0, 0.5, 0.3, 0.6])
    partner[1] = torch.nan
    mixed = Step(network, images, Mixed([label], [partner], share), labelled=6)
    logs = log_softmax(term.own_heads[0](network.encode(images)).detach().double().numpy(), axis=1)
    relation, known = term.relation0_0.double().numpy(), ~np.isnan(partner.numpy())
    one = -(relation[label.numpy().astype(int)] * logs).sum(1)
    two = -(relation[np.nan_to_num(partner.numpy()).astype(int)] * logs).sum(1) * known
    weight = share.double().numpy()
    wanted = (weight * one + (1 - weight) * two).sum() / (weight + (1 - weight) * known).sum()
    assert term(mixed).item() == pytest.approx(wanted, rel=1e-5)


def test_co_tuning_needs_classes_on_both_sides():
    network = network_of(Small(), age=1)
    with pytest.raises(InputError) as told:
        CoTuning().start(Beginning(network, True, (AGE,), source_targets=(AGE,)))
    assert len(told.value.problems) == 2
    rows = relationship(torch.tensor([[0.2, 0.8], [0.6, 0.4]]), torch.tensor([1.0, torch.nan]), 2)
    np.testing.assert_allclose(rows.numpy(), [[0.4, 0.6], [0.2, 0.8]], rtol=1e-6)


def test_copies_stay_frozen_and_in_evaluation_mode_whatever_they_are_part_of():
    network = network_of(Small(), sex=2)
    terms = nn.ModuleList([DELTA(), FeatureDistillation()])
    for term in terms:
        term.start(Beginning(network, True, input_shape=(1, 8, 8)))
    terms.train()
    images = noise(4, 1, 8, 8)
    for term in terms:
        assert not any(of.training for of in term.before.modules())
        assert not any(of.requires_grad for of in term.before.parameters())
        before, first = deepcopy(term.before.state_dict()), term.before(images)
        moved(network)
        assert torch.equal(term.before(images), first) and not first.requires_grad
        assert all(torch.equal(tensor, before[name]) for name, tensor in term.before.state_dict().items())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of two cohorts and an encoder pretrained on bins of age and on diagnosis in the first."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("keeping")
    lifespan, clinic = make_people("lifespan", 16), make_people("clinic", 14, seed=1)
    make_store(folder / "store", pd.concat([lifespan, clinic], ignore_index=True))
    bins = {"low": 20.0, "high": 80.0, "width": 15.0, "sigma": 5.0}
    heads = {"age": {"class_path": None, "init_args": {}, "bins": bins}}
    first = stage("pretrain", "age", targets=["age", "diagnosis"], heads=heads, epochs=1, fisher=True)
    pretrain_job(folder / "pretrain", roles(lifespan, 4, 4), first)
    encoder = pretrain(folder / "pretrain", folder / "store", None, folder / "encoders", Settings(CPU))
    return SimpleNamespace(store=folder / "store", table=roles(clinic, 4, 4), encoder=read_pretrained(encoder))


def prepared(world, auxiliary: list[dict], **changes):
    """A training of the last stage that may start."""
    changes = {"batch_size": 3, "epochs": 2} | changes
    spec = stage("finetune", "diagnosis", objective={"primary": None, "auxiliary": auxiliary}, **changes)
    run = StageRun(RESNET, spec, 0, world.table, LABELS, world.encoder)
    return prepare(run, Source(Store(world.store), world.table["scan_id"].tolist(), CPU))


def trained(training, kept=None):
    """History without seconds, and weights, bit for bit."""
    progress = fit(training, kept or Kept(None, "trial", {}), CPU)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.history]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in training.network.weights().items()}


def test_a_stage_keeps_the_fisher_information_of_its_encoder_and_its_temperatures(world):
    fisher, facts = world.encoder.fisher(), read_json(world.encoder.folder / "encoder.json")
    check_json("encoder", facts)
    training = prepared(world, [])
    assert fisher.keys() == dict(training.network.encoder.named_parameters()).keys()
    assert all((of >= 0).all() and of.isfinite().all() for of in fisher.values())
    assert fisher["layer4.0.conv1.weight"].max() > 0
    assert facts["temperatures"].keys() == {"age", "diagnosis"} and min(facts["temperatures"].values()) > 0


@pytest.mark.parametrize(("targets", "problem"), [([], "needs targets"), (["relapse"], "no time until an event")])
def test_fisher_information_is_refused_where_no_label_can_be_drawn(world, tmp_path, targets, problem):
    people = make_people("lifespan", 16).assign(relapse=np.arange(1.0, 17.0))
    primary = {"primary": None if targets else {"class_path": "Reconstruction", "init_args": {}}}
    spec = stage("pretrain", "age", targets=targets, fisher=True, objective=primary)
    pretrain_job(tmp_path / "job", roles(people, 4, 4), spec)
    folder = pretrain(tmp_path / "job", world.store, None, tmp_path / "out", Settings(CPU))
    facts = read_json(folder / "encoder.json")
    assert facts["status"] == "failed" and "stages.pretrain.fisher" in facts["reason"] and problem in facts["reason"]


TERMS = {
    "L2SP": {},
    "EWC": {},
    "DELTA": {"attention": "losses", "layers": ["layer4"], "scans": 4},
    "FeatureDistillation": {},
    "outputs": {"kind": "outputs"},
    "BSS": {},
    "CoTuning": {},
}


def spec_of(name: str, **more) -> dict:
    return {"class_path": "FeatureDistillation" if name == "outputs" else name, "init_args": TERMS[name]} | more


@pytest.mark.parametrize("name", TERMS)
def test_each_term_trains_along_and_copies_are_not_in_the_optimiser(world, name):
    training = prepared(world, [spec_of(name, weight=1.0)])
    scenario = scenario_class(training)(training, None)
    scenario.configure_optimizers()
    optimised = {id(of) for group in scenario.optimizer.param_groups for of in group["params"]}
    term = training.objective.auxiliary[0]
    assert all((id(of) in optimised) == of.requires_grad for of in term.parameters())
    kept = {key: of.clone() for key, of in term.state_dict().items() if "own_heads." not in key}
    rows, _ = trained(training)
    assert all(np.isfinite(value) for key, value in rows[-1].items() if key.startswith("train_"))
    assert any(rows[-1][key] > 0 for key in rows[-1] if key.startswith("train_") and key != "train_loss")
    after = term.cpu().state_dict()
    assert all(torch.equal(of, after[key]) for key, of in kept.items())


def test_a_weight_of_nothing_is_the_absence_of_each_term_bit_for_bit(world):
    silent = [spec_of(name, weight=0.0) for name in TERMS]
    (rows, weights), (bare_rows, bare) = trained(prepared(world, silent)), trained(prepared(world, []))
    assert weights == bare
    assert rows == bare_rows


class Preempted(BaseException):
    """Ends a training as a scheduler would."""


class Preempting(Kept):
    """Writes a state after the first epoch and ends the training."""

    def save(self, state: dict) -> None:
        super().save(state)
        raise Preempted


def test_what_was_kept_survives_a_preempted_training_to_the_same_numbers(world, tmp_path):
    terms = [spec_of(name, weight=0.5) for name in ("FeatureDistillation", "outputs", "CoTuning", "EWC")]
    changes = {"tuning": Tuning(stochnorm=0.5).model_dump()}
    whole = trained(prepared(world, terms, **changes))
    with pytest.raises(Preempted):
        trained(prepared(world, terms, **changes), Preempting(tmp_path, "trial", {}, seconds=0))
    assert trained(prepared(world, terms, **changes), Kept(tmp_path, "trial", {})) == whole
    assert whole != trained(prepared(world, terms))
