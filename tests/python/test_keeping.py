"""Keeping what was learned: each term is its formula, copies stay as they were, batch norms choose and end as before."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from torch import nn
from contracts import check_json
from training_jobs import LABELS, RESNET, make_people, make_store, pretrain_job, roles, stage

from tlimb.architectures.network import Network
from tlimb.architectures.stochnorm import StochNorm, make_ordinary, make_stochastic, stochastic_places
from tlimb.config import Tuning
from tlimb.data.augment.mixup import Mixed
from tlimb.data.bins import Bins
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
from tlimb.objectives.term import Beginning, Step
from tlimb.objectives.watching import chosen_layers
from tlimb.scenarios.calibration import temperature
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.fisher import drawn_log_likelihood, fisher_diagonal
from tlimb.scenarios.job import read_pretrained
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.scenarios.scenario import fit, scenario_class
from tlimb.scenarios.tuning import Tuner
from tlimb.search.tuning_problems import tuning_problems
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")
DIAGNOSIS = Target("diagnosis", "classification", ("a", "b", "c"))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion"))
AGE = Target("age", "regression", (), 50.0, 10.0)
BINNED = Target("age", "regression", (), 50.0, 10.0, Bins(20.0, 80.0, 15.0, 5.0))


class Small(nn.Module):
    """Two convolutions with batch norm; features are means over space."""

    dims, features, blocks = 2, 4, ("first", "second")

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, images):
        return self.second(self.first(images)).flatten(2).mean(2)


class Flat(nn.Module):
    """One linear layer over the voxels of an image, whose gradients are plain."""

    dims, features, blocks = 2, 3, ("layer",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, images):
        return self.layer(images.flatten(1))


def network_of(encoder: nn.Module, seed: int = 0, **heads: int) -> Network:
    """A network with linear heads and weights that are no extreme ones."""
    network = Network(encoder, {name: nn.Linear(encoder.features, width) for name, width in heads.items()})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.add_(1.0)
    return network


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(network: Network) -> Network:
    """The network after its weights have changed."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(0.1 * noise(*parameter.shape, seed=number))
    return network


def step_of(network: Network, images: torch.Tensor, labels=(), **facts) -> Step:
    """A training step in which all images have labels."""
    return Step(network, images, list(labels), labelled=facts.pop("labelled", len(images)), **facts)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """All tensors as float64 arrays."""
    return {name: of.detach().double().numpy().copy() for name, of in network.state_dict().items()}


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
    assert [problem.where for problem in told.value.problems] == ["DELTA.init_args.alpha", "DELTA.init_args.beta"]
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


def test_ewc_needs_the_fisher_information_of_its_own_encoder():
    network = network_of(Small(), diagnosis=2)
    with pytest.raises(InputError, match='kept no Fisher information .*"fisher": true'):
        EWC().start(Beginning(network, pretrained=True))
    fisher = {name.replace("first", "frist"): of for name, of in network.encoder.named_parameters()}
    with pytest.raises(InputError) as told:
        EWC().start(Beginning(network, pretrained=True, fisher=fisher))
    assert len(told.value.problems) == 4 and "did you mean 'frist.0.weight'" in str(told.value)


class Scans:
    """The same image again and again, as a dataset and the view of it."""

    def __init__(self, image: torch.Tensor, n: int):
        self.image, self.n = image, n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, indices):
        return self.image.expand(len(indices), *self.image.shape), [torch.full((len(indices),), torch.nan)]

    def before(self, batch, training):
        assert not training
        return batch

    after = before


def exact_fisher(network: Network, image: torch.Tensor, target: Target) -> np.ndarray:
    """E_y (d log p(y) / dW)^2 of a Flat encoder by hand: d o_k / d W_ij = V_ki x_j."""
    x, v = image.flatten().double().numpy(), arrays(network.head(target.name))
    outputs = v["weight"] @ (arrays(network.encoder)["layer.weight"] @ x) + v["bias"]
    slopes = v["weight"][:, :, None] * x  # (K, 3, 4)
    if target.kind == "regression" and not target.bins:
        return slopes[0] ** 2
    if target.kind == "multilabel":
        p = expit(outputs)
        cross = np.einsum("k,kij->ij", p * (1 - p), slopes**2)
        return cross
    if target.kind == "ordinal":
        s = expit(outputs)
        p = np.array([1 - s[0], s[0] * (1 - s[1]), s[0] * s[1]])
        scores = [-s[0] * slopes[0], (1 - s[0]) * slopes[0] - s[1] * slopes[1]]
        scores.append((1 - s[0]) * slopes[0] + (1 - s[1]) * slopes[1])
        return sum(share * score**2 for share, score in zip(p, scores))
    p = softmax(outputs)
    return sum(p[k] * (slopes[k] - np.tensordot(p, slopes, 1)) ** 2 for k in range(len(p)))


@pytest.mark.parametrize("target", [AGE, DIAGNOSIS, GRADE, FINDINGS, BINNED], ids=lambda of: of.kind)
def test_the_fisher_information_is_that_of_labels_drawn_from_the_networks_own_predictions(target):
    network, image = network_of(Flat(), **{target.name: target.outputs}), noise(1, 2, 2, seed=3)
    scans = Scans(image, 300)
    found = fisher_diagonal(network, [target], scans, scans, seed=1, device=CPU)["layer.weight"].numpy()
    wanted = exact_fisher(network, image, target)
    assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)


def test_fisher_information_sums_over_targets_and_leaves_the_network_alone():
    network, image = network_of(Flat(), age=1, diagnosis=3), noise(1, 2, 2, seed=3)
    network.encoder.layer.weight.requires_grad_(False)
    before, scans = deepcopy(network.state_dict()), Scans(image, 300)
    both = fisher_diagonal(network, [AGE, DIAGNOSIS], scans, scans, seed=0, device=CPU)["layer.weight"]
    assert torch.equal(both, fisher_diagonal(network, [AGE, DIAGNOSIS], scans, scans, seed=0, device=CPU)["layer.weight"])
    wanted = exact_fisher(network, image, AGE) + exact_fisher(network, image, DIAGNOSIS)
    assert np.linalg.norm(both.numpy() - wanted) < 0.2 * np.linalg.norm(wanted)
    assert not network.encoder.layer.weight.requires_grad and network.encoder.layer.weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("target", [DIAGNOSIS, GRADE, FINDINGS], ids=lambda of: of.kind)
def test_labels_are_drawn_as_often_as_they_are_probable(target):
    torch.manual_seed(0)
    logits = noise(1, target.outputs, seed=5)
    surprise = -float(drawn_log_likelihood(target, logits.expand(20000, -1))) / 20000
    o = logits[0].double().numpy()
    s = expit(o)
    p = {
        "classification": lambda: [softmax(o)],
        "ordinal": lambda: [np.array([1 - s[0], s[0] * (1 - s[1]), s[0] * s[1]])],
        "multilabel": lambda: [np.array([share, 1 - share]) for share in s],
    }[target.kind]()
    assert surprise == pytest.approx(-sum((each * np.log(each)).sum() for each in p), rel=0.02)


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
    term.before_pass(step)
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


def test_delta_weighs_channels_and_takes_the_layers_it_is_told():
    network, images = network_of(Small(), diagnosis=2), noise(4, 1, 9, 9)
    term = DELTA(alpha=1.0, beta=0.0, layers=["second.0"])
    term.start(Beginning(network, pretrained=True, input_shape=(1, 9, 9)))
    term.attention0.copy_(torch.tensor([0.7, 0.0, 0.2, 0.1]))
    copy = deepcopy(network).eval()
    moved(network).eval()
    step = step_of(network, images)
    term.before_pass(step)
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
            self.tokens, self.states, self.flat = nn.Linear(4, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 6)

        def forward(self, images):
            return self.flat(self.states(self.tokens(images.flatten(1, 2)))[0].mean(1))

    found = chosen_layers(network_of(Tokens()), None, (1, 7, 4), "term")
    assert found == {"tokens": 6, "states": 5, "flat": 6}


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
    heads = {of.name: {"weight": noise(of.outputs, 4, seed=n), "bias": noise(of.outputs)} for n, of in enumerate(sources)}
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


@pytest.mark.parametrize("target", [DIAGNOSIS, GRADE, BINNED], ids=lambda of: of.kind)
def test_the_temperature_makes_held_out_labels_most_probable(target):
    random = np.random.default_rng(0)
    outputs = noise(4000, target.outputs, seed=4)
    o = outputs.double().numpy()
    p = softmax(o, axis=1)
    if target is GRADE:
        s = expit(o)
        p = np.stack([1 - s[:, 0], s[:, 0] * (1 - s[:, 1]), s[:, 0] * s[:, 1]], 1)
    place = np.array([random.choice(p.shape[1], p=row) for row in p / p.sum(1, keepdims=True)])
    label = torch.tensor(place, dtype=torch.float32)
    if target is BINNED:
        label = torch.tensor((BINNED.bins.centres[place] - 50) / 10, dtype=torch.float32)
    label[::7] = torch.nan
    assert temperature(target, outputs * 3, label) == pytest.approx(3, rel=0.1)
    assert temperature(target, outputs, torch.full((4000,), torch.nan)) == 1


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


NORMS = {1: (nn.BatchNorm1d, (6, 5)), 2: (nn.BatchNorm2d, (6, 5, 4, 3)), 3: (nn.BatchNorm3d, (6, 5, 2, 3, 2))}


def norm_of(dims: int) -> tuple[nn.Module, torch.Tensor]:
    """A batch norm of 5 channels that has seen something, and what it is given."""
    made, shape = NORMS[dims]
    norm = made(5)
    with torch.no_grad():
        for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            tensor.copy_(noise(5, seed=number).abs() + 0.5)
    return norm, noise(*shape, seed=9) * 2 + 1


@pytest.mark.parametrize("dims", NORMS)
def test_stochnorm_takes_each_channel_from_the_batch_or_from_before(dims):
    norm, values = norm_of(dims)
    before = arrays(norm)
    stochastic = StochNorm(norm, 0.5).train()
    torch.manual_seed(0)
    chosen = torch.rand(5) < 0.5
    assert 0 < chosen.sum() < 5
    torch.manual_seed(0)
    found = stochastic(values).detach().double().numpy()
    x = values.double().numpy()
    axes = (0, *range(2, x.ndim))
    shape = (-1, *[1] * (x.ndim - 2))
    m, v, count = x.mean(axes), x.var(axes), x.size / 5
    known = [before[name] for name in ("running_mean", "running_var")]
    mean, variance = (np.where(chosen.numpy(), own, old) for own, old in zip((m, v), known))
    hat = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + norm.eps)
    np.testing.assert_allclose(found, before["weight"].reshape(shape) * hat + before["bias"].reshape(shape), atol=1e-5)
    after = arrays(stochastic)
    np.testing.assert_allclose(after["running_mean"], 0.9 * known[0] + 0.1 * m, rtol=1e-5)
    np.testing.assert_allclose(after["running_var"], 0.9 * known[1] + 0.1 * v * count / (count - 1), rtol=1e-5)


@pytest.mark.parametrize("dims", NORMS)
def test_stochnorm_of_probability_one_and_in_evaluation_is_batch_norm_bit_for_bit(dims):
    norm, values = norm_of(dims)
    peer, stochastic = deepcopy(norm), StochNorm(norm, 1.0)
    assert torch.equal(stochastic.train()(values), peer.train()(values))
    assert all(torch.equal(of, peer.state_dict()[name]) for name, of in stochastic.state_dict().items())
    assert torch.equal(StochNorm(norm, 0.3).eval()(values), norm.eval()(values))
    assert stochastic.state_dict().keys() == peer.state_dict().keys()


def test_gradients_of_stochnorm_go_through_both_ways():
    norm, values = norm_of(2)
    values = values[:3, :, :2, :2].double().requires_grad_()

    def passed(of):
        torch.manual_seed(0)
        return StochNorm(deepcopy(norm).double(), 0.5).train()(of)

    assert torch.autograd.gradcheck(passed, values)


def test_batch_norms_are_replaced_for_training_and_put_back_with_their_statistics():
    encoder = network_of(Small()).encoder
    plain, images = deepcopy(encoder), noise(4, 1, 8, 8)
    names = stochastic_places(encoder)
    assert names == ["first.1", "second.1"]
    parameters = {name: id(of) for name, of in encoder.named_parameters()}
    before = make_stochastic(encoder, 0.5, names)
    assert {name: id(of) for name, of in encoder.named_parameters()} == parameters
    encoder.train()(images)
    make_ordinary(encoder, before)
    assert [type(of) for of in encoder.modules()] == [type(of) for of in plain.modules()]
    assert encoder.first[1].num_batches_tracked == plain.first[1].num_batches_tracked + 1
    assert not torch.equal(encoder.first[1].running_mean, plain.first[1].running_mean)
    assert {name: id(of) for name, of in encoder.named_parameters()} == parameters


def tuner_of(encoder: nn.Module, **tuning) -> Tuner:
    """A started tuner of a network with one head."""
    spec = {"name": "finetune", "strategy": "full", "epochs": 4, "tuning": Tuning(**tuning).model_dump()}
    tuner = Tuner(network_of(encoder, sex=2), spec, seed=0)
    tuner.start()
    return tuner


def stochastic(tuner: Tuner, epoch: int) -> list[str]:
    """The layers that choose in an epoch."""
    tuner.set_epoch(epoch)
    return [name for name, of in tuner.encoder.named_modules() if isinstance(of, StochNorm) and of.training]


def test_stochnorm_goes_with_what_trains_and_with_statistics_from_before():
    assert stochastic(tuner_of(Small(), stochnorm=0.5), 1) == ["first.1", "second.1"]
    assert stochastic(tuner_of(Small(), stochnorm=0.5, freeze_up_to="second"), 1) == ["second.1"]
    tuner = tuner_of(Small(), stochnorm=0.5, unfreeze=1)
    assert [stochastic(tuner, epoch) for epoch in (1, 2, 3)] == [[], ["second.1"], ["first.1", "second.1"]]
    assert stochastic(tuner_of(Small(), stochnorm=0.5, reinitialise=1), 1) == ["first.1"]
    tuner.finish()
    assert not any(isinstance(of, StochNorm) for of in tuner.encoder.modules())


def test_stochnorm_needs_batch_norms_that_train():
    with pytest.raises(InputError, match="tuning.stochnorm: the encoder has no batch norm"):
        tuner_of(Flat(), stochnorm=0.5)
    lora = {"class_path": "LoRA", "init_args": {"rank": 1}}
    with pytest.raises(InputError, match="tuning.stochnorm: no batch norm .* ever trains"):
        tuner_of(Small(), stochnorm=0.5, adapter=lora)
    for strategy in ("scratch", "frozen", "direct"):
        (problem,) = tuning_problems(Tuning(stochnorm=0.5).model_dump(), strategy, "tuning")
        assert problem.where == "tuning.stochnorm"
    (problem,) = tuning_problems(Tuning(stochnorm=0.5, only="bias").model_dump(), "full", "tuning")
    assert problem.where == "tuning.stochnorm" and "running statistics" in problem.message
    assert not tuning_problems(Tuning(stochnorm=0.5, only="norm").model_dump(), "full", "tuning")


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
