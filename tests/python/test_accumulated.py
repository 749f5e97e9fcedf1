"""Gradients of several batches and processes that are added up, against those of one large batch."""

from collections import deque

import numpy as np
import pytest
import torch
from test_multitask import Dense
from test_scenarios import SGD, beside, prepared, trained, trainer, world  # noqa: F401
from torch import nn
from training_jobs import objective as said

from tlimb.architectures.network import Network
from tlimb.config import Tuning
from tlimb.data.dataset import Batches, ScanDataset, batched
from tlimb.data.targets import Target
from tlimb.objectives.objective import build_objective
from tlimb.objectives.term import Step
from tlimb.scenarios.parts import Parts, counts_of

NAN = float("nan")
TARGETS = (Target("age", "regression", (), 50.0, 10.0), Target("sex", "classification", ("f", "m"), counts=(6, 2)))
SCANS = 8
AGE = [0.5, NAN, NAN, -1.0, NAN, 2.0, NAN, NAN]
SEX = [0, 0, 1, NAN, 0, NAN, 0, 1]
WEIGHED = {"sex": {"class_path": "CrossEntropy", "init_args": {"class_weights": [0.5, 2.0]}}}
BALANCED = {"diagnosis": {"class_path": "CrossEntropy", "init_args": {"class_weights": "balanced"}}}
ADDITIVE = {
    "mean": None,
    "weighted sum": {"class_path": "WeightedSum", "init_args": {"weights": {"age": 3.0}}},
    "uncertainty": {"class_path": "UncertaintyWeighting", "init_args": {}},
}
AWAY = {"class_path": "GradNorm", "init_args": {}}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(Dense(), {"age": nn.Linear(4, 1), "sex": nn.Linear(4, 2)}).double()


def parted(objective, batches, size, accumulate, labels) -> list[tuple[list[int], dict]]:
    """The parts of an epoch for all processes, each with its shares."""
    counts, found = objective.counts(labels), []
    for rank in range(size):
        shares = deque()
        found += [(part, shares.popleft()) for part in Parts(batches, (rank, size), accumulate, counts, shares)]
    return found


def gradients(network, objective, labels, parts) -> tuple[np.ndarray, float]:
    """The gradient and the value of parts that count as their scans do."""
    network.zero_grad()
    objective.zero_grad()
    images = torch.tensor(np.random.default_rng(2).normal(size=(SCANS, 6)))
    whole, value = sum(len(part) for part, _ in parts), 0.0
    for part, shares in parts:
        step = Step(network, images[part], [label[part] for label in labels], labelled=len(part), shares=shares)
        term = objective(step)["primary"] * len(part) / whole
        term.backward()
        value += float(term.detach())
    learned = [*network.parameters(), *objective.parameters()]
    return torch.cat([of.grad.flatten() for of in learned]).numpy(), value


@pytest.mark.parametrize("combine", ADDITIVE.values(), ids=ADDITIVE)
@pytest.mark.parametrize(("each", "size"), [(2, 1), (4, 1), (4, 2), (8, 2)])
def test_parts_add_up_to_the_gradient_of_one_large_batch(network, combine, each, size):
    objective = build_objective(said({"primary": WEIGHED, "combine": combine}), TARGETS).double()
    labels = [torch.tensor(AGE).double(), torch.tensor(SEX).double()]
    order = np.random.default_rng(3).permutation(SCANS).tolist()
    parts = parted(objective, batched(order, each), size, SCANS // each, labels)
    assert sorted(sum((part for part, _ in parts), [])) == list(range(SCANS))
    wanted, value = gradients(network, objective, labels, [(order, None)])
    found, total = gradients(network, objective, labels, parts)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)
    assert total == pytest.approx(value, rel=1e-12)
    unweighed, _ = gradients(network, objective, labels, [(part, None) for part, _ in parts])
    assert not np.allclose(unweighed, wanted, rtol=1e-2)


def test_shares_are_those_of_the_batches_of_a_step_alone():
    objective = build_objective(said({"primary": WEIGHED}), TARGETS)
    labels = [torch.tensor(AGE), torch.tensor(SEX)]
    parts = parted(objective, [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]], 1, 2, labels)
    assert [part for part, _ in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    one, two, three = (shares for _, shares in parts)
    assert one["age"] == pytest.approx((1 / 3) / (3 / 6)) and two["age"] == pytest.approx((2 / 3) / (3 / 6))
    assert one["sex"] == pytest.approx((3 / 3) / (3.5 / 6)) and two["sex"] == pytest.approx((0.5 / 3) / (3.5 / 6))
    assert three == {"sex": 1.0}  # 8 and 9 are of a second set, and neither 6 nor 7 has an age


def test_a_combination_that_is_not_additive_is_given_the_means_of_its_batch(network):
    labels, found = [torch.tensor(AGE).double(), torch.tensor(SEX).double()], []
    for shares in (None, {"age": 3.0}):
        objective = build_objective(said({"primary": WEIGHED, "combine": AWAY}), TARGETS).double()
        found.append(gradients(network, objective, labels, [([0, 1, 2, 3], shares)])[0])
    assert np.array_equal(*found)


def test_surgery_is_that_of_each_batch_and_nothing_without_conflict(network):
    both = (TARGETS[0], Target("height", "regression", (), 170.0, 8.0))
    network = Network(network.encoder, {"age": nn.Linear(4, 1), "height": nn.Linear(4, 1)}).double()
    network.head("height").load_state_dict(network.head("age").state_dict())
    labels = [torch.tensor(AGE).double(), torch.tensor(AGE).double()]
    labels[1][0] = NAN
    plain, surgery = (
        build_objective(said({"combine": combine}), both).double()
        for combine in (None, {"class_path": "PCGrad", "init_args": {}})
    )
    parts = parted(plain, batched(range(SCANS), 2), 1, 4, labels)
    wanted = gradients(network, plain, labels, [(list(range(SCANS)), None)])[0]
    np.testing.assert_allclose(gradients(network, surgery, labels, parts)[0], wanted, rtol=1e-10, atol=1e-14)


def test_nothing_is_shared_where_all_scans_count_the_same_or_are_not_those_of_the_stage():
    labels = [torch.tensor(AGE), torch.tensor(SEX)]
    full = [label.nan_to_num(0.0) for label in labels]
    train = torch.utils.data.TensorDataset(torch.zeros(SCANS))
    loader, other = (torch.utils.data.DataLoader(of) for of in (train, torch.utils.data.TensorDataset(torch.zeros(3))))
    usual, weighed = (build_objective(said({"primary": primary}), TARGETS) for primary in (None, WEIGHED))
    assert counts_of(usual, full, loader, train) is None and counts_of(weighed, labels, other, train) is None
    assert set(counts_of(usual, labels, loader, train)) == set(counts_of(weighed, full, loader, train)) == {"age", "sex"}
    assert counts_of(weighed, full, loader, train)["sex"].tolist() == [0.5, 0.5, 2.0, 0.5, 0.5, 0.5, 0.5, 2.0]


@pytest.fixture(scope="module")
def lacking(world):  # noqa: F811
    """The world of scenarios, in which most of the ten training scans lack a label or two."""
    folder, one, both = world

    def without(rows):
        rows = rows.reset_index(drop=True)
        rows.loc[[1, 2, 5, 6, 7, 8], "age"] = np.nan
        rows.loc[[0, 3, 4, 6], "diagnosis"] = None
        return rows

    return folder, without(one), without(both)


SETTINGS = {"targets": ("age", "diagnosis"), "objective": {"primary": BALANCED}, "gradient_clip": 0.5}
SWA = Tuning(average={"kind": "swa", "start": 2}).model_dump()


def compared(found: tuple, wanted: tuple) -> None:
    """That histories and weights are the same but for rounding; losses of single targets are means over batches."""
    for one, other in zip(found[0], wanted[0], strict=True):
        for name in ("train_loss", "validation_loss"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    for name, weights in wanted[1].items():
        np.testing.assert_allclose(np.frombuffer(found[1][name], "f4"), np.frombuffer(weights, "f4"), atol=2e-6)


@pytest.mark.parametrize(("two", "tuning"), [(False, None), (True, None), (False, SWA)])
def test_a_training_with_missing_labels_is_that_of_large_batches(lacking, two, tuning):
    settings = SETTINGS | {"two": two} | ({"tuning": tuning} if tuning else {})
    large = trained(prepared(lacking, batch_size=10, **settings))
    for size, accumulate in ((2, 5), (4, 3)):
        small = prepared(lacking, batch_size=size, trainer=trainer(accumulate=accumulate), **settings)
        compared(trained(small), large)


@pytest.mark.long
def test_two_processes_with_missing_labels_train_as_one(lacking):
    large = trained(prepared(lacking, batch_size=10, **SETTINGS))
    history, weights = beside(lacking, batch_size=4, **SETTINGS, trainer={"accumulate": 2})
    compared((history, {name: tensor.numpy().tobytes() for name, tensor in weights.items()}), large)


def test_accumulation_over_whole_labels_is_not_touched(world):  # noqa: F811
    """Batches stay those of the scenario's own loader."""
    from tlimb.scenarios.scenario import scenario_class

    training = prepared(world, batch_size=2, trainer=trainer(accumulate=2))
    made = scenario_class(training)(training)
    assert type(made.own_batches().batch_sampler) is Batches and isinstance(training.train, ScanDataset)
