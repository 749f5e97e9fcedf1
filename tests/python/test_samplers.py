"""Which scans an epoch draws: shares of classes, weights, pairs, and the same order from the same seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.data.dataset import Batches, EpochOrder
from tlimb.data.samplers import BalancedSampler, WeightedSampler
from tlimb.data.together import Pairs
from tlimb.errors import InputError


def table(classes) -> pd.DataFrame:
    scans = [f"scan-{k}" for k in range(len(classes))]
    return pd.DataFrame({"scan_id": scans, "diagnosis": pd.array(classes, dtype="str")})


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(0, 5))
@settings(deadline=None)
def test_a_balanced_epoch_has_every_class_and_within_it_every_scan_equally_often(classes, seed):
    sampler = BalancedSampler(table(classes), seed, "finetune", label="diagnosis")
    drawn = list(sampler)
    assert len(drawn) == len(classes) == len(sampler)
    of_class = pd.Series([classes[k] for k in drawn]).value_counts().reindex(sorted(set(classes)), fill_value=0)
    assert of_class.max() - of_class.min() <= 1
    times = np.bincount(drawn, minlength=len(classes))
    for name in set(classes):
        within = times[[k for k, other in enumerate(classes) if other == name]]
        assert within.max() - within.min() <= 1


def test_balancing_draws_a_scan_that_stands_twice_twice_as_often():
    rows = table(["a", "a", "b", "b", "b", "b", "b", "b"])
    drawn = np.zeros(8)
    sampler = BalancedSampler(rows, 0, "finetune", label="diagnosis")
    for sampler.epoch in range(1, 201):
        drawn += np.bincount(list(sampler), minlength=8)
    assert drawn[:2].sum() == drawn[2:].sum() == 800
    assert drawn[:2].tolist() == [400, 400] and drawn[2:].min() > 100


def test_weights_are_kept_in_the_long_run():
    sampler = WeightedSampler(table(["a"] * 6 + ["b"] * 4), 0, "finetune", "diagnosis", {"a": 1, "b": 3.0})
    drawn = np.zeros(10)
    for sampler.epoch in range(1, 401):
        drawn += np.bincount(list(sampler), minlength=10)
    assert drawn.sum() == 4000
    expected = np.array([1] * 6 + [3] * 4) / 18 * 4000
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected)).all()


def test_a_number_may_be_the_weight_itself():
    rows = pd.DataFrame({"scan_id": list("xyz"), "weight": [0.0, 1.0, 0.0]})
    assert list(WeightedSampler(rows, 0, "finetune", "weight")) == [1, 1, 1]


def test_a_number_that_is_a_class_is_weighted_by_its_name():
    rows = pd.DataFrame({"scan_id": list("xyz"), "sex": [0.0, 1.0, 0.0]})
    assert list(WeightedSampler(rows, 0, "finetune", "sex", {"0": 0, "1": 2})) == [1, 1, 1]
    with pytest.raises(InputError, match="no weight for the class '0'"):
        WeightedSampler(rows, 0, "finetune", "sex", {"1": 2})


SHOWN = ("labelled", "unlabelled", "longest")


def pairs(n, m, each=(4, 3), shown="labelled", seed=0, least=2) -> Pairs:
    """Batches of n scans and of m more, which are numbered from 100."""
    return Pairs(EpochOrder(n, seed, "finetune"), EpochOrder(m, seed + 1, "finetune"), 100, each, shown, least)


def epochs_of(batches: Pairs, count: int) -> list[list[tuple[list, list]]]:
    """The two sides of each batch of each epoch."""
    found = []
    for epoch in range(1, count + 1):
        batches.sides[0].epoch = epoch
        found.append([([k for k in one if k < 100], [k - 100 for k in one if k >= 100]) for one in batches])
    return found


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 5), st.integers(1, 5), st.sampled_from(SHOWN))
@settings(deadline=None)
def test_an_epoch_shows_one_set_once_and_all_of_the_other_before_any_of_it_again(n, m, one, two, shown):
    batches = pairs(n, m, (one, two), shown)
    epochs = epochs_of(batches, 5)
    assert {len(epoch) for epoch in epochs} == {len(batches)}
    once = batches.shown
    sides = [[[k for batch in epoch for k in batch[side]] for epoch in epochs] for side in (once, 1 - once)]
    assert all(sorted(epoch) == list(range((n, m)[once])) for epoch in sides[0])
    other = np.concatenate(sides[1])
    rounds = [other[k : k + (n, m)[1 - once]].tolist() for k in range(0, len(other), (n, m)[1 - once])]
    assert all(len(set(of)) == len(of) for of in rounds)
    size = min((one, two)[1 - once], (n, m)[1 - once])
    assert all(len(batch[1 - once]) == size for epoch in epochs for batch in epoch)
    assert all(min(len(batch[0]), len(batch[1])) > 0 for epoch in epochs for batch in epoch)


def test_the_longest_set_is_the_one_that_needs_more_batches():
    assert [len(pairs(10, m, (4, 3), "longest")) for m in (9, 10, 11, 12, 30)] == [3, 3, 4, 4, 10]
    assert [pairs(10, m, (4, 3), "longest").shown for m in (9, 11)] == [0, 1]
    assert len(pairs(10, 30, (4, 3))) == 3 and len(pairs(10, 30, (4, 3), "unlabelled")) == 10


def test_no_scan_is_alone_in_the_last_batch_of_the_set_that_is_shown():
    for shown, sizes in (("labelled", [4, 5]), ("unlabelled", [4, 4])):
        assert [len(one) for one, _ in epochs_of(pairs(9, 6, (4, 3), shown), 1)[0]] == sizes
    assert [len(one) for one, _ in epochs_of(pairs(11, 30, (4, 3), least=4), 1)[0]] == [4, 7]


def test_the_labelled_side_is_drawn_by_the_stages_sampler_whichever_set_is_shown():
    rows = table(["a"] * 8 + ["b"] * 2)
    for shown in SHOWN:
        order = BalancedSampler(rows, 0, "finetune", "diagnosis")
        epochs = epochs_of(Pairs(order, EpochOrder(40, 1, "finetune"), 100, (4, 3), shown), 2)
        drawn = [k for epoch in epochs for one, _ in epoch for k in one]
        assert abs(sum(k >= 8 for k in drawn) - len(drawn) / 2) <= 2 and order.epoch == 2


class Whole(Pairs):
    """Pairs whose epoch is set as that of a sampler is."""

    def __init__(self, n, m, seed, stage):
        super().__init__(EpochOrder(n, seed, stage), EpochOrder(m, seed + 1, stage), n, (4, 2))

    epoch = property(lambda self: self.sides[0].epoch, lambda self, epoch: setattr(self.sides[0], "epoch", epoch))


MAKERS = [
    lambda seed, stage: EpochOrder(20, seed, stage),
    lambda seed, stage: BalancedSampler(table(["a", "b"] * 10), seed, stage, "diagnosis"),
    lambda seed, stage: WeightedSampler(table(["a", "b"] * 10), seed, stage, "diagnosis", {"a": 1, "b": 2}),
    lambda seed, stage: Whole(20, 6, seed, stage),
]


@pytest.mark.parametrize("make", MAKERS, ids=["once", "balanced", "weighted", "paired"])
def test_an_epochs_order_follows_from_seed_stage_and_epoch_alone(make):
    def order(seed, stage, epoch, before=()):
        sampler = make(seed, stage)
        for sampler.epoch in before:
            list(sampler)
        sampler.epoch = epoch
        return str(list(sampler))

    assert order(0, "pretrain", 3, before=(1, 2)) == order(0, "pretrain", 3)
    choices = [(0, "pretrain", 1), (0, "pretrain", 2), (1, "pretrain", 1), (0, "finetune", 1)]
    assert len({order(*choice) for choice in choices}) == 4


def test_no_scan_is_alone_in_a_balanced_epochs_last_batch():
    sampler = BalancedSampler(table(["a", "b", "b"] * 3), 0, "finetune", "diagnosis")
    assert [len(batch) for batch in Batches(sampler, 4)] == [4, 5]


def test_what_a_sampler_cannot_use_is_named():
    rows = table(["a", "b"]).assign(age=[30.0, 40.0], sex=pd.array(["f", None], dtype="str"))
    labels = {"diagnose": "did you mean 'diagnosis'", "sex": "1 training scans have no 'sex'", "age": "is a number"}
    for label, message in labels.items():
        with pytest.raises(InputError, match=message):
            BalancedSampler(rows, 0, "finetune", label)
    wrong = [({"a": 1}, "no weight for the class 'b'"), (None, "classes, not numbers"), ({"a": 1, "b": -1}, "negative")]
    for weights, message in wrong:
        with pytest.raises(InputError, match=message):
            WeightedSampler(rows, 0, "finetune", "diagnosis", weights)
    for bad in (None, float("nan"), float("inf"), "much"):
        with pytest.raises(InputError, match="weights are not finite, negative or all 0"):
            WeightedSampler(rows, 0, "finetune", "diagnosis", {"a": 1, "b": bad})
