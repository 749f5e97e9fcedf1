import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.config import Split
from tlimb.errors import InputError
from tlimb.files import digest
from tlimb.splits import _fifths, _training, divide, draw, require_disjoint, resolved

KINDS = {"dx": "classification", "age": "regression", "site": "classification"}
SITES = [["berlin"], ["oslo"], ["seoul"]]


def people_of(n: int, classes: int = 2) -> pd.DataFrame:
    columns = {"dx": [f"c{i % classes}" for i in range(n)], "age": [float(i) for i in range(n)]}
    columns["site"] = [SITES[i // 2 % 3][0] for i in range(n)]
    return pd.DataFrame(columns, index=[f"p{i}" for i in range(n)])


def splits_of(**changes) -> list[dict]:
    split = Split(**{"stratify": ["dx"]} | changes).model_dump()
    return resolved(split, SITES if split["held_out"] is None else [split["held_out"]], 2)


def split_of(**changes) -> dict:
    (split,) = splits_of(**changes)
    return split


def listed(people: pd.DataFrame) -> dict:
    """A split file's fold that leaves every tenth person out."""
    roles = {"test": people.index[1::10], "validation": people.index[2::10]}
    rest = [person for i, person in enumerate(people.index) if i % 10 > 2]
    return {role: list(persons) for role, persons in roles.items()} | {"train": rest}


def roles_of(people: pd.DataFrame, split: dict) -> pd.Series:
    return divide(people, split, KINDS, listed(people) if split["scheme"] == "file" else None)["role"]


def persons_of(role: str, roles: pd.Series) -> list[str]:
    return sorted(roles.index[roles == role])


SCHEMES = {
    "holdout": {"scheme": "holdout"},
    "kfold": {"scheme": "kfold", "folds": 4},
    "nested": {"scheme": "nested", "folds": 3, "inner_folds": 3},
    "site": {"scheme": "site"},
    "file": {"scheme": "file", "file": "splits.csv"},
}
every_scheme = st.sampled_from(list(SCHEMES.values()))
strata = st.lists(st.sampled_from(["dx", "age", "site"]), unique=True, max_size=3)


@settings(max_examples=15, deadline=None)
@given(scheme=every_scheme, n=st.integers(40, 150), seed=st.integers(0, 2**31), stratify=strata)
def test_everybody_has_one_role_whatever_the_scheme_and_the_order_of_rows(scheme, n, seed, stratify):
    people = people_of(n)
    people["age"] = people["age"] // 4
    shuffled = people.sample(frac=1, random_state=seed % 1000)
    for split in splits_of(**scheme, seed=seed, stratify=stratify):
        roles = divide(people, split, KINDS, listed(people) if split["scheme"] == "file" else None)
        again = divide(shuffled, split, KINDS, listed(people) if split["scheme"] == "file" else None)
        assert roles.equals(again) and roles.index.is_unique and (roles["times"] == 1).all()
        expected = people.index if split["scheme"] != "file" else [p for i, p in enumerate(people.index) if i % 10]
        assert set(roles.index) == set(expected)
        assert set(roles["role"]) == {"train", "validation", "test"}


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(10, 200),
    classes=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    shares=st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.4)),
)
def test_a_holdout_has_the_shares_or_the_numbers_of_persons_asked_for(n, classes, seed, shares):
    validation, test = shares
    roles = roles_of(people_of(n, classes), split_of(validation=validation, test=test, seed=seed))
    assert len(persons_of("test", roles)) == round(test * n)
    assert len(persons_of("validation", roles)) == round(validation * n)
    counted = roles_of(people_of(n, classes), split_of(validation=3, test=2, seed=seed))
    assert [len(persons_of(role, counted)) for role in ("validation", "test")] == [3, 2]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(40, 200), seed=st.integers(0, 1000))
def test_classes_are_shared_out_evenly_when_stratified(n, seed):
    people = people_of(n)
    roles = roles_of(people, split_of(seed=seed))
    for role in ("train", "validation", "test"):
        counts = people.loc[persons_of(role, roles), "dx"].value_counts()
        assert counts.max() - counts.min() <= 2


@settings(max_examples=40, deadline=None)
@given(n=st.integers(12, 150), k=st.integers(2, 7), seed=st.integers(0, 2**31), stratify=strata)
def test_folds_partition_the_persons_in_equal_parts_of_every_stratum_and_of_all(n, k, seed, stratify):
    people = people_of(n)
    splits = splits_of(scheme="kfold", folds=k, seed=seed, stratify=stratify, validation=0.1)
    tests = [persons_of("test", roles_of(people, split)) for split in splits]
    assert len(tests) == k and sorted(itertools.chain(*tests)) == sorted(people.index)
    assert max(map(len, tests)) - min(map(len, tests)) <= 1
    names = people.assign(age=pd.qcut(people.loc[sorted(people.index), "age"].rank(method="first"), 5, labels=False))
    strata = names[stratify].astype("str").agg("/".join, axis=1) if stratify else pd.Series("", names.index)
    for _, stratum in strata.groupby(strata):
        sizes = [len(set(stratum.index) & set(test)) for test in tests]
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=20, deadline=None)
@given(n=st.integers(40, 120), seed=st.integers(0, 2**31))
def test_inner_folds_partition_who_is_left_by_the_outer_fold(n, seed):
    people, found = people_of(n), {}
    for split in splits_of(scheme="nested", folds=3, inner_folds=4, seed=seed):
        found.setdefault(split["fold"], []).append(roles_of(people, split))
    for inner in found.values():
        (test,) = {tuple(persons_of("test", roles)) for roles in inner}
        validations = [persons_of("validation", roles) for roles in inner]
        assert sorted(itertools.chain(test, *validations)) == sorted(people.index)
        assert max(map(len, validations)) - min(map(len, validations)) <= 1
    outer = [persons_of("test", inner[0]) for inner in found.values()]
    assert sorted(itertools.chain(*outer)) == sorted(people.index)


def test_a_site_is_held_out_whole_and_some_can_be_held_out_together():
    people = people_of(60)
    for split in splits_of(scheme="site"):
        roles = roles_of(people, split)
        assert set(people.loc[persons_of("test", roles), "site"]) == set(split["held_out"])
        assert set(people.loc[persons_of("train", roles), "site"]).isdisjoint(split["held_out"])
        assert len(persons_of("validation", roles)) == round(0.2 * 60)
    assert [split["held_out"] for split in splits_of(scheme="site")] == SITES
    together = roles_of(people, split_of(scheme="site", held_out=["oslo", "seoul"]))
    assert set(people.loc[persons_of("test", together), "site"]) == {"oslo", "seoul"}


def test_a_split_file_is_followed_to_the_letter():
    people = people_of(50)
    roles = roles_of(people, splits_of(scheme="file", file="splits.csv")[1])
    for role, persons in listed(people).items():
        assert persons_of(role, roles) == sorted(persons)


@pytest.mark.parametrize("scheme, changed", [("holdout", 2), ("kfold", 4), ("nested", 6), ("site", 2), ("file", 0)])
def test_one_person_more_moves_few_of_the_others_however_many_they_are(scheme, changed):
    """On average over additions, for each of two strata; holdout 2 at most (one a boundary)."""
    means = []
    for n in (120, 480):
        everybody, moved = people_of(n + 1), []
        for seed in range(12):
            before = everybody.drop(index=f"p{seed * 7}")
            split = splits_of(**SCHEMES[scheme], seed=seed)[-1]
            file = listed(before) if scheme == "file" else None
            earlier, later = divide(before, split, KINDS, file), divide(everybody, split, KINDS, file)
            moved.append((earlier["role"] != later["role"].reindex(earlier.index)).sum())
        means.append(np.mean(moved))
        assert max(moved) <= 2 * changed
    assert max(means) <= changed


def test_one_person_more_takes_few_of_the_draws_of_a_replicate():
    everybody = people_of(201)
    split = split_of(n=60, replicates=1, stratify=[])
    small = divide(everybody.drop(index="p33"), split, KINDS)
    large = divide(everybody, split, KINDS)
    training = (small["role"] == "train") & (large["role"].reindex(small.index) == "train")
    moved = (small["times"] - large["times"].reindex(small.index))[training].abs().sum()
    assert moved <= 3


@settings(max_examples=30, deadline=None)
@given(scheme=every_scheme, seed=st.integers(0, 1000), small=st.integers(2, 8), more=st.integers(0, 8))
def test_fewer_training_persons_are_a_subset_and_others_stay(scheme, seed, small, more):
    people = people_of(100)
    few, many = (roles_of(people, splits_of(**scheme, n=n, seed=seed)[0]) for n in (small, small + more))
    assert len(persons_of("train", few)) == small
    assert set(persons_of("train", few)) <= set(persons_of("train", many))
    assert (few[few != "train"] == many[many != "train"]).all()
    counts = people.loc[persons_of("train", few), "dx"].value_counts()
    assert abs(counts.get("c0", 0) - small * share_of_c0(people, {"n": None} | scheme, seed)) <= 1


def share_of_c0(people: pd.DataFrame, scheme: dict, seed: int) -> float:
    """The share of class c0 among all who are left to train on."""
    roles = roles_of(people, splits_of(**scheme, seed=seed)[0])
    return (people.loc[persons_of("train", roles), "dx"] == "c0").mean()


@settings(max_examples=25, deadline=None)
@given(scheme=every_scheme, seed=st.integers(0, 1000), n=st.integers(4, 20))
def test_a_replicate_draws_n_with_replacement_from_the_pool_and_leaves_the_rest_alone(scheme, seed, n):
    people = people_of(100)
    picked = {"fold": 0} if scheme["scheme"] not in ("holdout",) else {}
    picked |= {"inner_fold": 0} if scheme["scheme"] == "nested" else {}
    whole = roles_of(people, split_of(**scheme, **picked, seed=seed))
    samples = []
    for split in splits_of(**scheme, **picked, seed=seed, n=n, replicates=3):
        found = divide(people, split, KINDS, listed(people) if scheme["scheme"] == "file" else None)
        training = found[found["role"] == "train"]
        assert training["times"].sum() == n and (found["times"] >= 1).all()
        assert set(training.index) <= set(persons_of("train", whole))
        assert (found.loc[found["role"] != "train", "role"] == whole[whole != "train"]).all()
        count = training["times"][people.loc[training.index, "dx"] == "c0"].sum()
        assert abs(count - n * share_of_c0(people, scheme | picked, seed)) <= 1
        samples.append(training["times"].to_dict())
    assert n < 8 or samples[0] != samples[1] != samples[2]


def test_draws_are_those_of_a_bootstrap():
    """Times in all are n; each is binomial with mean n / pool and variance n / pool (1 - 1 / pool), Efron 1979."""
    people, n, replicates = people_of(50), 30, 300
    splits = splits_of(n=n, replicates=replicates, stratify=[], validation=10, test=10)
    drawn = [divide(people, split, KINDS) for split in splits]
    times = pd.DataFrame([found.loc[found["role"] == "train", "times"] for found in drawn]).fillna(0).to_numpy()
    assert times.shape == (replicates, 30) and (times.sum(axis=1) == n).all()
    assert np.abs(times.mean(axis=0) - 1).max() < 4.5 * np.sqrt(29 / 30 / replicates)
    assert times.var(axis=0).mean() == pytest.approx(29 / 30, rel=0.05)
    assert np.corrcoef(times[:-1].ravel(), times[1:].ravel())[0, 1] == pytest.approx(0, abs=0.04)


def test_a_replicate_without_n_draws_as_many_as_the_pool_has():
    found = divide(people_of(100), splits_of(replicates=2)[1], KINDS)
    training = found[found["role"] == "train"]
    assert training["times"].sum() == 60 and len(training) < 60


def test_smaller_replicates_are_parts_of_larger_ones():
    few, many = (divide(people_of(100), split_of(n=n, replicates=5, replicate=3), KINDS) for n in (10, 30))
    few = few.loc[few["role"] == "train", "times"]
    assert (few <= many["times"].reindex(few.index)).all()


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 2**31), data=st.data())
def test_one_more_draw_of_a_replicate_leaves_the_others_whatever_the_strata(sizes, seed, data):
    """Each stratum has its share to within half a person for each stratum, and what it had for one draw fewer."""
    strata = [(f"s{k}", [f"s{k}p{i}" for i in range(size)]) for k, size in enumerate(sizes)]
    n = data.draw(st.integers(1, sum(sizes)))
    fewer, more = (_training(strata, {"n": count, "replicate": 0}, seed) for count in (n - 1, n))
    assert (sum(fewer.values()), sum(more.values())) == (n - 1, n)
    assert all(more.get(person, 0) >= times for person, times in fewer.items())
    for _, queue in strata:
        drawn = sum(more.get(person, 0) for person in queue)
        assert abs(drawn - n * len(queue) / sum(sizes)) <= max(1, len(sizes) / 2)


def test_a_small_stratum_keeps_its_draw_when_one_more_is_asked_for():
    """Largest remainders give 4, 4 and 2 of ten, but 5, 5 and 1 of eleven, of strata of 6, 6 and 2."""
    strata = [(f"s{k}", [f"s{k}p{i}" for i in range(size)]) for k, size in enumerate((6, 6, 2))]
    for seed in range(20):
        ten, eleven = (_training(strata, {"n": n, "replicate": 0}, seed) for n in (10, 11))
        assert all(eleven.get(person, 0) >= times for person, times in ten.items())


def test_every_part_that_a_split_asks_for_stands_once():
    assert len(splits_of(repeats=3)) == 3
    assert len(splits_of(scheme="kfold", folds=4, repeats=2)) == 8
    nested = splits_of(scheme="nested", folds=4, inner_folds=3, repeats=2, replicates=5)
    assert len(nested) == len({digest(split) for split in nested}) == 4 * 3 * 2 * 5
    (one,) = splits_of(scheme="nested", fold=1, inner_fold=2)
    assert (one["repeat"], one["fold"], one["inner_fold"], one["replicate"]) == (0, 1, 2, None)
    with pytest.raises(ValueError, match="fold is 3, but there are only 3, counted from 0"):
        splits_of(scheme="site", fold=3)


def test_counts_that_move_nobody_leave_no_trace_in_a_resolved_split():
    assert splits_of(replicates=3, n=5) == splits_of(replicates=9, n=5)[:3]
    assert splits_of(repeats=2) == splits_of(repeats=4)[:2]
    assert split_of(scheme="file", file="a.csv", fold=0) == split_of(scheme="file", file="b.csv", fold=0)
    assert split_of(folds=3) == split_of(folds=5) and split_of(scheme="kfold", fold=0, folds=3)["folds"] == 3


def test_repeats_divide_the_same_people_differently():
    nested = {"scheme": "nested", "fold": 0, "inner_fold": 0}
    for scheme in ({"scheme": "holdout"}, {"scheme": "kfold", "fold": 0}, nested):
        found = [tuple(persons_of("test", roles_of(people_of(60), split))) for split in splits_of(**scheme, repeats=4)]
        assert len(set(found)) == 4
    site = [roles_of(people_of(60), split) for split in splits_of(scheme="site", fold=0, repeats=3)]
    validations = [tuple(persons_of("validation", roles)) for roles in site]
    assert len(set(validations)) == 3


def test_who_stands_alone_in_a_stratum_has_every_role_under_some_seed_and_no_stratum_is_favoured():
    people = pd.DataFrame({"dx": [f"s{i:02d}" for i in range(40)]}, index=[f"p{i:02d}" for i in range(40)])
    drawn = [roles_of(people, split_of(seed=seed, n=8)) for seed in range(120)]
    for role, expected in (("test", 8), ("validation", 8), ("train", 8)):
        places = [people.index.get_loc(person) for roles in drawn for person in persons_of(role, roles)]
        assert len(places) == 120 * expected
        assert abs(sum(places) / len(places) - 19.5) < 1.3


def test_the_seed_moves_people():
    assert not roles_of(people_of(60), split_of()).equals(roles_of(people_of(60), split_of(seed=1)))


def test_a_holdout_divides_people_as_it_always_did():
    """Published results stand on these splits."""
    for n, changes, expected in (
        (240, {"validation": 0.2, "test": 0.6}, "c7d3252d1db6"),
        (100, {"stratify": ["dx", "age"], "seed": 3, "n": 17}, "a8b245d8c6dc"),
        (60, {"validation": 0.1, "test": 0.1, "stratify": []}, "a3a8dd84e845"),
    ):
        assert digest(roles_of(people_of(n), split_of(**changes)).to_dict()) == expected


def test_a_number_is_stratified_by_fifths():
    people = people_of(100)
    roles = roles_of(people, split_of(stratify=["age"]))
    fifths = pd.qcut(people["age"], 5, labels=False)
    assert (fifths[persons_of("test", roles)].value_counts() == 4).all()


@pytest.mark.parametrize("known", [2, 3, 4, 5, 6, 7, 11, 23, 50, 101])
def test_fifths_are_those_of_quantiles_of_the_ranks(known):
    numbers = pd.Series(np.random.default_rng(known).integers(0, 20, known).astype(float))
    assert _fifths(numbers).equals(pd.qcut(numbers.rank(method="first"), min(5, known), labels=False))


def test_a_number_that_few_or_none_have_is_told_or_a_stratum_of_its_own():
    people = people_of(40).assign(age=np.nan)
    with pytest.raises(ValueError, match="nobody has 'age', by which the split is stratified"):
        roles_of(people, split_of(stratify=["age"]))
    for known in (1, 2, 4):
        people.loc[people.index[:known], "age"] = 50.0
        assert _fifths(people["age"]).value_counts().to_dict() == dict.fromkeys(map(float, range(known)), 1)
        assert len(roles_of(people, split_of(stratify=["age"]))) == 40


def test_too_few_people_say_so():
    with pytest.raises(ValueError, match="nobody is left for"):
        roles_of(people_of(3), split_of(stratify=[], validation=0.1, test=0.1))
    with pytest.raises(ValueError, match="n is 90, but only 60"):
        roles_of(people_of(100), split_of(n=90))
    with pytest.raises(ValueError, match="n is 90, but only 60"):
        roles_of(people_of(100), split_of(n=90, replicates=1))
    with pytest.raises(ValueError, match="nobody is left for train"):
        roles_of(people_of(10), split_of(validation=5, test=5))
    with pytest.raises(ValueError, match="nobody to divide"):
        roles_of(people_of(10).iloc[:0], split_of(stratify=["age"]))


def test_smaller_draws_are_subsets_of_larger_ones():
    everyone = [f"p{i}" for i in range(50)]
    assert set(draw(everyone, 10, 3)) < set(draw(everyone, 20, 3))
    with pytest.raises(ValueError, match="only 50"):
        draw(everyone, 51, 3)


def test_a_person_with_two_roles_stops_the_run_by_name():
    rows = pd.DataFrame({"split": "s", "person": ["a", "a", "b"], "role": ["train", "test", "train"]})
    with pytest.raises(InputError, match="'a' has two roles"):
        require_disjoint(rows)
