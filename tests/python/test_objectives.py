"""The primary term and L2-SP against their formulas in NumPy."""

import numpy as np
import pytest
import torch

from tlimb.architectures.build import build_network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.targets import Target
from tlimb.errors import InputError
from tlimb.objectives.l2sp import L2SP
from tlimb.objectives.objective import build_objective

SMALL = {"class_path": "ResNet", "init_args": {"depth": 10, "dims": 2, "width": 0.125}}
AGE = Target("age", "regression", (), 50.0, 10.0)
SEX = Target("sex", "classification", ("f", "m", "x"))
PLAIN = {"primary": None, "auxiliary": []}


@pytest.fixture
def network():
    return build_network(SMALL, (1, 16, 16), {"age": 1, "sex": 3}, 0)


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
    labels = [torch.tensor([0.0, 0.0, float("nan")]), torch.full((3,), float("nan"))]
    loss = build_objective(PLAIN, [AGE, SEX]).primary({"age": age, "sex": sex}, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
    assert age.grad[2] == 0 and not sex.grad.any()


def test_a_batch_without_any_label_costs_nothing():
    loss = build_objective(PLAIN, [AGE]).primary({"age": torch.ones(2, 1)}, [torch.full((2,), float("nan"))])
    assert float(loss) == 0


def test_another_loss_of_torch_may_be_the_primary_term():
    spec = {"primary": {"class_path": "torch.nn.modules.loss.L1Loss", "init_args": {}}, "auxiliary": []}
    loss = build_objective(spec, [AGE]).primary({"age": torch.tensor([[3.0], [-1.0]])}, [torch.tensor([0.0, 0.0])])
    assert float(loss) == 2


def test_l2sp_is_the_papers_formula(network):
    term = L2SP(alpha=0.3, beta=0.7)
    term.start(network, pretrained=True)
    start = {name: tensor.detach().numpy().copy() for name, tensor in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)
    now = {name: tensor.detach().numpy().astype("float64") for name, tensor in network.named_parameters()}
    weights = [name for name in now if now[name].ndim > 1]
    shared = sum(((now[name] - start[name]) ** 2).sum() for name in weights if name.startswith("encoder."))
    new = sum((now[name] ** 2).sum() for name in weights if name.startswith("heads."))
    assert shared > 0 and new > 0
    assert float(term(network, None, None).detach()) == pytest.approx(0.3 / 2 * shared + 0.7 / 2 * new, rel=1e-5)


def test_l2sp_starts_at_zero_for_the_encoder_and_its_copy_does_not_follow_the_weights(network):
    term = L2SP(alpha=1.0, beta=0.0)
    term.start(network, pretrained=True)
    assert float(term(network, None, None).detach()) == 0
    with torch.no_grad():
        network.encoder.conv1.weight += 1
    assert float(term(network, None, None).detach()) == pytest.approx(
        network.encoder.conv1.weight.numel() / 2, rel=1e-5
    )


def test_l2sp_leaves_biases_and_batch_norm_free(network):
    term = L2SP(alpha=1.0, beta=1.0)
    term.start(network, pretrained=True)
    term(network, None, None).backward()
    assert network.encoder.bn1.weight.grad is None and network.heads[0].bias.grad is None
    assert network.heads[0].weight.grad is not None


def test_l2sp_refuses_an_encoder_that_is_not_pretrained(network):
    with pytest.raises(InputError, match="no pretrained encoder"):
        L2SP().start(network, pretrained=False)


def test_the_objective_names_its_terms_in_order(network):
    spec = {"primary": None, "auxiliary": [{"class_path": "L2SP", "init_args": {"alpha": 0.1}}]}
    objective = build_objective(spec, [AGE, SEX])
    objective.start(network, pretrained=True)
    images, labels = torch.randn(4, 1, 16, 16), [torch.zeros(4), torch.zeros(4)]
    values = objective(network, (images, labels), network(images))
    assert list(values) == ["primary", "l2sp"]


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
    missing = float("nan")
    own, partner = torch.tensor([1.0, missing, 0.0]), torch.tensor([missing, missing, 2.0])
    mixed = Mixed([own], [partner], torch.tensor([0.7, 0.5, 0.4]))
    outputs = torch.zeros(3, 1, requires_grad=True)
    loss = build_objective(PLAIN, [AGE]).primary({"age": outputs}, mixed)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.7 * 1 + 0.4 * 0 + 0.6 * 4) / (0.7 + 0.4 + 0.6))
    assert outputs.grad.isfinite().all() and outputs.grad[1] == 0


def test_the_share_of_a_label_stays_small_where_it_is_the_only_one():
    mixed = Mixed([torch.tensor([3.0])], [torch.tensor([float("nan")])], torch.tensor([0.01]))
    assert float(build_objective(PLAIN, [AGE]).primary({"age": torch.zeros(1, 1)}, mixed)) == pytest.approx(0.09)


def test_images_that_are_not_mixed_cost_what_they_did():
    label, outputs = torch.randn(6), {"age": torch.randn(6, 1)}
    objective = build_objective(PLAIN, [AGE])
    mixed = Mixed([label], [label.flip(0)], torch.ones(6))
    plain = float(objective.primary(outputs, [label]))
    assert float(objective.primary(outputs, mixed)) == pytest.approx(plain, rel=1e-6)


def test_auxiliary_terms_do_not_see_the_mixing(network):
    spec = {"primary": None, "auxiliary": [{"class_path": "L2SP", "init_args": {"alpha": 0.1}}]}
    objective = build_objective(spec, [AGE])
    objective.start(network, pretrained=True)
    images, label = torch.randn(4, 1, 16, 16), torch.randn(4)
    outputs = network(images)
    plain = objective(network, (images, [label]), outputs)
    mixed = objective(network, (images, mixed_by_hand(label)), outputs)
    assert float(mixed["l2sp"].detach()) == float(plain["l2sp"].detach()) > 0
    assert float(mixed["primary"].detach()) != float(plain["primary"].detach())
