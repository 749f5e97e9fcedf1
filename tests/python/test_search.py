import random
import subprocess
import sys

import numpy as np
import pytest
from contracts import check_json
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.errors import InputError
from tlimb.files import digest, read_json, write_json
from tlimb.search import bayes
from tlimb.search.ask import ask
from tlimb.search.halving import rungs, shares
from tlimb.search.methods import method_of
from tlimb.search.points import read_space
from tlimb.search.sampling import sequence
from tlimb.search.study import (
    Asked,
    LeftOut,
    Round,
    find_study,
    new_study,
    of_one_search,
    preference,
    read_scores,
    read_study,
    study_schema,
    tell,
    write_study,
)
from tlimb.search_settings import Halving, Search

SPACE = {
    "x": {"uniform": [-1.0, 1.0]},
    "rate": {"log_uniform": [1e-5, 1e-1]},
    "kind": ["a", {"deep": {"int": [1, 9]}}],
    "only": {"variants": [1, 2, 3], "when": {"kind": "a"}},
}


class Toy:
    """A pool whose points are all different, and what each is worth: best at x = 0.3, rate = 1e-3, kind a."""

    def __init__(self, space=SPACE, unless=()):
        self.problems = []
        self.space = read_space(space, list(unless), False, self.problems)
        assert not self.problems

    def identity(self, point):
        return digest(point)

    def usual(self, key):
        return None

    def worth(self, point, budget=9):
        noise = random.Random(f"{digest(point)}{budget}").gauss(0, 0.05 / budget)
        away = abs(point["x"] - 0.3) + abs(np.log10(point["rate"]) + 3) / 4 + (point["kind"] != "a")
        return 1 - away * (0.5 + budget / 18) / 3 + noise


def played(search, pool, epochs=9, worth=None, order=lambda points: points):
    """A whole study of a toy, every round asked for and told."""
    search = Search(**search)
    method = method_of(search, epochs, pool.space)
    study = new_study(search, "y", "auroc", "max", epochs)
    for number in range(1, method.rounds + 1):
        draft = ask(study, method, pool)
        points = [
            Asked(
                candidate=digest(wanted.point), point=wanted.point, budget=wanted.budget or epochs, why=wanted.why,
                trials=[digest([wanted.point, "trial"])], values=[None], bracket=wanted.bracket,
            )
            for wanted in draft.wanted
        ]  # fmt: skip
        study = study.model_copy(update={"rounds": [*study.rounds, Round(round=number, points=order(points))]})
        scores = {one.trials[0]: (worth or pool.worth)(one.point, one.budget) for one in points}
        study = tell(study, scores)
    return study


METHODS = [
    {"method": "random", "points": 20},
    {"method": "random", "points": 20, "sequence": "halton"},
    {"method": "random", "points": 20, "sequence": "independent"},
    {"method": "bayes", "points": 20, "rounds": 3},
    {"method": "halving", "points": 20},
    {"method": "halving", "points": 20, "halving": {"brackets": 3}},
    {"method": "bayes+halving", "points": 24, "rounds": 3},
    {"method": "bayes+halving", "points": 24, "rounds": 4, "halving": {"brackets": 2}},
]


@pytest.mark.parametrize("search", METHODS, ids=lambda search: "-".join(map(str, search.values())))
def test_every_method_asks_for_as_many_distinct_points_as_it_plans_and_no_more(search):
    study = played(search, Toy())
    plan = method_of(Search(**search), 9, Toy().space).plan(search["points"])
    for one in study.rounds:
        for budget in {asked.budget for asked in one.points}:
            planned = sum(step.points for step in plan if step.round == one.round and step.budget == budget)
            assert sum(asked.budget == budget for asked in one.points) == planned
    begun = [asked.candidate for asked in study.asked() if asked.why != "continued"]
    assert len(begun) == len(set(begun)) == search["points"]


@pytest.mark.parametrize("search", METHODS, ids=lambda search: "-".join(map(str, search.values())))
def test_a_study_is_the_same_again_whatever_the_order_of_keys_and_of_what_is_told(search):
    first = played(search, Toy())
    turned = {key: SPACE[key] for key in reversed(SPACE)}
    second = played(search, Toy(turned), order=lambda points: points[::-1])
    rounds = [[sorted((a.candidate, a.budget, a.value) for a in one.points) for one in s.rounds] for s in (first, second)]
    assert rounds[0] == rounds[1]
    other = played(search | {"seed": 1}, Toy())
    assert {a.candidate for a in other.asked()} != {a.candidate for a in first.asked()}


@pytest.mark.parametrize("kind", ["sobol", "halton", "independent"])
def test_fewer_points_are_the_first_of_more(kind):
    few, many = (
        [a.candidate for a in played({"method": "random", "points": n, "sequence": kind}, Toy()).rounds[0].points]
        for n in (37, 100)
    )
    assert many[:37] == few


def test_low_discrepancy_covers_every_cell_of_a_list_equally_and_every_decade():
    space = read_space({"a": list(range(8)), "rate": {"log_uniform": [1e-4, 1]}}, [], False, [])
    draws = sequence(space, "sobol", 3)
    drawn = [next(draws) for _ in range(64)]
    assert {sum(one["a"] == cell for one in drawn) for cell in range(8)} == {8}
    decades = [sum(10.0**low <= one["rate"] < 10.0 ** (low + 1) for one in drawn) for low in range(-4, 0)]
    assert decades == [16, 16, 16, 16]


def test_a_proposal_of_a_model_is_better_than_chance():
    best = {}
    for method in ("random", "bayes"):
        search = {"method": method, "points": 32, "rounds": 4}
        regrets = []
        for seed in range(6):
            study = played(search | {"seed": seed}, Toy())
            regrets.append(1 - max(asked.value for asked in study.asked()))
        best[method] = np.mean(regrets)
    assert best["bayes"] < 0.8 * best["random"]


@pytest.mark.long
def test_a_gaussian_process_proposes_distinct_points_and_the_same_ones_again():
    search = {"method": "bayes", "points": 12, "rounds": 3, "sampler": "gp"}
    first, second = (played(search, Toy()) for _ in range(2))
    assert first == second and len({asked.candidate for asked in first.asked()}) == 12


def test_points_that_failed_are_told_to_the_model_and_never_asked_again():
    lost = played({"method": "bayes", "points": 12, "rounds": 3}, Toy(), worth=lambda point, budget: None)
    assert len({asked.candidate for asked in lost.asked()}) == 12
    assert all(asked.value is None and asked.failed == 1 for asked in lost.asked())


def test_points_that_were_left_out_are_told_to_the_model_as_failed(monkeypatch):
    told = []

    def model(sampler, direction, seed, space, found):
        told.extend(found)
        return real(sampler, direction, seed, space, found)

    real = bayes._model
    monkeypatch.setattr(bayes, "_model", model)
    search, pool = Search(method="bayes", points=12, rounds=3), Toy()
    study = played(search.model_dump() | {"points": 4, "rounds": 1}, pool)
    lost = {"x": 0.25, "rate": 0.001, "kind": "a", "only": 2}
    rounds = [study.rounds[0].model_copy(update={"left_out": [LeftOut(point=lost, why="cannot be trained")]})]
    draft = ask(study.model_copy(update={"rounds": rounds}), method_of(search, 9, pool.space), pool)
    assert [value for draw, value in told if draw == pool.space.locate(lost)] == [None]
    assert len(told) == 5 and len(draft.wanted) == 4


@pytest.mark.parametrize("halving, epochs, expected", [
    ({}, 9, [1, 3, 9]),
    ({}, 12, [2, 6, 12]),
    ({"reduction": 2, "least": 3}, 20, [3, 6, 12, 20]),
    ({"reduction": 4}, 16, [1, 4, 16]),
    ({}, 1, [1]),
])
def test_rungs_grow_by_the_reduction_and_end_with_the_whole_training(halving, epochs, expected):
    assert rungs(Halving(**halving), epochs) == expected


def test_brackets_share_points_as_hyperband_does():
    assert shares(27 + 12 + 6 + 4, [0, 1, 2, 3], 4, 3) == [27, 12, 6, 4]  # Li et al. 2018, table 1, s = 3 to 0
    for points in range(3, 60):
        assert sum(shares(points, [0, 1, 2], 3, 3)) == points


def test_the_best_third_goes_on_ties_by_the_lower_id_failed_ones_never():
    worth = {}

    def tied(point, budget):
        worth.setdefault(digest(point), len(worth) % 3)
        return [None, 0.5, 0.5][worth[digest(point)]]

    study = played({"method": "halving", "points": 9}, Toy(), worth=tied)
    first, second, third = ([asked.candidate for asked in one.points] for one in study.rounds)
    fine = sorted(candidate for candidate in first if worth[candidate])
    assert sorted(second) == fine[:3] and third == fine[:1]
    assert [asked.budget for one in study.rounds for asked in one.points] == [1] * 9 + [3] * 3 + [9]
    assert {asked.why for one in study.rounds[1:] for asked in one.points} == {"continued"}


def test_a_candidate_that_finished_whole_stands_before_one_that_lost_a_trial():
    study = new_study(Search(), "y", "mae", "min", 3)
    facts = {"point": {}, "budget": 3, "trials": [], "values": [], "why": "startup"}
    asked = [
        Asked(candidate=digest(name), value=value, failed=failed, **facts)
        for name, value, failed in (("a", 2.0, 0), ("b", 1.0, 1), ("c", None, 2), ("d", 1.5, 0))
    ]
    assert sorted(asked, key=preference(study)) == [asked[3], asked[0], asked[1], asked[2]]


def test_a_model_proposes_from_the_largest_budget_that_enough_points_came_back_from():
    search = Search(method="bayes+halving", points=96, rounds=4)
    pool = Toy()
    method = method_of(search, 9, pool.space)
    study = played(search.model_dump(), pool)
    known = [method._known(study.model_copy(update={"rounds": study.rounds[:n]})) for n in (1, 3, 5)]
    assert [{asked.budget for asked in one} for one in known] == [{1}, {3}, {9}]


@pytest.mark.parametrize("search, message", [
    ({"method": "halving", "points": 30, "halving": {"reduction": 2, "least": 1}}, "needs 9 rounds here"),
    ({"method": "bayes+halving", "points": 30, "rounds": 8}, "needs 10 rounds here"),
    ({"method": "halving"}, "search.points: missing; a space with distributions has no end"),
    ({"method": "halving", "points": 30, "halving": {"least": 256}}, "expected fewer than the 256 epochs"),
    ({"method": "halving", "points": 30, "halving": {"brackets": 4}}, "expected at most 3, one for each rung (29, 87, 256"),
    ({"method": "grid", "points": 30}, "method grid tries every point of the space"),
])
def test_what_cannot_go_together_is_told_before_anything_starts(search, message):
    with pytest.raises(InputError, match="search") as caught:
        method_of(Search(**search), 256, Toy().space)
    assert message in str(caught.value)


def test_optuna_is_imported_for_its_methods_alone_and_torch_never():
    code = (
        "import sys; import tlimb.search.suggest, tlimb.search.methods, tlimb.search.jobs;"
        "print(*[name for name in ('optuna', 'torch', 'scipy.stats', 'sklearn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["sobol", "halton", "independent"]))
def test_points_of_any_sequence_lie_in_the_space_and_hold_active_choices_only(seed, kind):
    pool = Toy()
    draws = sequence(pool.space, kind, seed)
    for _ in range(20):
        draw = next(draws)
        point = pool.space.point(draw)
        assert pool.space.locate(point) == draw
        assert ("only" in point) == (point["kind"] == "a")
        assert ("kind[1].deep" in point) == (point["kind"] != "a")
        assert 1e-5 <= point["rate"] <= 1e-1 and -1 <= point["x"] <= 1


def test_a_study_is_read_as_it_was_written_and_its_schema_is_the_one_in_assets(tmp_path):
    study = played({"method": "bayes", "points": 6, "rounds": 2}, Toy())
    write_study(tmp_path / "study.json", study)
    assert read_study(tmp_path / "study.json") == study
    check_json("study", read_json(tmp_path / "study.json"))
    document = read_json(tmp_path / "study.json")
    document["rounds"][0]["points"][2]["budgt"] = 3
    write_json(tmp_path / "study.json", document)
    with pytest.raises(InputError, match=r"study\.json: rounds\[0\]\.points\[2\]\.budgt: unknown key"):
        read_study(tmp_path / "study.json")


def test_the_schema_of_a_study_is_up_to_date(pytestconfig):
    assert read_json(pytestconfig.rootpath / "assets" / "schemas" / "study.schema.json") == study_schema()


def test_the_study_of_a_folder_is_the_last_that_belongs_to_the_rounds_before_it(tmp_path):
    first, second, third = ([["a"]], [["a"], ["b"]], [["a"], ["b"], ["c"]])

    def left(number: int, rounds: list[list[str]], finished: bool = False) -> None:
        study = played({"method": "random", "points": 1}, Toy())
        (asked,) = study.rounds[0].points
        made = [
            Round(round=i, points=[asked.model_copy(update={"trials": [name * 12 for name in names]})])
            for i, names in enumerate(rounds, start=1)
        ]
        study = study.model_copy(update={"rounds": made, "finished": finished})
        write_study(tmp_path / f"round-{number}" / "study.json", study)

    with pytest.raises(InputError, match="no round-<k>/study.json in it"):
        find_study(tmp_path)
    left(1, first)
    left(2, second)
    left(3, third, finished=True)
    left(10, third, finished=True)  # of an earlier search of more rounds
    assert find_study(tmp_path) == tmp_path / "round-3" / "study.json"
    left(2, [["a"], ["d"]])
    assert find_study(tmp_path) == tmp_path / "round-2" / "study.json"
    assert find_study(tmp_path / "round-1" / "study.json") == tmp_path / "round-1" / "study.json"
    (tmp_path / "round-2" / "study.json").write_text('{"half')
    assert find_study(tmp_path) == tmp_path / "round-1" / "study.json"


def test_rounds_belong_to_one_search_while_each_knows_of_the_trials_before_it():
    def told(*rounds: str, finished: bool = False) -> dict:
        return {"finished": finished, "rounds": [{"points": [{"trials": [trial]}]} for trial in rounds]}

    assert of_one_search([]) == 0
    assert of_one_search([told("a"), told("a", "b"), told("a", "b", "c", finished=True), told("a", "b", "c", "d")]) == 3
    assert of_one_search([told("a"), told("a", "b"), told("a", "x", "c")]) == 2
    assert of_one_search([told("a"), told("a", "b", "c")]) == 2
    assert of_one_search([told("a", finished=True), None]) == 1
    assert of_one_search([None, told("a", "b"), None]) == 3


def test_a_score_that_could_not_be_computed_is_none(tmp_path):
    study = played({"method": "random", "points": 4}, Toy())
    trials = [asked.trials[0] for asked in study.rounds[0].points]
    for trial, metrics in zip(trials, ({"auroc": {"value": 0.7}}, {"auroc": None}, {"auroc": {"value": None}})):
        scores = {"status": "ok", "targets": {"y": {"metrics": metrics}}}
        write_json(tmp_path / trial / "scores-validation.json", scores)
    write_json(tmp_path / trials[3] / "scores-validation.json", {"status": "failed", "reason": "diverged", "targets": {}})
    assert [read_scores(tmp_path, study)[trial] for trial in trials] == [0.7, None, None, None]
