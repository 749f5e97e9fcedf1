"""Which scans an epoch draws: shares of classes, weights, pairs, and the same order from the same seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.data.dataset import Batches, EpochOrder
from tlimb.data.samplers import BalancedSampler, PairedSampler, WeightedSampler
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


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)
def test_pairs_show_the_longer_side_once_and_the_other_in_even_rounds(n, m, one, two):
    sampler = PairedSampler(range(n), range(100, 100 + m), (one, two), 0, "finetune")
    batches = list(sampler)
    assert len(batches) == len(sampler)
    first, second = ([k for batch in batches for k in batch if (k < 100) is left] for left in (True, False))
    counts = [np.bincount(first, minlength=n), np.bincount(np.array(second) - 100, minlength=m)]
    assert any((count == 1).all() for count in counts)
    assert all(count.max() - count.min() <= 1 for count in counts)
    assert all(sum(k < 100 for k in batch) == one and len(batch) == one + two for batch in batches[:-1])
    assert all(batch == sorted(batch, key=lambda k: k >= 100) for batch in batches)


MAKERS = [
    lambda seed, stage: EpochOrder(20, seed, stage),
    lambda seed, stage: BalancedSampler(table(["a", "b"] * 10), seed, stage, "diagnosis"),
    lambda seed, stage: WeightedSampler(table(["a", "b"] * 10), seed, stage, "diagnosis", {"a": 1, "b": 2}),
    lambda seed, stage: PairedSampler(range(20), range(20, 26), (4, 2), seed, stage),
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
    with pytest.raises(InputError, match="found 0 and 2"):
        PairedSampler([], [1, 2], (1, 1), 0, "finetune")
