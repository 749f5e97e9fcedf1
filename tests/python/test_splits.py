import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.splits import draw, holdout, require_disjoint


def people_of(n: int, classes: int = 2) -> pd.DataFrame:
    return pd.DataFrame({"dx": [f"c{i % classes}" for i in range(n)], "age": [float(i) for i in range(n)]}, index=[f"p{i}" for i in range(n)])


def split_of(**changes) -> dict:
    return {"scheme": "holdout", "validation": 0.2, "test": 0.2, "stratify": ["dx"], "seed": 0, "n": None} | changes


KINDS = {"dx": "classification", "age": "regression"}


@settings(max_examples=60, deadline=None)
@given(n=st.integers(10, 200), classes=st.integers(1, 4), seed=st.integers(0, 2**31), shares=st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.4)))
def test_every_person_has_one_role_and_parts_have_the_sizes_asked_for(n, classes, seed, shares):
    validation, test = shares
    roles = holdout(people_of(n, classes), split_of(validation=validation, test=test, seed=seed), KINDS)
    assert sorted(roles.index) == sorted(people_of(n).index)
    assert (roles == "test").sum() == round(test * n)
    assert (roles == "validation").sum() == round(validation * n)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(40, 200), seed=st.integers(0, 1000))
def test_classes_are_shared_out_evenly_when_stratified(n, seed):
    people = people_of(n)
    roles = holdout(people, split_of(seed=seed), KINDS)
    for role in ("train", "validation", "test"):
        counts = people.loc[roles.index[roles == role], "dx"].value_counts()
        assert counts.max() - counts.min() <= 2


@given(seed=st.integers(0, 1000), small=st.integers(2, 20), more=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_fewer_training_persons_are_a_subset_and_others_stay(seed, small, more):
    people = people_of(100)
    few, many = (holdout(people, split_of(n=n, seed=seed), KINDS) for n in (small, small + more))
    train = lambda roles: set(roles.index[roles == "train"])
    assert len(train(few)) == small and train(few) <= train(many)
    assert (few[few != "train"] == many[many != "train"]).all()
    counts = people.loc[sorted(train(few)), "dx"].value_counts()
    assert abs(counts.get("c0", 0) - counts.get("c1", 0)) <= 1


def test_who_stands_alone_in_a_stratum_has_every_role_under_some_seed_and_no_stratum_is_favoured():
    people = pd.DataFrame({"dx": [f"s{i:02d}" for i in range(40)]}, index=[f"p{i:02d}" for i in range(40)])
    drawn = [holdout(people, split_of(seed=seed, n=8), KINDS) for seed in range(200)]
    for role, expected in (("test", 8), ("validation", 8), ("train", 8)):
        places = [people.index.get_loc(person) for roles in drawn for person in roles.index[roles == role]]
        assert len(places) == 200 * expected
        assert abs(sum(places) / len(places) - 19.5) < 1.0


def test_the_seed_moves_people_and_nothing_else_does():
    people = people_of(60)
    assert holdout(people, split_of(), KINDS).equals(holdout(people.sample(frac=1, random_state=1), split_of(), KINDS))
    assert not holdout(people, split_of(), KINDS).equals(holdout(people, split_of(seed=1), KINDS))


def test_a_number_is_stratified_by_fifths():
    people = people_of(100)
    roles = holdout(people, split_of(stratify=["age"]), KINDS)
    fifths = pd.qcut(people["age"], 5, labels=False)
    assert (fifths[roles.index[roles == "test"]].value_counts() == 4).all()


def test_too_few_people_say_so():
    with pytest.raises(ValueError, match="nobody is left for"):
        holdout(people_of(3), split_of(stratify=[], validation=0.1, test=0.1), KINDS)
    with pytest.raises(ValueError, match="n is 90, but only 60"):
        holdout(people_of(100), split_of(n=90), KINDS)


def test_smaller_draws_are_subsets_of_larger_ones():
    everyone = [f"p{i}" for i in range(50)]
    assert set(draw(everyone, 10, 3)) < set(draw(everyone, 20, 3))
    with pytest.raises(ValueError, match="only 50"):
        draw(everyone, 51, 3)


def test_a_person_with_two_roles_stops_the_run_by_name():
    rows = pd.DataFrame({"split": "s", "person": ["a", "a", "b"], "role": ["train", "test", "train"]})
    with pytest.raises(InputError, match="'a' has two roles"):
        require_disjoint(rows)
