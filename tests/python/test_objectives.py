"""The primary term and L2-SP against their formulas in NumPy."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from tlimb.architectures.build import build_network
from tlimb.data.augment.mixup import Mixed
from tlimb.data.bins import Bins
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


BINNED = Target("age", "regression", (), 50.0, 10.0, Bins(30.0, 70.0, 2.0, 1.5))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe", "fatal"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion", "tumour"))
RELAPSE = Target("relapse", "survival")


def loss_of(target, output, label):
    return float(build_objective(PLAIN, [target]).primary({target.name: torch.tensor(output)}, [torch.tensor(label)]))


def test_soft_bins_are_the_divergence_from_a_normal_distribution_over_bins():
    random = np.random.default_rng(0)
    ages, output = np.array([33.0, 50.5, 69.0]), random.normal(size=(3, 20))
    low = 30 + 2 * np.arange(20)
    q = norm.cdf(low + 2, ages[:, None], 1.5) - norm.cdf(low, ages[:, None], 1.5) + 1e-16
    p = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    expected = (q * np.log(q / p)).sum(axis=1).mean()
    assert loss_of(BINNED, output, (ages - 50) / 10) == pytest.approx(expected, rel=1e-5)


def test_the_soft_bin_prediction_is_the_expected_centre_of_a_bin():
    output = np.random.default_rng(1).normal(size=(4, 20))
    p = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(BINNED.decode(output)[0], (p * (31 + 2 * np.arange(20))).sum(axis=1))
    assert BINNED.outputs == 20


def test_the_ordinal_loss_is_minus_the_logarithm_of_the_probability_of_the_class():
    output, classes = np.random.default_rng(2).normal(size=(6, 3)), np.array([0, 1, 2, 3, 3, 1])
    beyond = 1 / (1 + np.exp(-output))
    probability = [np.prod(beyond[i, :k]) * (1 - beyond[i, k] if k < 3 else 1) for i, k in enumerate(classes)]
    assert loss_of(GRADE, output, classes.astype(float)) == pytest.approx(-np.log(probability).mean(), rel=1e-12)


def test_the_ordinal_loss_is_that_of_conditional_sets_up_to_their_sizes():
    output, classes = np.random.default_rng(3).normal(size=(8, 3)), np.array([0, 1, 2, 3, 3, 1, 0, 2])
    total = 0.0
    for j in range(3):
        reached = classes >= j
        s, further = 1 / (1 + np.exp(-output[reached, j])), classes[reached] > j
        total -= np.where(further, np.log(s), np.log(1 - s)).sum()
    assert loss_of(GRADE, output, classes.astype(float)) == pytest.approx(total / 8, rel=1e-12)


def test_probabilities_of_ordered_classes_sum_to_one_and_their_median_is_said():
    output = np.random.default_rng(4).normal(size=(50, 3)) * 3
    said, probabilities = GRADE.decode(output)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    beyond = np.cumprod(1 / (1 + np.exp(-output)), axis=1)
    np.testing.assert_allclose(probabilities[:, 1:].sum(axis=1), beyond[:, 0])
    assert np.array_equal(said, (beyond > 0.5).sum(axis=1)) and set(said) == {0, 1, 2, 3}


def test_several_classes_at_once_cost_the_mean_of_their_binary_cross_entropies():
    random = np.random.default_rng(5)
    output, label = random.normal(size=(4, 3)), random.integers(0, 2, (4, 3)).astype(float)
    s = 1 / (1 + np.exp(-output))
    expected = -(label * np.log(s) + (1 - label) * np.log(1 - s)).mean()
    assert loss_of(FINDINGS, output, label) == pytest.approx(expected, rel=1e-12)
    unknown = np.vstack([label, np.full((1, 3), np.nan)])
    assert loss_of(FINDINGS, np.vstack([output, [[9.0] * 3]]), unknown) == pytest.approx(expected, rel=1e-12)


def test_another_loss_of_torch_may_teach_several_classes_at_once():
    spec = {"primary": {"class_path": "torch.nn.modules.loss.MSELoss", "init_args": {}}, "auxiliary": []}
    outputs, labels = {"findings": torch.tensor([[1.0, 0, 0], [0, 0, 0]])}, [torch.tensor([[0.0, 0, 0], [1, 1, 0]])]
    assert float(build_objective(spec, [FINDINGS]).primary(outputs, labels)) == pytest.approx(3 / 6)


def breslow(times, seen, risk):
    """The negative partial log-likelihood a mean event, one event after the other."""
    def logarithm_at_risk(i):
        return np.log(sum(np.exp(risk[j]) for j in range(len(times)) if times[j] >= times[i]))

    return -np.mean([risk[i] - logarithm_at_risk(i) for i in range(len(times)) if seen[i]])


def test_the_cox_loss_is_the_partial_likelihood_of_breslow():
    random = np.random.default_rng(6)
    times, seen, risk = random.integers(1, 6, 12).astype(float), random.random(12) < 0.6, random.normal(size=12)
    label = np.where(seen, times, -times)
    assert loss_of(RELAPSE, risk[:, None], label) == pytest.approx(breslow(times, seen, risk), rel=1e-12)
    shown = loss_of(RELAPSE, np.r_[risk, 50.0][:, None], np.r_[label, np.nan])
    assert shown == pytest.approx(breslow(times, seen, risk), rel=1e-12)


def test_the_cox_loss_of_one_event_among_equals_is_the_logarithm_of_their_number():
    assert loss_of(RELAPSE, np.zeros((5, 1)), np.array([1.0, -2.0, -3.0, -1.0, -0.5])) == pytest.approx(np.log(4))


def test_a_batch_without_an_event_costs_nothing_and_gives_finite_gradients():
    output = torch.zeros(3, 1, requires_grad=True)
    loss = build_objective(PLAIN, [RELAPSE]).primary({"relapse": output}, [torch.tensor([-1.0, -2.0, float("nan")])])
    loss.backward()
    assert float(loss.detach()) == 0 and not output.grad.any()


def test_the_gradient_of_the_cox_loss_is_that_of_its_formula():
    output, label = torch.randn(6, 1, dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 2, -2, 4, -5, 2])
    objective = build_objective(PLAIN, [RELAPSE])
    assert torch.autograd.gradcheck(lambda risk: objective.primary({"relapse": risk}, [label.double()]), output)


def test_every_kind_learns_together_with_any_other():
    targets = [BINNED, GRADE, FINDINGS, RELAPSE, SEX]
    outputs = {target.name: torch.randn(4, target.outputs, requires_grad=True) for target in targets}
    labels = [torch.zeros(4), torch.ones(4), torch.ones(4, 3), torch.tensor([1.0, -2, 3, 4]), torch.zeros(4)]
    outputs["sex"], targets[-1] = torch.randn(4, 3, requires_grad=True), SEX
    whole = build_objective(PLAIN, targets).primary(outputs, labels)
    whole.backward()
    alone = [build_objective(PLAIN, [one]).primary(outputs, [label]).item() for one, label in zip(targets, labels)]
    assert float(whole.detach()) == pytest.approx(np.mean(alone), rel=1e-6)
    assert all(outputs[target.name].grad.any() for target in targets)


def test_mixed_labels_of_soft_bins_and_ordered_and_several_classes_weigh_both_losses():
    labels = torch.randn(5), torch.tensor([0.0, 1, 2, 3, 1]), torch.eye(5)[:, :3]
    for target, label in zip((BINNED, GRADE, FINDINGS), labels):
        output, mixed = {target.name: torch.randn(5, target.outputs)}, mixed_by_hand(label)
        objective = build_objective(PLAIN, [target])
        own, other = (
            [float(objective.primary({target.name: output[target.name][[i]]}, [side[[i]]])) for i in range(5)]
            for side in (mixed.labels[0], mixed.partner[0])
        )
        weight = mixed.weight.numpy()
        expected = (weight * own + (1 - weight) * other).mean()
        assert float(objective.primary(output, mixed)) == pytest.approx(expected, rel=1e-5)


def test_times_until_an_event_cannot_be_mixed():
    with pytest.raises(InputError, match="no mixture"):
        build_objective(PLAIN, [RELAPSE]).primary({"relapse": torch.zeros(5, 1)}, mixed_by_hand(torch.ones(5)))


def test_a_head_with_bins_takes_no_other_loss():
    spec = {"primary": {"class_path": "torch.nn.modules.loss.L1Loss", "init_args": {}}, "auxiliary": []}
    with pytest.raises(InputError, match="loss of their own"):
        build_objective(spec, [BINNED])
