"""Terms that learn from scans without labels beside supervision: their values, gradients, teachers and real stages."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from torch import nn
from training_jobs import LABELS, RESNET, make_people, make_store, objective, roles, stage

from tlimb.architectures.network import Network
from tlimb.data.bins import Bins
from tlimb.data.targets import Target, continued
from tlimb.errors import InputError
from tlimb.objectives.agreement import divergence, log_probabilities, squared_difference
from tlimb.objectives.fixmatch import STRONG, WEAK, FixMatch
from tlimb.objectives.mean_teacher import MeanTeacher
from tlimb.objectives.objective import build_objective
from tlimb.objectives.own_pass import still_statistics
from tlimb.objectives.ramp import weight_at
from tlimb.objectives.term import Beginning, Step
from tlimb.objectives.transform_consistency import TransformConsistency
from tlimb.scenarios.device import set_up_torch
from tlimb.scenarios.prepare import Source, StageRun, prepare
from tlimb.scenarios.scenario import fit, scenario_class
from tlimb.state import Kept
from tlimb.store import Store

CPU = torch.device("cpu")
AGE = Target("age", "regression", mean=50.0, sd=10.0)
BINNED = Target("age", "regression", mean=50.0, sd=10.0, bins=Bins(20.0, 80.0, 15.0, 5.0))
CLASSES = Target("group", "classification", ("a", "b", "c"))
GRADE = Target("grade", "ordinal", ("none", "mild", "severe"))
FINDINGS = Target("findings", "multilabel", ("atrophy", "lesion"))
RELAPSE = Target("relapse", "survival")
ALL = [AGE, BINNED, CLASSES, GRADE, FINDINGS, RELAPSE]


class Flat(nn.Module):
    """An encoder whose features are the voxels, times a factor each."""

    dims, blocks = 2, ("scale",)

    def __init__(self, features: int):
        super().__init__()
        self.features = features
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, images):
        return images.flatten(1) * self.scale


class Normed(Flat):
    """The same, batch-normalised."""

    def __init__(self, features: int):
        super().__init__(features)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, images):
        return self.norm(super().forward(images))


def network_of(*targets, encoder=Flat) -> Network:
    """Four voxels, then a linear head for each target."""
    torch.manual_seed(0)
    return Network(encoder(4), {of.name: nn.Linear(4, of.outputs) for of in targets})


def step_of(network, labelled: int = 2, unlabelled: int = 3, **changes) -> Step:
    """A step of random images of 2 x 2 voxels."""
    images = torch.randn(labelled + unlabelled, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Step(network, images, [torch.zeros(labelled)], labelled=labelled, **changes)


def started(term, network, *targets, total_steps: int = 100):
    """The term, ready for a step of `step_of`."""
    term.start(Beginning(network, targets=targets, input_shape=(1, 2, 2), total_steps=total_steps))
    return term


def shifting(*amounts):
    """In place of drawn views: each call adds the next amount to every voxel."""
    following = iter(amounts)
    return lambda images: images + next(following)


def value_of(term, step) -> float:
    """The term's value as a number."""
    return float(term(step).detach())


def outputs_of(target, count: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, target.outputs)) * 2


def probabilities(target, outputs: np.ndarray) -> np.ndarray:
    """(n, K, C) in NumPy."""
    if target.kind == "multilabel":
        return np.stack([expit(outputs), expit(-outputs)], axis=2)
    return (continued(expit(outputs)) if target.kind == "ordinal" else softmax(outputs, axis=1))[:, None]


@pytest.mark.parametrize("target", [BINNED, CLASSES, GRADE, FINDINGS], ids=lambda of: of.kind)
def test_log_probabilities_and_their_divergence_are_those_of_numpy(target):
    one, two = outputs_of(target), outputs_of(target, seed=1)
    p, q = probabilities(target, one), probabilities(target, two)
    found = log_probabilities(target, torch.from_numpy(one))
    np.testing.assert_allclose(found.exp().numpy(), p, atol=1e-6)
    expected = (q * np.log(q / p)).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(divergence(target, torch.from_numpy(one), torch.from_numpy(two)), expected, rtol=1e-4)


def test_squared_differences_are_of_probabilities_or_of_standardised_predictions():
    expected = {
        "group": lambda o: softmax(o, axis=1),
        "grade": lambda o: continued(expit(o)),
        "findings": expit,
        "relapse": lambda o: o,
    }
    for target in (CLASSES, GRADE, FINDINGS, RELAPSE):
        one, two = outputs_of(target), outputs_of(target, seed=1)
        wanted = ((expected[target.name](one) - expected[target.name](two)) ** 2).mean(axis=1)
        found = squared_difference(target, torch.from_numpy(one), torch.from_numpy(two))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, err_msg=target.name)
    for target in (AGE, BINNED):
        one, two = outputs_of(target), outputs_of(target, seed=1)
        years = [target.decode(output)[0] for output in (one, two)]
        found = squared_difference(target, torch.from_numpy(one), torch.from_numpy(two))
        np.testing.assert_allclose(found, ((years[0] - years[1]) / target.sd) ** 2, rtol=1e-4)


@pytest.mark.parametrize("target", ALL, ids=lambda of: of.kind)
def test_equal_predictions_agree_and_extreme_ones_stay_finite(target):
    output = torch.from_numpy(outputs_of(target)).bfloat16()
    assert squared_difference(target, output, output).abs().max() == 0
    assert squared_difference(target, output, output).dtype == torch.float32
    far = torch.full((2, target.outputs), 1e4) * torch.tensor([[1.0], [-1.0]])
    far[:, 0] *= -1
    far.requires_grad_()
    value = squared_difference(target, far, -far)
    if target not in (AGE, RELAPSE):
        value = value + divergence(target, far, -far)
    value.sum().backward()
    assert value.isfinite().all() and far.grad.isfinite().all()


def test_the_consistency_of_two_views_is_the_mean_over_all_scans_then_over_targets():
    network = network_of(AGE, CLASSES)
    step = step_of(network)
    x = step.images.flatten(1).numpy().astype("float64")

    def outputs(name, shift):
        weight, bias = (of.detach().numpy().astype("float64") for of in network.head(name).parameters())
        return (x + shift) @ weight.T + bias

    ages, groups = ([outputs(name, shift) for shift in (0.5, -1.0)] for name in ("age", "group"))
    p, q = (softmax(output, axis=1) for output in groups)
    age = ((ages[0] - ages[1])[:, 0] ** 2).mean()
    term = started(TransformConsistency(), network, AGE, CLASSES)
    term.view = shifting(0.5, -1.0)
    assert value_of(term, step) == pytest.approx((age + ((p - q) ** 2).mean(axis=1).mean()) / 2, rel=1e-5)
    log_p, log_q = (log_softmax(output, axis=1) for output in groups)
    term = started(TransformConsistency(distance="kl"), network, CLASSES)
    term.view = shifting(0.5, -1.0)
    expected = ((p - q) * (log_p - log_q)).sum(axis=1).mean() / 2
    assert value_of(term, step) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_consistency_goes_through_both_views():
    network = network_of(AGE)
    step, term = step_of(network), started(TransformConsistency(), network, AGE)
    term.view = shifting(0.5, -1.0)
    term(step).backward()
    # d/dw (w (x + 1/2) - w (x - 1))^2 = 2 (3/2 sum w) 3/2 for each voxel, whatever x is.
    total = network.head("age").weight.sum()
    expected = torch.full((1, 4), 2 * 1.5 * 1.5) * total
    torch.testing.assert_close(network.head("age").weight.grad, expected)
    assert network.head("age").bias.grad.abs().max() < 1e-6


def test_a_mean_teacher_learns_nothing_by_gradient_and_teaches_with_its_own_weights():
    network = network_of(CLASSES)
    term = started(MeanTeacher(), network, CLASSES)
    with torch.no_grad():
        term.teacher.head("group").bias += torch.tensor([1.0, 0.0, -1.0])
    step = step_of(network)
    x = step.images.flatten(1).numpy().astype("float64")
    weight, bias = (of.detach().numpy().astype("float64") for of in network.head("group").parameters())
    p, q = softmax((x + 0.5) @ weight.T + bias, axis=1), softmax((x - 1) @ weight.T + bias + [1, 0, -1], axis=1)
    term.view = shifting(0.5, -1.0)
    value = term(step)
    value.backward()
    assert float(value.detach()) == pytest.approx(((p - q) ** 2).mean(), rel=1e-5)
    slope = 2 / 3 * (p - q) / len(p)
    slope = p * (slope - (p * slope).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(network.head("group").bias.grad, slope.sum(axis=0), atol=1e-7)
    assert all(of.grad is None and not of.requires_grad for of in term.teacher.parameters())
    term.distance, term.view = "kl", shifting(0.5, -1.0)
    assert value_of(term, step) == pytest.approx((q * np.log(q / p)).sum(axis=1).mean(), rel=1e-5)


def test_the_teachers_weights_are_the_running_mean_of_the_papers_code():
    network = network_of(AGE, encoder=Normed)
    term = started(MeanTeacher(decay=0.9, early_decay=0.6, early=0.4), network, AGE, total_steps=10)
    weights, mean = [], network.encoder.scale.detach().numpy().copy()
    random = torch.Generator().manual_seed(0)
    for number in range(1, 11):
        with torch.no_grad():
            network.encoder.scale.copy_(torch.randn(4, generator=random))
            network.encoder.norm.running_mean.copy_(torch.randn(4, generator=random))
        term.after_step(network)
        alpha = min(1 - 1 / (number + 1), 0.6 if number <= 4 else 0.9)
        mean = alpha * mean + (1 - alpha) * network.encoder.scale.detach().numpy()
        weights.append(network.encoder.scale.detach().clone())
        np.testing.assert_allclose(term.teacher.encoder.scale, mean, rtol=1e-5)
        if number == 1:
            torch.testing.assert_close(term.teacher.encoder.scale, (torch.ones(4) + weights[0]) / 2)
    assert torch.equal(term.teacher.encoder.norm.running_mean, network.encoder.norm.running_mean)


def test_a_decay_of_0_makes_the_teacher_the_network_and_of_1_a_plain_mean():
    network = network_of(AGE)
    now, plain = (started(MeanTeacher(decay=d, early=0.0), network, AGE) for d in (0.0, 1.0))
    values = [network.encoder.scale.detach().clone()]
    for number in range(5):
        with torch.no_grad():
            network.encoder.scale.fill_(float(number))
        values.append(network.encoder.scale.detach().clone())
        now.after_step(network)
        plain.after_step(network)
        assert torch.equal(now.teacher.encoder.scale, network.encoder.scale)
        torch.testing.assert_close(plain.teacher.encoder.scale, torch.stack(values).mean(0))


def test_the_teacher_is_in_the_mode_of_the_network_module_by_module():
    network = network_of(AGE, encoder=Normed)
    term = started(MeanTeacher(), network, AGE)
    network.train()
    network.encoder.norm.eval()
    term.eval()
    term(step_of(network))
    assert term.teacher.encoder.training and not term.teacher.encoder.norm.training


def test_a_terms_own_pass_takes_batch_statistics_and_leaves_running_ones_alone():
    network = network_of(CLASSES, encoder=Normed)
    network.train()
    images = torch.randn(6, 1, 2, 2) * 3 + 1
    with torch.no_grad():
        expected = deepcopy(network).passed(images).outputs["group"]
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    with still_statistics(network), torch.no_grad():
        assert torch.equal(network.passed(images).outputs["group"], expected)
    terms = [TransformConsistency(), MeanTeacher(), FixMatch(threshold=0.0)]
    for term in terms:
        started(term, network, CLASSES)(step_of(network))
    for name, tensor in network.named_buffers():
        assert torch.equal(tensor, before[name]), name
    assert network.encoder.norm.track_running_stats
    network.passed(images)
    assert not torch.equal(network.encoder.norm.running_mean, before["encoder.norm.running_mean"])
    network.eval()
    frozen = network.passed(images).outputs["group"]
    with still_statistics(network):
        assert torch.equal(network.passed(images).outputs["group"], frozen)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_pseudo_labels_are_those_of_the_weak_view_where_it_is_sure_and_the_mean_counts_all(threshold):
    network = network_of(CLASSES)
    with torch.no_grad():
        network.head("group").weight *= 2
    step = step_of(network, unlabelled=40)
    x = step.unlabelled_images.flatten(1).numpy().astype("float64")
    weight, bias = (of.detach().numpy().astype("float64") for of in network.head("group").parameters())
    q, log_p = softmax((x + 0.25) @ weight.T + bias, axis=1), log_softmax((x - 1) @ weight.T + bias, axis=1)
    sure = q.max(axis=1) >= threshold
    assert sure.sum() == {0.0: 40, 1.0: 0}.get(threshold, sure.sum()) and (threshold != 0.5 or 0 < sure.sum() < 40)
    term = started(FixMatch(threshold), network, CLASSES)
    term.weakly, term.strongly = shifting(0.25), shifting(-1.0)
    value = term(step)
    losses = -log_p[np.arange(40), q.argmax(axis=1)]
    assert float(value.detach()) == pytest.approx((losses * sure).sum() / 40, rel=1e-5, abs=1e-12)
    value.backward()
    hard = np.eye(3)[q.argmax(axis=1)]
    slope = ((np.exp(log_p) - hard) * sure[:, None]).sum(axis=0) / 40
    np.testing.assert_allclose(network.head("group").bias.grad, slope, atol=1e-6)


def test_pseudo_labels_are_of_classes_alone_and_their_terms_are_averaged():
    other = Target("hand", "classification", ("left", "right"))
    network = network_of(AGE, CLASSES, other)
    step, values = step_of(network), []
    for targets in ([AGE, CLASSES], [AGE, other], [AGE, CLASSES, other]):
        term = started(FixMatch(0.0), network, *targets)
        term.weakly, term.strongly = shifting(0.25), shifting(-1.0)
        values.append(value_of(term, step))
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)


def test_a_pass_without_gradients_does_not_take_those_of_the_other_away_under_autocast():
    network = network_of(CLASSES)
    term = started(FixMatch(0.0), network, CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        value = term(step_of(network))
    value.backward()
    assert value.dtype == torch.float32 and network.head("group").weight.grad.abs().max() > 0


def test_fixmatch_of_no_scan_without_a_label_is_0_and_gives_no_gradient():
    network = network_of(CLASSES)
    value = started(FixMatch(0.0), network, CLASSES)(step_of(network, labelled=3, unlabelled=0))
    value.backward()
    assert value.item() == 0 and not network.encoder.scale.grad.any()


@pytest.mark.parametrize("shape", [(1, 40), (1, 12, 10), (1, 8, 9, 8)], ids=["series", "slices", "volumes"])
def test_the_usual_views_change_images_of_every_layout_and_strong_ones_change_them_more(shape):
    term = FixMatch()
    term.start(Beginning(network_of(CLASSES), targets=(CLASSES,), input_shape=shape))
    torch.manual_seed(0)
    images = torch.randn(16, *shape).cumsum(-1)
    images = (images - images.mean()) / images.std()
    weak, strong = ((view(images) - images).square().mean() for view in (term.weakly, term.strongly))
    assert 0 < weak < strong
    for other in (TransformConsistency(), MeanTeacher()):
        other.start(Beginning(network_of(CLASSES), targets=(CLASSES,), input_shape=shape))
        assert not torch.equal(other.view(images), other.view(images))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MeanTeacher(decay=1.5, early=float("nan")), "decay.*1.5(.|\n)*early.*nan"),
        (lambda: FixMatch(threshold=-0.1), "threshold.*-0.1"),
        (lambda: FixMatch(threshold=float("nan")), "threshold.*nan"),
        (lambda: started(FixMatch(), network_of(AGE), AGE, GRADE), r"age \(regression\), grade \(ordinal\)"),
        (lambda: started(MeanTeacher(), network_of(AGE)), "the stage has none"),
        (lambda: started(TransformConsistency(distance="kl"), network_of(AGE), AGE, CLASSES), "age.*as numbers"),
        (lambda: started(TransformConsistency([{"class_path": "RandomFlop"}]), network_of(AGE), AGE), "RandomFl[oi]p"),
    ],
)
def test_what_cannot_be_is_said_at_once(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_number_out_of_range_is_told_with_its_place_in_the_sweep():
    spec = objective({"auxiliary": [{"class_path": "FixMatch", "init_args": {"threshold": 2.0}}]})
    with pytest.raises(InputError, match=r"auxiliary\[0\].init_args.threshold: expected a number from 0 to 1, found 2"):
        build_objective(spec, [CLASSES])


def test_bins_may_be_compared_as_distributions():
    network = network_of(BINNED)
    assert value_of(started(TransformConsistency(distance="kl"), network, BINNED), step_of(network)) > 0


def test_the_usual_weight_ramps_up_from_nearly_nothing():
    for term in (TransformConsistency, MeanTeacher):
        ramp = term.default_weight
        assert weight_at(ramp, 0.0) == pytest.approx(10 * np.exp(-5))
        assert weight_at(ramp, 0.3) == weight_at(ramp, 1.0) == 10
    spec = objective({"auxiliary": [{"class_path": "MeanTeacher"}, {"class_path": "FixMatch"}]})
    assert build_objective(spec, [CLASSES]).weights == [MeanTeacher.default_weight, 1.0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of 12 people who are labelled and 12 who are not, and their roles."""
    set_up_torch(1, training=True)
    folder = tmp_path_factory.mktemp("semi")
    people = make_people("clinic", 24)
    make_store(folder / "store", people)
    table = roles(people, 4, 0)
    table["role"] = ["train"] * 8 + ["validation"] * 4 + ["unlabelled"] * 12
    return folder / "store", table


def prepared(world, *auxiliary, table=None, **changes):
    """A training from scratch on the labelled people beside the unlabelled ones, that may start."""
    store, known = world
    said = objective({"auxiliary": list(auxiliary)})
    spec = stage("finetune", "diagnosis", strategy="scratch", objective=said, batch_size=4, **changes)
    rows = known if table is None else table
    run = StageRun(RESNET, spec, 0, rows, LABELS)
    return prepare(run, Source(Store(store), rows["scan_id"].tolist(), CPU))


def outcome(training, kept=None):
    """What two equal trainings have in common bit for bit."""
    progress = fit(training, kept or Kept(None, "trial", {}), CPU)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in progress.history]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in training.network.weights().items()}


@pytest.fixture(scope="module")
def supervised(world):
    """What comes of the same training without any term."""
    return outcome(prepared(world))


def test_a_step_passes_no_head_that_nobody_looks_at(world):
    training = prepared(world, {"class_path": "SimCLR"})
    assert training.network.names == ("diagnosis", "projection")
    seen = scenario_class(training)(training).step((torch.randn(2, 1, 16, 18), [torch.zeros(2)]), training=False)
    assert list(seen.outputs) == ["diagnosis"]


def test_a_head_that_two_terms_want_otherwise_is_the_one_the_stage_names_or_refused(world):
    terms = {"class_path": "SimCLR"}, {"class_path": "VICReg"}
    with pytest.raises(InputError, match="heads.projection: SimCLR and VICReg ask for different ones"):
        prepared(world, *terms)
    narrow = {"class_path": "ProjectionHead", "init_args": {"width": 6}}
    assert prepared(world, *terms, heads={"projection": narrow}).network.head("projection")[-1].num_features == 6


CONSISTENT = {"class_path": "TransformConsistency", "weight": 1.0}
TAUGHT = {"class_path": "MeanTeacher", "init_args": {"decay": 0.8, "early_decay": 0.5}, "weight": 1.0}
MATCHED = {"class_path": "FixMatch", "init_args": {"threshold": 0.5}}


@pytest.mark.parametrize("term", [CONSISTENT, TAUGHT, MATCHED], ids=lambda term: term["class_path"])
def test_a_real_stage_learns_from_unlabelled_scans_and_not_from_labels_that_they_have(world, supervised, term):
    rows, weights = outcome(prepared(world, term))
    name = f"train_{term['class_path'].lower()}"
    assert all(row[name] > 0 for row in rows) and rows[0]["train_loss"] != supervised[0][0]["train_loss"]
    relabelled = world[1].copy()
    more = relabelled["role"] == "unlabelled"
    turned = relabelled["diagnosis"].map({"control": "patient", "patient": "control"})
    relabelled["diagnosis"] = relabelled["diagnosis"].mask(more, turned)
    assert outcome(prepared(world, term, table=relabelled)) == (rows, weights)


def test_it_matters_which_scans_are_unlabelled(world):
    fewer = world[1][(world[1]["role"] != "unlabelled") | (np.arange(24) % 2 == 0)].reset_index(drop=True)
    term = MATCHED | {"init_args": {"threshold": 0.0}}
    assert outcome(prepared(world, term, table=fewer))[1] != outcome(prepared(world, term))[1]


def test_terms_of_weight_0_are_absent_bit_for_bit(world, supervised):
    off = [term | {"weight": 0.0} for term in (CONSISTENT, TAUGHT, MATCHED)]
    assert outcome(prepared(world, *off)) == supervised


class Preempted(BaseException):
    """Ends a training as a scheduler would."""


class Preempting(Kept):
    """Writes a state after every epoch and ends the training after the first."""

    def save(self, state: dict) -> None:
        super().save(state)
        raise Preempted


def test_a_preempted_training_goes_on_with_its_teacher(world, tmp_path):
    whole = outcome(prepared(world, TAUGHT, CONSISTENT, epochs=2))
    with pytest.raises(Preempted):
        outcome(prepared(world, TAUGHT, CONSISTENT, epochs=2), Preempting(tmp_path, "trial", {}, seconds=0))
    kept = Kept(tmp_path, "trial", {})
    state = {name.partition(".")[2]: tensor for name, tensor in kept.load()["objective"].items()}
    assert int(state["0.steps"]) == 2 and any(name.startswith("0.teacher.encoder") for name in state)
    assert outcome(prepared(world, TAUGHT, CONSISTENT, epochs=2), kept) == whole


def test_a_teacher_is_never_among_what_is_optimised_and_follows_the_network(world):
    training = prepared(world, TAUGHT)
    term = training.objective.terms["meanteacher"]
    first = {name: tensor.clone() for name, tensor in term.teacher.state_dict().items()}
    assert not [of for of in training.objective.parameters() if of.requires_grad]
    assert {of.data_ptr() for of in term.teacher.parameters()}.isdisjoint(
        of.data_ptr() for of in training.network.parameters()
    )
    outcome(training)
    assert int(term.steps) == 4
    assert any(not torch.equal(tensor, first[name]) for name, tensor in term.teacher.state_dict().items())


def test_consistency_and_teachers_work_on_labelled_scans_alone(world):
    table = world[1][world[1]["role"] != "unlabelled"].reset_index(drop=True)
    rows, _ = outcome(prepared(world, CONSISTENT, TAUGHT, table=table))
    assert rows[-1]["train_meanteacher"] > 0 and rows[-1]["train_transformconsistency"] > 0


def test_a_strong_view_begins_with_what_makes_a_weak_one():
    assert STRONG[: len(WEAK)] == WEAK
