"""The sum that training minimises: its primary term, its weights and ramps, and terms that change nothing."""

import json
import math
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from training_jobs import make_people, make_store, pack_job, roles, stage, trial_line
from training_jobs import objective as said

from tlimb.architectures.build import build_network
from tlimb.architectures.weights import read_weights
from tlimb.config import Objective as Config
from tlimb.config import Ramp
from tlimb.data.augment.mixup import Mixed
from tlimb.data.bins import Bins
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.objectives.mean_squared_error import MeanSquaredError
from tlimb.objectives.objective import Objective, build_objective
from tlimb.objectives.ramp import CURVES, weight_at
from tlimb.objectives.term import Step, Term
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.results import Settings

SMALL = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
AGE = Target("age", "regression", (), 50.0, 10.0)
SEX = Target("sex", "classification", ("f", "m", "x"))
BINNED = Target("age", "regression", (), 50.0, 10.0, Bins(30.0, 70.0, 2.0, 1.5))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe", "fatal"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion", "tumour"))
RELAPSE = Target("relapse", "survival")
PLAIN = said({})
NAN = float("nan")
L1 = {"class_path": "torch.nn.modules.loss.L1Loss", "init_args": {}}


@pytest.fixture
def network():
    return build_network(SMALL, (1, 16, 16), {"age": 1, "sex": 3}, 0)


def step_of(network, images, labels, **changes) -> Step:
    return Step(network, images, labels, labelled=len(images), **changes)


def primary_of(target, output, label) -> float:
    return float(build_objective(PLAIN, [target]).primary({target.name: output}, [label]))


def test_primary_is_the_mean_over_targets_of_squared_error_and_cross_entropy():
    random = np.random.default_rng(0)
    age, sex, truth = random.normal(size=(5, 1)), random.normal(size=(5, 3)), random.normal(size=5)
    classes = np.array([0, 2, 1, 1, 0])
    logs = sex - np.log(np.exp(sex).sum(axis=1, keepdims=True))
    expected = (np.mean((age[:, 0] - truth) ** 2) - logs[np.arange(5), classes].mean()) / 2
    outputs = {"age": torch.tensor(age), "sex": torch.tensor(sex)}
    labels = [torch.tensor(truth), torch.tensor(classes, dtype=torch.float64)]
    assert float(build_objective(PLAIN, [AGE, SEX]).primary(outputs, labels)) == pytest.approx(expected, rel=1e-12)


def test_missing_labels_count_nowhere_and_give_no_gradient():
    age, sex = torch.tensor([[1.0], [2.0], [9.0]], requires_grad=True), torch.zeros(3, 3, requires_grad=True)
    labels = [torch.tensor([0.0, 0.0, NAN]), torch.full((3,), NAN)]
    loss = build_objective(PLAIN, [AGE, SEX]).primary({"age": age, "sex": sex}, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
    assert age.grad[2] == 0 and not sex.grad.any()


def test_a_batch_without_any_label_costs_nothing():
    assert primary_of(AGE, torch.ones(2, 1), torch.full((2,), NAN)) == 0


def test_another_loss_of_torch_may_be_the_primary_term():
    loss = build_objective(said({"primary": L1}), [AGE])
    assert float(loss.primary({"age": torch.tensor([[3.0], [-1.0]])}, [torch.tensor([0.0, 0.0])])) == 2


def test_another_loss_of_torch_may_teach_several_classes_at_once():
    spec = {"primary": {"class_path": "torch.nn.modules.loss.MSELoss", "init_args": {}}}
    outputs, labels = {"findings": torch.tensor([[1.0, 0, 0], [0, 0, 0]])}, [torch.tensor([[0.0, 0, 0], [1, 1, 0]])]
    assert float(build_objective(said(spec), [FINDINGS]).primary(outputs, labels)) == pytest.approx(3 / 6)


def test_each_target_may_have_a_loss_of_its_own_and_the_others_the_usual_one():
    outputs = {"age": torch.tensor([[3.0], [-1.0]]), "sex": torch.randn(2, 3)}
    labels = [torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0])]
    usual = build_objective(PLAIN, [AGE, SEX]).each(outputs, labels)
    huber = {"class_path": "Huber", "init_args": {"delta": 2.0}}
    own = build_objective(said({"primary": {"age": huber}}), [AGE, SEX]).each(outputs, labels)
    assert float(own["age"]) == pytest.approx((2 * (3 - 1) + 0.5) / 2)
    assert float(own["sex"]) == float(usual["sex"])


def test_every_kind_learns_together_with_any_other():
    targets = [BINNED, GRADE, FINDINGS, RELAPSE, SEX]
    outputs = {target.name: torch.randn(4, target.outputs, requires_grad=True) for target in targets}
    labels = [torch.zeros(4), torch.ones(4), torch.ones(4, 3), torch.tensor([1.0, -2, 3, 4]), torch.zeros(4)]
    whole = build_objective(PLAIN, targets).primary(outputs, labels)
    whole.backward()
    alone = [primary_of(one, outputs[one.name].detach(), label) for one, label in zip(targets, labels)]
    assert float(whole.detach()) == pytest.approx(np.mean(alone), rel=1e-6)
    assert all(outputs[target.name].grad.any() for target in targets)


def mixed_by_hand(label, seed=3) -> Mixed:
    """Labels mixed with the next image's."""
    weight = torch.tensor(np.random.default_rng(seed).uniform(size=len(label)))
    return Mixed([label], [label.roll(-1)], weight)


def test_mixed_labels_weigh_the_losses_of_both_labels():
    random = np.random.default_rng(0)
    age, sex = random.normal(size=(5, 1)), random.normal(size=(5, 3))
    truth, classes = random.normal(size=5), np.array([0, 2, 1, 1, 0])
    weight, other = random.uniform(size=5), np.array([3, 0, 2, 4, 1])
    logs = sex - np.log(np.exp(sex).sum(axis=1, keepdims=True))
    squares = weight * (age[:, 0] - truth) ** 2 + (1 - weight) * (age[:, 0] - truth[other]) ** 2
    entropies = -weight * logs[np.arange(5), classes] - (1 - weight) * logs[np.arange(5), classes[other]]
    labels = [torch.tensor(truth), torch.tensor(classes, dtype=torch.float64)]
    mixed = Mixed(labels, [label[other] for label in labels], torch.tensor(weight))
    value = build_objective(PLAIN, [AGE, SEX]).primary({"age": torch.tensor(age), "sex": torch.tensor(sex)}, mixed)
    assert float(value) == pytest.approx((squares.mean() + entropies.mean()) / 2, rel=1e-12)


def test_mixed_labels_of_weighted_classes_divide_by_the_weights_of_both():
    random = np.random.default_rng(1)
    sex, classes, other = random.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0]), np.array([3, 0, 2, 4, 1])
    weight, heavy = random.uniform(size=5), np.array([0.5, 1.0, 4.0])
    logs = sex - np.log(np.exp(sex).sum(axis=1, keepdims=True))
    own, partner = weight * heavy[classes], (1 - weight) * heavy[classes[other]]
    total = -(own * logs[np.arange(5), classes] + partner * logs[np.arange(5), classes[other]]).sum()
    label = torch.tensor(classes, dtype=torch.float64)
    spec = {"primary": {"class_path": "CrossEntropy", "init_args": {"class_weights": [0.5, 1.0, 4.0]}}}
    mixed = Mixed([label], [label[other]], torch.tensor(weight))
    value = build_objective(said(spec), [SEX]).primary({"sex": torch.tensor(sex)}, mixed)
    assert float(value) == pytest.approx(total / (own + partner).sum(), rel=1e-6)


def test_squared_error_and_cross_entropy_of_mixed_labels_have_the_gradient_of_mixing_the_labels():
    for target, label, loss in (
        (AGE, torch.randn(6, dtype=torch.float64), lambda out, soft: (out[:, 0] - soft).square().mean()),
        (SEX, torch.tensor([0.0, 1, 2, 0, 1, 1]), lambda out, soft: -(out.log_softmax(1) * soft).sum(1).mean()),
    ):
        mixed = mixed_by_hand(label)
        outputs = torch.randn(6, target.outputs, dtype=torch.float64, requires_grad=True)
        build_objective(PLAIN, [target]).primary({target.name: outputs}, mixed).backward()
        own, partner, weight = mixed.labels[0], mixed.partner[0], mixed.weight
        if target is SEX:
            own, partner = (torch.eye(3, dtype=torch.float64)[side.long()] for side in (own, partner))
            weight = weight[:, None]
        again = outputs.detach().clone().requires_grad_()
        loss(again, weight * own + (1 - weight) * partner).backward()
        torch.testing.assert_close(outputs.grad, again.grad)


def test_a_missing_label_of_a_pair_leaves_the_other_ones_share():
    own, partner = torch.tensor([1.0, NAN, 0.0]), torch.tensor([NAN, NAN, 2.0])
    mixed = Mixed([own], [partner], torch.tensor([0.7, 0.5, 0.4]))
    outputs = torch.zeros(3, 1, requires_grad=True)
    loss = build_objective(PLAIN, [AGE]).primary({"age": outputs}, mixed)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.7 * 1 + 0.4 * 0 + 0.6 * 4) / (0.7 + 0.4 + 0.6))
    assert outputs.grad.isfinite().all() and outputs.grad[1] == 0


def test_the_share_of_a_label_stays_small_where_it_is_the_only_one():
    mixed = Mixed([torch.tensor([3.0])], [torch.tensor([NAN])], torch.tensor([0.01]))
    assert float(build_objective(PLAIN, [AGE]).primary({"age": torch.zeros(1, 1)}, mixed)) == pytest.approx(0.09)


def test_images_that_are_not_mixed_cost_what_they_did():
    label, outputs = torch.randn(6), torch.randn(6, 1)
    mixed = Mixed([label], [label.flip(0)], torch.ones(6))
    value = float(build_objective(PLAIN, [AGE]).primary({"age": outputs}, mixed))
    assert value == pytest.approx(primary_of(AGE, outputs, label), rel=1e-6)


def test_mixed_labels_of_soft_bins_and_ordered_and_several_classes_weigh_both_losses():
    labels = torch.randn(5), torch.tensor([0.0, 1, 2, 3, 1]), torch.eye(5)[:, :3]
    for target, label in zip((BINNED, GRADE, FINDINGS), labels):
        output, mixed = torch.randn(5, target.outputs), mixed_by_hand(label)
        own, other = (
            np.array([primary_of(target, output[[i]], side[[i]]) for i in range(5)])
            for side in (mixed.labels[0], mixed.partner[0])
        )
        weight = mixed.weight.numpy()
        expected = (weight * own + (1 - weight) * other).mean()
        value = float(build_objective(PLAIN, [target]).primary({target.name: output}, mixed))
        assert value == pytest.approx(expected, rel=1e-5)


def test_times_until_an_event_cannot_be_mixed():
    with pytest.raises(InputError, match="no mixture"):
        build_objective(PLAIN, [RELAPSE]).primary({"relapse": torch.zeros(5, 1)}, mixed_by_hand(torch.ones(5)))


def test_auxiliary_terms_do_not_see_the_mixing(network):
    objective = build_objective(said({"auxiliary": [{"class_path": "L1Weights"}]}), [AGE])
    images, label = torch.randn(4, 1, 16, 16), torch.randn(4)
    plain = objective(step_of(network, images, [label]))
    mixed = objective(step_of(network, images, mixed_by_hand(label)))
    assert float(mixed["l1weights"].detach()) == float(plain["l1weights"].detach()) > 0
    assert float(mixed["primary"].detach()) != float(plain["primary"].detach())


def test_the_objective_names_its_terms_in_order_and_weighs_them(network):
    terms = [{"class_path": "L1Weights", "weight": 0.25}, {"class_path": "L1Weights"}, {"class_path": "L1Weights"}]
    objective = build_objective(said({"primary_weight": 3.0, "auxiliary": terms}), [AGE, SEX])
    found = objective(step_of(network, torch.randn(4, 1, 16, 16), [torch.zeros(4), torch.zeros(4)]))
    values = {name: value.detach() for name, value in found.items()}
    assert list(values) == ["primary", "l1weights", "l1weights_2", "l1weights_3"]
    weights = sum(float(of.detach().abs().sum()) for name, of in network.named_parameters() if "bias" not in name)
    assert float(values["l1weights"]) == pytest.approx(0.25 * weights, rel=1e-5)
    assert float(values["l1weights_2"]) == pytest.approx(1e-6 * weights, rel=1e-5)
    each = [float(value) for value, _ in objective.last.values()]
    assert float(values["primary"]) == pytest.approx(3 * np.mean(each), rel=1e-6)


def test_the_last_loss_of_each_of_several_targets_is_kept(network):
    objective = build_objective(PLAIN, [AGE, SEX])
    images, labels = torch.randn(4, 1, 16, 16), [torch.tensor([0.5, NAN, 1, 2]), torch.full((4,), NAN)]
    objective(step_of(network, images, labels))
    (loss, scans), names = objective.last["age"], list(objective.last)
    expected = (network(images)["age"][:, 0] - labels[0])[[0, 2, 3]].square().mean().detach()
    assert names == ["age"] and int(scans) == 3 and not loss.requires_grad
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    alone = build_objective(PLAIN, [AGE])
    alone(step_of(network, images, labels[:1]))
    assert alone.last == {}


def test_the_mixed_mode_of_trans_mri_is_a_weight_of_the_primary_term_and_one_of_reconstruction():
    alpha, images, classes = 0.7, torch.randn(4, 1, 16, 16), torch.tensor([0.0, 2, 1, 0])
    term = {"class_path": "Reconstruction", "weight": alpha}
    objective = build_objective(said({"primary_weight": 1 - alpha, "auxiliary": [term]}), [SEX])
    network = build_network(SMALL, (1, 16, 16), {"sex": 3}, 0, heads=objective.heads()).eval()
    values = objective(step_of(network, images, [classes]))
    outputs = {name: output.detach().double().numpy() for name, output in network(images).items()}
    mse = np.mean((outputs["reconstruction"] - images.double().numpy()) ** 2)
    logs = outputs["sex"] - np.log(np.exp(outputs["sex"]).sum(axis=1, keepdims=True))
    entropy = -logs[np.arange(4), classes.long().numpy()].mean()
    assert float(sum(values.values()).detach()) == pytest.approx(alpha * mse + (1 - alpha) * entropy, rel=1e-6)


@pytest.mark.parametrize("until", [1.0, 0.3])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.7), (3.3, 0.0)])
@pytest.mark.parametrize("curve", CURVES)
def test_a_ramp_is_exact_at_its_ends(curve, start, end, until):
    ends = {"sigmoid": (math.exp(-5), 1.0), "dann": (0.0, 2 / (1 + math.exp(-10)) - 1)}.get(curve, (0.0, 1.0))
    ramp = Ramp(ramp=curve, start=start, end=end, until=until).model_dump()
    first, last = ((1 - share) * start + share * end for share in ends)
    assert weight_at(ramp, 0.0) == first
    assert weight_at(ramp, until) == weight_at(ramp, 1.0) == last
    assert (first == start) == (curve != "sigmoid") and (last == end) == (curve != "dann" or end == 0 == start)


@pytest.mark.parametrize(
    ("curve", "middle"),
    [
        ("linear", 0.25),
        ("cosine", (1 - math.cos(math.pi / 4)) / 2),
        ("sigmoid", math.exp(-5 * 0.75**2)),
        ("dann", 2 / (1 + math.exp(-2.5)) - 1),
        ("step", 0.0),
    ],
)
def test_a_ramp_follows_its_curve_in_between_and_never_falls_on_its_way_up(curve, middle):
    ramp = Ramp(ramp=curve, start=1.0, end=3.0, until=0.8).model_dump()
    assert weight_at(ramp, 0.2) == pytest.approx(1 + 2 * middle, rel=1e-12)
    values = [weight_at(ramp, progress) for progress in np.linspace(0, 1, 201)]
    assert values == sorted(values)


def test_a_number_is_a_weight_that_stays():
    assert weight_at(0.3, 0.0) == weight_at(0.3, 0.5) == weight_at(0.3, 1.0) == 0.3


class Counted(Term):
    """A term that draws, and remembers how often it was asked."""

    heads = {"code": {"class_path": "CodeHead", "init_args": {}}}
    asked = 0

    def forward(self, step: Step) -> Tensor:
        Counted.asked += 1
        return step.network.head("age").weight.square().sum() * torch.rand(())


def test_a_term_is_not_asked_while_its_weight_is_0(network):
    later = Ramp(ramp="step", until=0.5).model_dump()
    objective = Objective([AGE], {"age": MeanSquaredError()}, {"counted": (Counted(), later)})
    images, label = torch.randn(4, 1, 16, 16), [torch.randn(4)]
    asked = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        before = Counted.asked
        values = objective(step_of(network, images, label, progress=progress))
        asked.append((list(values), Counted.asked - before))
    assert asked == [(["primary"], 0)] * 2 + [(["primary", "counted"], 1)] * 2


def test_what_a_term_draws_follows_from_its_name_and_the_batch_alone(network):
    def value(before, seed=5):
        torch.manual_seed(seed)
        terms = {name: (Counted(), 1.0) for name in (*before, "counted")}
        objective = Objective([AGE], {"age": MeanSquaredError()}, terms)
        return objective(step_of(network, torch.ones(2, 1, 16, 16), [torch.zeros(2)]))["counted"].item()

    assert value([]) == value(["other"]) != value([], seed=6)


def test_a_step_in_which_all_weights_are_0_costs_nothing_and_has_gradients_of_0(network):
    later = Ramp(start=0.0, end=1.0).model_dump()
    objective = build_objective(said({"primary_weight": later}), [AGE])
    total = sum(objective(step_of(network, torch.randn(2, 1, 16, 16), [torch.zeros(2)])).values())
    total.backward()
    assert total.item() == 0 and not network.encoder.conv1.weight.grad.any()


class Says(torch.nn.Module):
    """A term, a loss or a combination that gives what it was made with."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *anything):
        return self.value


@pytest.mark.parametrize(("value", "found"), [(None, "None"), (torch.zeros(2, 3), r"a tensor of shape \(2, 3\)")])
@pytest.mark.parametrize("place", ["auxiliary", "combine", "on_images"])
def test_what_is_no_scalar_is_said_with_the_name_of_its_class(network, place, value, found):
    given = {"losses": {"age": MeanSquaredError()}, "auxiliary": {}}
    given |= {"auxiliary": {"own": (Says(value), 1.0)}} if place == "auxiliary" else {place: Says(value)}
    with pytest.raises(TypeError, match=rf"test_objectives\.Says: expected a scalar tensor, found {found}"):
        Objective([AGE], **given)(step_of(network, torch.ones(2, 1, 16, 16), [torch.zeros(2)]))


@pytest.mark.parametrize("value", [None, torch.zeros(()), torch.zeros(3), torch.zeros(2, 2, 2)])
def test_a_loss_that_is_not_one_for_each_scan_is_said_with_the_name_of_its_class(value):
    with pytest.raises(TypeError, match=r"test_objectives\.Says: expected a loss for each of 2 scans"):
        Objective([AGE], {"age": Says(value)}, {}).primary({"age": torch.ones(2, 1)}, [torch.zeros(2)])


class Early(Counted):
    """A term that looks on while the images pass."""

    @contextmanager
    def around_pass(self, step: Step):
        self.before = "passed" in vars(step)
        yield
        self.after = "passed" in vars(step)


def test_a_term_may_look_at_the_pass_while_it_has_a_weight(network):
    for weight, saw in ((1.0, (False, True)), (0.0, (None, None))):
        term = Early()
        objective = Objective([AGE], {"age": MeanSquaredError()}, {"early": (term, weight)})
        objective(step_of(network, torch.ones(2, 1, 16, 16), [torch.zeros(2)]))
        assert (getattr(term, "before", None), getattr(term, "after", None)) == saw


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"primary_weight": -1.0}, r"objective.primary_weight: expected a number of at least 0, found -1"),
        ({"primary_weight": 0.0}, r"objective: all weights are 0"),
        ({"primary_weight": 0.0, "auxiliary": [{"class_path": "L1Weights", "weight": 0}]}, r"all weights are 0"),
        ({"auxiliary": [{"class_path": "L1Weights", "weight": NAN}]}, r"objective.auxiliary\[0\].weight: .*found nan"),
        (
            {"auxiliary": [{"class_path": "L1Weights", "weight": {"ramp": "step", "start": -1, "end": 1, "until": 1}}]},
            r"auxiliary\[0\].weight: .*found -1",
        ),
        ({"combine": {"class_path": "PCGrad", "init_args": {}}}, r"objective.combine: .*two or more.*the stage has 1"),
        ({"primary": L1 | {"init_args": {"reduction": "sum"}}}, r"init_args.reduction: is always the mean"),
    ],
)
def test_weights_and_terms_that_make_no_sense_are_said_with_their_path(spec, message):
    with pytest.raises(InputError, match=message):
        build_objective(said(spec), [AGE])


def test_all_problems_of_an_objective_are_said_at_once():
    wrong = {
        "primary": {"age": {"class_path": "Huber", "init_args": {"delta": -1}}},
        "primary_weight": NAN,
        "auxiliary": [{"class_path": "Reconstruction", "init_args": {"loss": "l1", "masked": 2.0}}],
        "combine": {"class_path": "WeightedSum", "init_args": {"weights": {"sex": -1}}},
    }
    with pytest.raises(InputError) as raised:
        build_objective(said(wrong), [AGE, SEX])
    assert len(raised.value.problems) >= 4


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("L2SP", {"alpha": -1.0, "beta": NAN}, ["alpha", "beta"]),
        ("DELTA", {"scans": 0}, ["scans"]),
        ("BSS", {"k": 0}, ["k"]),
        ("FeatureDistillation", {"temperature": -1.0}, ["temperature"]),
        ("MaskedAutoencoder", {"masked": 2.0, "depth": 0}, ["masked", "depth"]),
        ("MaskedAutoencoder", {"width": 30}, ["width"]),
        ("Reconstruction", {"masked": 1.0, "patch": 0}, ["masked", "patch"]),
        ("TransformPrediction", {"scale": 2.0, "shear": -1.0}, ["shear", "scale"]),
        ("TransformPrediction", dict.fromkeys(("degrees", "scale", "shear", "translation"), 0.0), ["degrees"]),
        ("SimCLR", {"temperature": -1.0}, ["temperature"]),
        ("BYOL", {"momentum": 2.0}, ["momentum"]),
        ("MMD", {"kernels": 0}, ["kernels"]),
        ("MDD", {"gamma": 0.0}, ["gamma"]),
        ("MeanTeacher", {"decay": 2.0}, ["decay"]),
        ("FixMatch", {"threshold": 2.0}, ["threshold"]),
        ("AdversarialRemoval", {"column": "site", "width": 0}, ["width"]),
    ],
)
def test_arguments_of_terms_out_of_range_are_said_with_their_path(name, arguments, wrong):
    spec = said({"auxiliary": [{"class_path": name, "init_args": arguments}]})
    with pytest.raises(InputError) as raised:
        build_objective(spec, [AGE])
    places = [f"objective.auxiliary[0].init_args.{argument}" for argument in wrong]
    assert [problem.where for problem in raised.value.problems] == places


@pytest.mark.parametrize("name", ["primary", "loss", "combine"])
def test_a_class_may_bear_a_name_that_means_something_else_in_the_history(name, monkeypatch):
    monkeypatch.setattr("tlimb.objectives.objective.registry.class_name", lambda spec: name.title())
    objective = build_objective(said({"auxiliary": [{"class_path": "L1Weights"}]}), [AGE])
    assert list(objective.terms) == [f"{name}_2"]


def test_a_term_of_weight_0_leaves_model_and_history_as_they_are_without_it(tmp_path):
    set_up_torch(1, training=True)
    people = make_people("clinic", 20)
    make_store(tmp_path / "store", people)
    ramp = {"ramp": "step", "start": 0.0, "end": 0.0, "until": 1.0}
    terms = {
        "none": [],
        "zero": [{"class_path": "Reconstruction", "weight": 0}, {"class_path": "L1Weights", "weight": 0}],
        "never": [{"class_path": "Reconstruction", "weight": ramp}],
        "late": [{"class_path": "L1Weights", "weight": ramp | {"end": 1e-3}}],
    }
    stages = [stage("finetune", "diagnosis", strategy="scratch", objective={"auxiliary": of}) for of in terms.values()]
    trials = [trial_line(of) for of in stages]
    pack_job(tmp_path / "job", roles(people, 5, 5), trials)
    finetune(tmp_path / "job", tmp_path / "store", tmp_path, tmp_path / "models", Settings(torch.device("cpu")))
    models = {name: tmp_path / "models" / trial["id"] for name, trial in zip(terms, trials)}
    tensors = {name: read_weights(folder / "model.safetensors") for name, folder in models.items()}
    histories = {name: pd.read_csv(of / "history.csv").drop(columns="seconds") for name, of in models.items()}
    bits = {name: {key: one.numpy().tobytes() for key, one in of.items()} for name, of in tensors.items()}
    assert bits["zero"] == bits["none"] == bits["never"] != bits["late"]
    for name in ("zero", "never"):
        pd.testing.assert_frame_equal(histories[name], histories["none"], check_exact=True)
    late, plain = histories["late"], histories["none"]
    pd.testing.assert_frame_equal(late[plain.columns].iloc[:1], plain.iloc[:1], check_exact=True)
    assert late["train_l1weights"].isna().tolist() == [True, False]


def examples() -> list[dict]:
    """The objectives that docs/objectives.md shows, as a sweep reads them."""
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text()
    blocks = [json.loads("{" + block + "}") for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    return [block["objective"] for block in blocks]


@pytest.mark.parametrize("place", range(len(examples())))
def test_the_examples_of_the_docs_are_objectives(place):
    targets = [AGE, Target("diagnosis", "classification", ("control", "patient"), counts=(6, 3))]
    spec = Config.model_validate(examples()[place]).model_dump()
    two = spec["combine"] is not None or "diagnosis" in (spec["primary"] or {})
    assert build_objective(spec, targets if two else targets[:1]).weights == [of["weight"] for of in spec["auxiliary"]]
