"""Losses of single targets against their formulas in NumPy, and the counts of classes that weigh them."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.utils.class_weight import compute_class_weight
from training_jobs import objective as said

from tlimb.data.bins import Bins
from tlimb.data.targets import Target, fit_targets, read_targets
from tlimb.errors import InputError
from tlimb.objectives.cross_entropy import CrossEntropy
from tlimb.objectives.focal import Focal
from tlimb.objectives.huber import Huber
from tlimb.objectives.objective import build_objective

AGE = Target("age", "regression", (), 50.0, 10.0)
SEX = Target("sex", "classification", ("f", "m", "x"), counts=(6, 3, 1))
BINNED = Target("age", "regression", (), 50.0, 10.0, Bins(30.0, 70.0, 2.0, 1.5))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe", "fatal"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion", "tumour"))
RELAPSE = Target("relapse", "survival")
CLASSES = np.array([0, 2, 1, 1, 0, 0])
NAN = float("nan")


def loss(name: str, **arguments) -> dict:
    return {"primary": {"class_path": name, "init_args": arguments}}


def built(target, spec=None):
    return build_objective(said(spec or {}), [target])


def loss_of(target, output, label, spec=None) -> float:
    return float(built(target, spec).primary({target.name: torch.tensor(output)}, [torch.tensor(label)]))


def log_softmax(output):
    return output - np.log(np.exp(output).sum(axis=1, keepdims=True))


def logits(rows=6, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 3)) * 2


@pytest.mark.parametrize(
    ("spec", "formula"),
    [
        (None, np.square),
        (loss("MeanSquaredError"), np.square),
        (loss("MeanAbsoluteError"), np.abs),
        (loss("Huber"), lambda e: np.where(abs(e) <= 1, e**2 / 2, abs(e) - 0.5)),
        (loss("Huber", delta=0.3), lambda e: np.where(abs(e) <= 0.3, e**2 / 2, 0.3 * (abs(e) - 0.15))),
    ],
)
def test_losses_of_quantities_are_their_formulas(spec, formula):
    random = np.random.default_rng(0)
    output, label = random.normal(size=(9, 1)), random.normal(size=9)
    expected = formula(output[:, 0] - label).mean()
    assert loss_of(AGE, output, label, spec) == pytest.approx(expected, rel=1e-12)
    more = np.vstack([output, [[5.0]]]), np.r_[label, NAN]
    assert loss_of(AGE, *more, spec) == pytest.approx(expected, rel=1e-12)


def test_the_cross_entropy_is_its_formula_and_the_usual_loss_of_classes():
    output = logits()
    expected = -log_softmax(output)[np.arange(6), CLASSES].mean()
    for spec in (None, loss("CrossEntropy")):
        assert loss_of(SEX, output, CLASSES.astype(float), spec) == pytest.approx(expected, rel=1e-12)


def test_smoothed_labels_are_a_mixture_with_equal_shares():
    output, smooth = logits(), 0.9 * np.eye(3)[CLASSES] + 0.1 / 3
    expected = -(smooth * log_softmax(output)).sum(axis=1).mean()
    spec = loss("CrossEntropy", label_smoothing=0.1)
    assert loss_of(SEX, output, CLASSES.astype(float), spec) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [[0.5, 2.0, 3.0], {"x": 3.0, "f": 0.5, "m": 2.0}])
def test_weights_of_classes_divide_as_those_of_torch(weights, smoothing):
    output, label = torch.tensor(logits()), torch.tensor(CLASSES)
    given = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(output, label, given, label_smoothing=smoothing).item()
    spec = loss("CrossEntropy", class_weights=weights, label_smoothing=smoothing)
    assert loss_of(SEX, logits(), CLASSES.astype(float), spec) == pytest.approx(expected, rel=1e-6)
    more = np.vstack([logits(), [[9.0, 0, 0]]]), np.r_[CLASSES.astype(float), NAN]
    assert loss_of(SEX, *more, spec) == pytest.approx(expected, rel=1e-6)


def test_the_mean_of_light_classes_is_not_made_lighter():
    alone = loss_of(SEX, np.zeros((1, 3)), np.array([1.0]), loss("CrossEntropy", class_weights=[1.0, 0.01, 1.0]))
    assert alone == pytest.approx(np.log(3))


def test_a_batch_with_classes_of_weight_0_alone_costs_nothing():
    spec = loss("CrossEntropy", class_weights=[1.0, 0.0, 1.0])
    assert loss_of(SEX, np.ones((2, 3)), np.array([1.0, 1.0]), spec) == 0


def test_balanced_weights_are_those_of_scikit_learn_on_the_training_scans():
    labels = np.repeat(["f", "m", "x"], [6, 3, 1])
    expected = compute_class_weight("balanced", classes=np.array(["f", "m", "x"]), y=labels)
    for made in (CrossEntropy, Focal):
        np.testing.assert_allclose(made(class_weights="balanced", target=SEX).weights, expected, rtol=1e-6)


def test_a_class_without_training_scans_has_no_balanced_weight_and_the_mean_of_the_others_is_1():
    target = Target("sex", "classification", ("f", "m", "x"), counts=(6, 0, 2))
    weights = CrossEntropy(class_weights="balanced", target=target).weights
    assert weights.tolist() == pytest.approx([8 / 12, 0, 2]) and float(weights @ torch.tensor([6.0, 0, 2]) / 8) == 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_the_papers_formula(gamma):
    output, weights = logits(), np.array([0.25, 0.5, 0.75])
    logs = log_softmax(output)[np.arange(6), CLASSES]
    each = -weights[CLASSES] * (1 - np.exp(logs)) ** gamma * logs
    expected = each.sum() / weights[CLASSES].sum()
    spec = loss("Focal", gamma=gamma, class_weights=[0.25, 0.5, 0.75])
    assert loss_of(SEX, output, CLASSES.astype(float), spec) == pytest.approx(expected, rel=1e-6)


def test_the_focal_loss_without_focus_is_the_cross_entropy():
    output, label = torch.tensor(logits()), torch.tensor(CLASSES)
    weights = {"class_weights": "balanced", "target": SEX}
    torch.testing.assert_close(Focal(0.0, **weights)(output, label), CrossEntropy(**weights)(output, label))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_has_finite_gradients_where_a_class_is_certain(gamma):
    output = torch.tensor([[200.0, 0, 0], [0, 200.0, 0], [0.0, 0, 0]], requires_grad=True)
    Focal(gamma, target=SEX)(output, torch.tensor([0, 0, 0])).sum().backward()
    assert output.grad.isfinite().all() and output.grad[1].any() and output.grad[2].any()


@pytest.mark.parametrize(
    ("target", "spec", "width"),
    [
        (AGE, loss("Huber", delta=0.7), 1),
        (SEX, loss("CrossEntropy", label_smoothing=0.1, class_weights="balanced"), 3),
        (SEX, loss("Focal"), 3),
        (GRADE, loss("Ordinal"), 3),
        (FINDINGS, loss("MultiLabel"), 3),
    ],
)
def test_gradients_are_those_of_the_values(target, spec, width):
    torch.manual_seed(1)
    output = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.0, 1, NAN, 2]).double()
    label = label if target is not FINDINGS else torch.eye(4, 3).double()
    objective = built(target, spec)
    assert torch.autograd.gradcheck(lambda out: objective.primary({target.name: out}, [label]), output)


def test_outputs_of_16_bits_are_measured_in_32():
    output = torch.randn(8, 3)
    label = torch.randint(0, 3, (8,)).float()
    for dtype in (torch.bfloat16, torch.float16):
        value = built(SEX).primary({"sex": output.to(dtype)}, [label])
        assert value.dtype == torch.float32
        assert float(value) == float(built(SEX).primary({"sex": output.to(dtype).float()}, [label]))


def test_soft_bins_are_the_divergence_from_a_normal_distribution_over_bins():
    random = np.random.default_rng(0)
    ages, output = np.array([33.0, 50.5, 69.0]), random.normal(size=(3, 20))
    low = 30 + 2 * np.arange(20)
    q = norm.cdf(low + 2, ages[:, None], 1.5) - norm.cdf(low, ages[:, None], 1.5) + 1e-16
    p = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    expected = (q * np.log(q / p)).sum(axis=1).mean()
    for spec in (None, loss("SoftBins")):
        assert loss_of(BINNED, output, (ages - 50) / 10, spec) == pytest.approx(expected, rel=1e-5)


def test_the_soft_bin_prediction_is_the_expected_centre_of_a_bin():
    output = np.random.default_rng(1).normal(size=(4, 20))
    p = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(BINNED.decode(output)[0], (p * (31 + 2 * np.arange(20))).sum(axis=1))
    assert BINNED.outputs == 20


def test_the_ordinal_loss_is_minus_the_logarithm_of_the_probability_of_the_class():
    output, classes = np.random.default_rng(2).normal(size=(6, 3)), np.array([0, 1, 2, 3, 3, 1])
    beyond = 1 / (1 + np.exp(-output))
    probability = [np.prod(beyond[i, :k]) * (1 - beyond[i, k] if k < 3 else 1) for i, k in enumerate(classes)]
    for spec in (None, loss("Ordinal")):
        value = loss_of(GRADE, output, classes.astype(float), spec)
        assert value == pytest.approx(-np.log(probability).mean(), rel=1e-12)


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
    said_class, probabilities = GRADE.decode(output)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    beyond = np.cumprod(1 / (1 + np.exp(-output)), axis=1)
    np.testing.assert_allclose(probabilities[:, 1:].sum(axis=1), beyond[:, 0])
    assert np.array_equal(said_class, (beyond > 0.5).sum(axis=1)) and set(said_class) == {0, 1, 2, 3}


def test_several_classes_at_once_cost_the_mean_of_their_binary_cross_entropies():
    random = np.random.default_rng(5)
    output, label = random.normal(size=(4, 3)), random.integers(0, 2, (4, 3)).astype(float)
    s = 1 / (1 + np.exp(-output))
    expected = -(label * np.log(s) + (1 - label) * np.log(1 - s)).mean()
    unknown = np.vstack([label, np.full((1, 3), np.nan)])
    for spec in (None, loss("MultiLabel")):
        assert loss_of(FINDINGS, output, label, spec) == pytest.approx(expected, rel=1e-12)
        assert loss_of(FINDINGS, np.vstack([output, [[9.0] * 3]]), unknown, spec) == pytest.approx(expected, rel=1e-12)


def breslow(times, seen, risk):
    """The negative partial log-likelihood a mean event, one event after the other."""

    def logarithm_at_risk(i):
        return np.log(sum(np.exp(risk[j]) for j in range(len(times)) if times[j] >= times[i]))

    return -np.mean([risk[i] - logarithm_at_risk(i) for i in range(len(times)) if seen[i]])


def test_the_cox_loss_is_the_partial_likelihood_of_breslow():
    random = np.random.default_rng(6)
    times, seen, risk = random.integers(1, 6, 12).astype(float), random.random(12) < 0.6, random.normal(size=12)
    label = np.where(seen, times, -times)
    for spec in (None, loss("Cox")):
        value = loss_of(RELAPSE, risk[:, None], label, spec)
        assert value == pytest.approx(breslow(times, seen, risk), rel=1e-12)
    shown = loss_of(RELAPSE, np.r_[risk, 50.0][:, None], np.r_[label, np.nan])
    assert shown == pytest.approx(breslow(times, seen, risk), rel=1e-12)


def test_the_cox_loss_of_one_event_among_equals_is_the_logarithm_of_their_number():
    assert loss_of(RELAPSE, np.zeros((5, 1)), np.array([1.0, -2.0, -3.0, -1.0, -0.5])) == pytest.approx(np.log(4))


def test_a_batch_without_an_event_costs_nothing_and_gives_finite_gradients():
    output = torch.zeros(3, 1, requires_grad=True)
    value = built(RELAPSE).primary({"relapse": output}, [torch.tensor([-1.0, -2.0, NAN])])
    value.backward()
    assert float(value.detach()) == 0 and not output.grad.any()


def test_the_gradient_of_the_cox_loss_is_that_of_its_formula():
    output, label = torch.randn(6, 1, dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 2, -2, 4, -5, 2])
    objective = built(RELAPSE)
    assert torch.autograd.gradcheck(lambda risk: objective.primary({"relapse": risk}, [label.double()]), output)


@pytest.mark.parametrize(
    ("target", "spec", "message"),
    [
        (AGE, loss("Huber", delta=0), r"objective.primary.init_args.delta: expected a number above 0"),
        (AGE, loss("Huber", delta=NAN), r"init_args.delta: .*found nan"),
        (SEX, loss("CrossEntropy", label_smoothing=1.0), r"init_args.label_smoothing: expected .* below 1"),
        (SEX, loss("CrossEntropy", label_smoothing=NAN), r"init_args.label_smoothing: .*found nan"),
        (SEX, loss("CrossEntropy", class_weights=[1, -2, NAN]), r"class_weights: .* found -2, nan"),
        (SEX, loss("CrossEntropy", class_weights=[1, 2]), r"expected 3 numbers, one for each class of 'sex', found 2"),
        (SEX, loss("CrossEntropy", class_weights=[0, 0, 0]), r"class_weights: all are 0"),
        (SEX, loss("Focal", gamma=-1), r"init_args.gamma: expected a number of at least 0"),
        (SEX, loss("Focal", class_weights={"f": 1, "n": 1}), r"no class 'n' .*(?s:.)*missing: m, x"),
        (SEX, loss("Focal", class_weights={"f": 1, "m": "2", "x": 1}), r"class_weights: .* found '2'"),
        (AGE, loss("Focal"), r"Focal is a loss for classification, and 'age' is of kind regression"),
        (SEX, loss("Huber"), r"Huber is a loss for regression, and 'sex' is of kind classification"),
        (AGE, loss("SoftBins"), r"the head of 'age' has no bins"),
        (BINNED, loss("Huber"), r"loss of their own"),
        (AGE, loss("L1Weights"), r"L1Weights is a term beside the losses of targets"),
        (
            Target("sex", "classification", ("f", "m")),
            loss("CrossEntropy", class_weights="balanced"),
            r"class_weights: how many training scans each class of 'sex' has is not known",
        ),
    ],
)
def test_what_makes_no_sense_of_a_target_is_said_with_its_path(target, spec, message):
    with pytest.raises(InputError, match=message):
        built(target, spec)


def test_an_argument_of_a_named_target_is_said_with_its_path():
    spec = {"primary": {"age": {"class_path": "Huber", "init_args": {"delta": -1}}, "sec": loss("Focal")["primary"]}}
    with pytest.raises(InputError) as raised:
        build_objective(said(spec), [AGE, SEX])
    assert {problem.where for problem in raised.value.problems} == {
        "objective.primary.age.init_args.delta",
        "objective.primary.sec",
    }
    assert "did you mean 'sex'?" in str(raised.value)


LABELS = {
    "sex": {"kind": "classification", "classes": ["f", "m", "x"]},
    "grade": {"kind": "ordinal", "classes": ["none", "mild"]},
    "findings": {"kind": "multilabel", "classes": ["atrophy", "lesion"]},
    "age": {"kind": "regression", "classes": []},
    "relapse": {"kind": "survival", "classes": []},
}


def test_targets_count_the_training_scans_of_each_class_and_remember_it():
    train = pd.DataFrame(
        {
            "sex": ["f", "f", None, "x", "f"],
            "grade": ["mild", "none", "mild", "mild", None],
            "findings": ["atrophy;lesion", ";", "lesion", None, "lesion"],
            "age": [1.0, 2, 3, 4, 5],
            "relapse": [1.0, -2, 3, 4, 5],
        }
    )
    targets = fit_targets(LABELS, list(LABELS), train)
    assert [target.counts for target in targets] == [(3, 0, 1), (1, 3), (1, 3), (), ()]
    facts = {target.name: target.facts() for target in targets}
    assert read_targets(facts) == targets
    for item in facts.values():
        item.pop("counts", None)
    assert [target.counts for target in read_targets(facts)] == [()] * 5


def test_huber_is_half_the_squared_error_where_delta_is_large():
    output, label = torch.randn(7), torch.randn(7)
    torch.testing.assert_close(Huber(100.0)(output, label), (output - label).square() / 2)
