"""Ways to combine the losses of several targets against their papers' formulas in NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from training_jobs import make_people, make_store, pack_job, roles, stage, trial_line
from training_jobs import objective as said

from tlimb.architectures.network import Network
from tlimb.data.bins import Bins
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.objectives.gradnorm import LEAST, blocks_from_the_end, weight_gradient
from tlimb.objectives.objective import build_objective
from tlimb.objectives.pcgrad import PCGrad, without_conflicts
from tlimb.objectives.term import Step
from tlimb.objectives.uncertainty_weighting import UncertaintyWeighting
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings

AGE = Target("age", "regression", (), 50.0, 10.0)
HEIGHT = Target("height", "regression", (), 170.0, 8.0)
SEX = Target("sex", "classification", ("f", "m", "x"))
TARGETS = (AGE, SEX, HEIGHT)
NAN = float("nan")
ALL = ("WeightedSum", "UncertaintyWeighting", "GradNorm", "PCGrad")


class Dense(nn.Module):
    """An encoder of two layers."""

    dims, features, blocks = 1, 4, ("first", "second", "end")

    def __init__(self):
        super().__init__()
        self.first, self.second, self.end = nn.Linear(6, 5), nn.Linear(5, 4), nn.Tanh()

    def forward(self, images):
        return self.end(self.second(self.first(images).tanh()))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(Dense(), {"age": nn.Linear(4, 1), "sex": nn.Linear(4, 3), "height": nn.Linear(4, 1)}).double()


def labels_of(n=8):
    random = np.random.default_rng(1)
    drawn = random.normal(size=n), random.integers(0, 3, n), random.normal(size=n)
    return [torch.tensor(each).double() for each in drawn]


def step_of(network, labels, seed=2, **changes) -> Step:
    images = torch.tensor(np.random.default_rng(seed).normal(size=(len(labels[0]), 6)))
    return Step(network, images, labels, labelled=len(images), **changes)


def combined(name, targets=TARGETS, **arguments):
    return build_objective(said({"combine": {"class_path": name, "init_args": arguments}}), targets)


def gradients_of(loss, parameters) -> np.ndarray:
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    each = [torch.zeros_like(of) if one is None else one for one, of in zip(found, parameters)]
    return torch.cat([one.flatten() for one in each]).numpy()


def after_backward(network, value) -> tuple[np.ndarray, np.ndarray]:
    """The gradients that training would see, of the encoder and of the heads."""
    network.zero_grad()
    value.backward()
    sides = [[of.grad for of in side.parameters() if of.grad is not None] for side in (network.encoder, network.heads)]
    return tuple(torch.cat([one.flatten() for one in side]).numpy() for side in sides)


def each_of(network, step) -> dict:
    return build_objective(said({}), TARGETS).each(network(step.images), step.labels)


def test_a_weighted_sum_is_one_and_targets_without_a_label_are_left_out_of_it(network):
    objective, labels = combined("WeightedSum", weights={"age": 0.25, "height": 3}), labels_of()
    each = {name: float(loss.detach()) for name, loss in each_of(network, step_of(network, labels)).items()}
    value = float(objective(step_of(network, labels))["primary"].detach())
    assert value == pytest.approx(0.25 * each["age"] + each["sex"] + 3 * each["height"], rel=1e-12)
    assert float(objective.primary(network(step_of(network, labels).images), labels).detach()) == pytest.approx(value)
    labels[1] = torch.full((8,), NAN)
    value = float(objective(step_of(network, labels))["primary"].detach())
    assert value == pytest.approx(0.25 * each["age"] + 3 * each["height"], rel=1e-12)


@pytest.mark.parametrize(
    ("combine", "where", "message"),
    [
        ({"class_path": "WeightedSum", "init_args": {"weights": {"ages": 1}}}, "weights.ages", "did you mean 'age'"),
        ({"class_path": "WeightedSum", "init_args": {"weights": {"age": -1}}}, "weights.age", "found -1"),
        ({"class_path": "WeightedSum", "init_args": {"weights": {"age": NAN}}}, "weights.age", "found nan"),
        ({"class_path": "WeightedSum", "init_args": {}}, "weights", "missing"),
        (
            {"class_path": "WeightedSum", "init_args": {"weights": {"age": 0, "sex": 0, "height": 0}}},
            "weights",
            "all are 0",
        ),
        ({"class_path": "GradNorm", "init_args": {"alpha": -0.1}}, "alpha", "at least 0"),
        ({"class_path": "GradNorm", "init_args": {"lr": 0}}, "lr", "above 0"),
        ({"class_path": "GradNorm", "init_args": {"lr": NAN}}, "lr", "found nan"),
    ],
)
def test_arguments_that_make_no_sense_are_said_with_their_path(combine, where, message):
    with pytest.raises(InputError) as raised:
        build_objective(said({"combine": combine}), TARGETS)
    assert [problem.where for problem in raised.value.problems] == [f"objective.combine.init_args.{where}"]
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_combined_where_there_is_one_target(name):
    with pytest.raises(InputError, match=r"objective.combine: .*two or more targets, and the stage has 1"):
        combined(name, [AGE], **({"weights": {"age": 1}} if name == "WeightedSum" else {}))


def test_uncertainty_weighting_is_the_papers_sum_and_its_gradient(network):
    objective, labels = combined("UncertaintyWeighting"), labels_of()
    s = np.array([0.3, -0.7, 1.1])
    objective.combine.double().log_variances.data = torch.tensor(s)
    each = np.array([float(loss.detach()) for loss in each_of(network, step_of(network, labels)).values()])
    value = objective(step_of(network, labels))["primary"]
    factors = np.array([0.5, 1, 0.5])
    assert float(value.detach()) == pytest.approx((factors * np.exp(-s) * each + s / 2).sum(), rel=1e-12)
    value.backward()
    np.testing.assert_allclose(objective.combine.log_variances.grad, -factors * np.exp(-s) * each + 0.5, rtol=1e-10)


def test_the_learned_uncertainty_of_constant_losses_is_the_best_one():
    binned = Target("bins", "regression", (), 50.0, 10.0, Bins(30.0, 70.0, 2.0, 1.5))
    combine = UncertaintyWeighting(targets=(AGE, SEX, binned))
    losses = {"age": torch.tensor(0.2), "sex": torch.tensor(1.5), "bins": torch.tensor(0.7)}
    optimiser = torch.optim.Adam(combine.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        combine(losses, None).backward()
        optimiser.step()
    expected = np.log([2 * 0.5 * 0.2, 2 * 1.5, 2 * 0.7])
    np.testing.assert_allclose(combine.log_variances.detach(), expected, atol=1e-3)


def test_the_uncertainty_of_a_target_without_a_label_stays_as_it_is(network):
    objective, labels = combined("UncertaintyWeighting"), labels_of()
    labels[0] = torch.full((8,), NAN)
    objective(step_of(network, labels))["primary"].backward()
    assert objective.combine.log_variances.grad[0] == 0 and objective.combine.log_variances.grad[1:].all()


def surgery(gradients, orders) -> np.ndarray:
    """The paper's algorithm 1, one number after the other."""
    projected = []
    for i, own in enumerate(gradients):
        g = own.copy()
        for j in orders[i]:
            if j != i and g @ gradients[j] < 0:
                g = g - (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        projected.append(g)
    return np.array(projected)


def projected(gradients):
    return without_conflicts(gradients @ gradients.T) @ gradients


def test_gradient_surgery_is_the_papers_algorithm():
    gradients = np.random.default_rng(4).normal(size=(4, 6))
    torch.manual_seed(7)
    orders = [torch.randperm(4).tolist() for _ in range(4)]
    torch.manual_seed(7)
    found = projected(torch.tensor(gradients)).numpy()
    np.testing.assert_allclose(found, surgery(gradients, orders), rtol=1e-10)
    assert not np.allclose(found, gradients)


def test_two_gradients_lose_their_conflict_and_others_stay():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    found = projected(g)
    assert torch.equal(found, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert (found @ g.T >= 0).all()
    alike = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(projected(alike), alike)
    with_nothing = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert torch.equal(projected(with_nothing), with_nothing)


def opposed(n=8):
    """Labels of two quantities of which one is the other with its sign turned, and of classes."""
    labels = labels_of(n)
    return [labels[0], labels[1], -3 * labels[0] + 0.1]


def test_the_gradient_of_pcgrad_is_the_surgery_in_the_encoder_and_the_mean_in_the_heads(network):
    network.head("height").load_state_dict(network.head("age").state_dict())
    step = step_of(network, opposed())
    each = each_of(network, step)
    gradients = np.array([gradients_of(loss, list(network.encoder.parameters())) for loss in each.values()])
    plain = after_backward(network, sum(each.values()) / 3)
    assert gradients[0] @ gradients[2] < 0
    combine = PCGrad()
    torch.manual_seed(3)
    orders = [torch.randperm(3).tolist() for _ in range(3)]
    torch.manual_seed(3)
    value = combine(each_of(network, step), step)
    encoder, heads = after_backward(network, value)
    assert float(value.detach()) == pytest.approx(float(sum(each.values()).detach()) / 3, rel=1e-12)
    np.testing.assert_allclose(encoder, surgery(gradients, orders).mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(heads, plain[1], rtol=1e-12)
    assert not np.allclose(encoder, plain[0], rtol=1e-2)


def test_a_step_of_pcgrad_raises_no_loss_of_two_targets_in_conflict_where_a_plain_step_does(network):
    network.head("height").load_state_dict(network.head("age").state_dict())
    step, pair = step_of(network, opposed()), (AGE, HEIGHT)
    step.labels = [3 * step.labels[0], 3 * step.labels[2]]
    moved = {}
    for name, objective in (("plain", build_objective(said({}), pair)), ("pcgrad", combined("PCGrad", pair))):
        before = objective.each(network(step.images), step.labels)
        start = {key: of.clone() for key, of in network.state_dict().items()}
        after_backward(network, objective(step_of(network, step.labels))["primary"])
        with torch.no_grad():
            for parameter in network.encoder.parameters():
                parameter -= 1e-3 * parameter.grad
        after = objective.each(network(step.images), step.labels)
        moved[name] = [(after[target.name] - before[target.name]).item() for target in pair]
        network.load_state_dict(start)
    assert max(moved["plain"]) > 0 > max(moved["pcgrad"])


def test_pcgrad_without_conflict_is_training_without_it_bit_for_bit(network):
    labels = labels_of()
    labels[2] = labels[0]
    network.head("height").load_state_dict(network.head("age").state_dict())
    pair, chosen = (AGE, HEIGHT), [labels[0], labels[2]]
    plain = after_backward(network, build_objective(said({}), pair)(step_of(network, chosen))["primary"])
    found = after_backward(network, combined("PCGrad", pair)(step_of(network, chosen))["primary"])
    assert all(np.array_equal(one, other) for one, other in zip(plain, found))


def test_accumulated_gradients_of_pcgrad_are_the_sum_of_those_of_its_batches(network):
    objective = combined("PCGrad")
    sums = 0.0
    for seed in (2, 3):
        torch.manual_seed(seed)
        sums = sums + after_backward(network, objective(step_of(network, opposed(), seed))["primary"])[0]
    network.zero_grad()
    for seed in (2, 3):
        torch.manual_seed(seed)
        objective(step_of(network, opposed(), seed))["primary"].backward()
    found = torch.cat([of.grad.flatten() for of in network.encoder.parameters()]).numpy()
    np.testing.assert_allclose(found, sums, rtol=1e-12)


def test_the_order_of_the_surgery_follows_from_the_batchs_seed(network):
    def gradient(seed):
        torch.manual_seed(seed)
        return after_backward(network, combined("PCGrad")(step_of(network, opposed()))["primary"])[0]

    found = [gradient(seed) for seed in range(8)]
    assert all(np.array_equal(gradient(seed), one) for seed, one in enumerate(found[:2]))


def gradnorm_by_hand(losses, norms, alpha, lr, names) -> np.ndarray:
    """Weights after steps of which losses and norms (steps, T) are given, NaN where a target has no label."""
    count = len(names)
    w, first, m, v, t = np.ones(count), np.full(count, NAN), np.zeros(count), np.zeros(count), np.zeros(count)
    for loss, norm in zip(losses, norms):
        here = ~np.isnan(loss)
        first = np.where(here & np.isnan(first), loss, first)
        length, ratio = (w * norm)[here], (loss / first)[here]
        wanted = length.mean() * (ratio / ratio.mean()) ** alpha
        gradient = np.sign(length - wanted) * norm[here]
        t[here] += 1
        m[here], v[here] = 0.9 * m[here] + 0.1 * gradient, 0.999 * v[here] + 0.001 * gradient**2
        adam = m[here] / (1 - 0.9 ** t[here]) / (np.sqrt(v[here] / (1 - 0.999 ** t[here])) + 1e-8)
        moved, total = np.maximum(w[here] - lr * adam, LEAST), w[here].sum()
        w[here] = moved * total / moved.sum()
    return w


def test_gradnorm_moves_its_weights_as_the_paper_says(network):
    objective = combined("GradNorm", alpha=0.7, lr=0.1)
    shared = list(network.encoder.second.parameters())
    losses, norms, values = [], [], []
    for number in range(5):
        labels = labels_of()
        if number in (1, 3):
            labels[number // 2] = torch.full((8,), NAN)
        step = step_of(network, labels, seed=number)
        each = each_of(network, step)
        losses.append([float(each[of.name].detach()) if of.name in each else NAN for of in TARGETS])
        lengths = {name: np.linalg.norm(gradients_of(loss, shared)) for name, loss in each.items()}
        norms.append([lengths.get(of.name, NAN) for of in TARGETS])
        before = objective.combine.weights.tolist()
        value = objective(step)["primary"]
        expected = np.nansum(np.array(before) * losses[-1]) / np.isfinite(losses[-1]).sum()
        values.append((float(value.detach()), expected))
        after_backward(network, value)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.2 * parameter.grad
    np.testing.assert_allclose(*zip(*values), rtol=1e-6)
    expected = gradnorm_by_hand(np.array(losses), np.array(norms), 0.7, 0.1, TARGETS)
    np.testing.assert_allclose(objective.combine.weights, expected, rtol=1e-4)
    assert abs(expected - 1).max() > 0.05 and expected.sum() == pytest.approx(3)


def test_the_gradient_of_the_weights_is_that_of_the_papers_loss():
    random = np.random.default_rng(0)
    w, norms, ratios = (torch.tensor(random.uniform(0.3, 2, 4)) for _ in range(3))

    def loss(weights):
        lengths = weights * norms
        wanted = (w * norms).mean() * (ratios / ratios.mean()) ** 1.5
        return (lengths - wanted).abs().sum()

    own = w.clone().requires_grad_()
    loss(own).backward()
    torch.testing.assert_close(weight_gradient(w, norms, ratios, 1.5), own.grad)


def test_gradnorm_looks_at_the_last_block_that_trains(network):
    def names():
        held = {id(of): name for name, of in network.encoder.named_parameters()}
        return [[held[id(of)] for of in block] for block in blocks_from_the_end(network)]

    first, second = ["first.weight", "first.bias"], ["second.weight", "second.bias"]
    assert names() == [second, first]
    network.encoder.second.weight.requires_grad_(False)
    assert names() == [first]
    network.encoder.first.weight.requires_grad_(False)
    assert names() == [["second.bias"], ["first.bias"]]
    network.encoder.requires_grad_(False)
    assert names() == []


def test_gradnorm_passes_over_a_block_that_no_target_comes_from(network):
    one, other, labels = combined("GradNorm"), combined("GradNorm"), labels_of()
    one(step_of(network, labels))
    network.encoder.end.aside, network.encoder.blocks = nn.Linear(3, 3), ("first", "second", "end.aside")
    other(step_of(network, labels))
    assert torch.equal(one.combine.weights, other.combine.weights)
    assert not torch.equal(one.combine.weights, torch.ones(3))


@pytest.mark.parametrize("name", ALL)
def test_combinations_stand_where_the_encoder_does_not_train_yet(network, name):
    network.encoder.requires_grad_(False)
    objective = combined(name, **({"weights": {}} if name == "WeightedSum" else {}))
    value = objective(step_of(network, labels_of()))["primary"]
    value.backward()
    assert all(of.grad.any() for of in network.heads.parameters())
    if name == "GradNorm":
        assert objective.combine.weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ALL)
def test_batches_without_a_label_of_some_or_all_targets_are_combined_all_the_same(network, name):
    objective = combined(name, **({"weights": {}} if name == "WeightedSum" else {}))
    for known in ([0, 2], [1], []):
        labels = [label if place in known else torch.full((8,), NAN) for place, label in enumerate(labels_of())]
        encoder, heads = after_backward(network, objective(step_of(network, labels))["primary"])
        assert np.isfinite(encoder).all() and np.isfinite(heads).all() and encoder.any() == bool(known)
        for place, target in enumerate(TARGETS):
            assert bool(network.head(target.name).weight.grad.any()) == (place in known)
    assert all(tensor.isfinite().all() for tensor in objective.state_dict().values())


def test_gradnorm_does_not_move_in_validation_and_its_state_goes_on_where_it_was(network):
    one, other, labels = combined("GradNorm"), combined("GradNorm"), labels_of()
    one(step_of(network, labels, seed=1))
    kept = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    one(step_of(network, labels, training=False))
    one.primary(network(step_of(network, labels).images), labels)
    assert all(torch.equal(kept[name], tensor) for name, tensor in one.state_dict().items())
    other.load_state_dict(kept)
    for objective in (one, other):
        objective(step_of(network, labels, seed=5))
    assert torch.equal(one.combine.weights, other.combine.weights)


@pytest.mark.parametrize("name", ALL[1:])
def test_the_validation_loss_is_the_plain_mean_where_weights_are_learned(network, name):
    labels = labels_of()
    outputs = network(step_of(network, labels).images)
    plain = build_objective(said({}), TARGETS).primary(outputs, labels)
    assert combined(name).primary(outputs, labels).item() == plain.item()


def test_real_stages_of_two_targets_learn_with_every_combination(tmp_path):
    set_up_torch(1, training=True)
    people = make_people("clinic", 24)
    people.loc[people.index % 3 == 0, "age"] = NAN
    make_store(tmp_path / "store", people.assign(age=people["age"].fillna(50)))
    specs = [None, *({"class_path": name, "init_args": {}} for name in ALL)]
    specs[1]["init_args"] = {"weights": {"age": 0.2}}
    data = {"labelled": {"cohort": ["any"], "modality": None, "where": {}, "n": None, "missing": "mask"}}
    trials = [
        trial_line(
            stage("both", "age", targets=["age", "diagnosis"], strategy="scratch", objective={"combine": spec}, **data)
        )
        for spec in specs
    ]
    pack_job(tmp_path / "job", roles(people, 6, 4), trials)
    finetune(tmp_path / "job", tmp_path / "store", tmp_path, tmp_path / "models", Settings(torch.device("cpu")))
    histories = []
    for trial in trials:
        about = read_json(tmp_path / "models" / trial["id"] / "model.json")
        assert about["status"] == "ok", about["reason"]
        histories.append(pd.read_csv(tmp_path / "models" / trial["id"] / "history.csv"))
    assert all(np.isfinite(history["train_loss"]).all() for history in histories)
    assert len({tuple(history["validation_loss"]) for history in histories}) == len(histories)
