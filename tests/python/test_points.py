import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.search.check import _space_problems
from tlimb.search.grammar import Choice, matches, same
from tlimb.search.named_presets import FOLDER, expanded, preset_names
from tlimb.search.points import read_space
from tlimb.search.sampling import at, sequence
from tlimb.search.space import Candidates, grid

LR = "stages.finetune.optimizer.init_args.lr"


def problems_of(document) -> str:
    with pytest.raises(InputError) as caught:
        Candidates(read_sweep(document))
    return str(caught.value)


def told_of(space, unless=(), lists_only=False) -> str:
    problems = []
    read_space(space, list(unless), lists_only, problems)
    return "\n".join(map(str, problems))


@pytest.mark.parametrize("space, unless, message", [
    ({"x": {"unifrom": [0, 1]}}, [], "search.space.'x': expected a list of variants or an object that names a distribution, "
     "found 'unifrom' (did you mean 'uniform'?)"),
    ({"x": {"uniform": [1, 1]}}, [], "search.space.'x'.uniform: expected [low, high], two numbers of which the first is"),
    ({"x": {"uniform": [2, 1]}}, [], "found [2, 1]"),
    ({"x": {"uniform": [0, 1, 2]}}, [], "found [0, 1, 2]"),
    ({"x": {"uniform": 3}}, [], "search.space.'x'.uniform: expected a list, found 3"),
    ({"x": {"int": [0.5, 2]}}, [], "search.space.'x'.int: expected whole numbers, found [0.5, 2]"),
    ({"x": {"log_uniform": [0, 1]}}, [], "search.space.'x'.log_uniform: expected numbers above 0"),
    ({"x": {"log_int": [-1, 4]}}, [], "search.space.'x'.log_int: expected numbers above 0"),
    ({"x": []}, [], "search.space.'x': expected at least one variant, found an empty list"),
    ({"x": {"variants": []}}, [], "search.space.'x': expected at least one variant"),
    ({"x": {"uniform": [0, 1], "wehn": {}}}, [], "search.space.'x'.wehn: unknown key beside 'uniform' (did you mean 'when'?)"),
    ({"x": {"uniform": [0, 1], "when": {"yy": 1}}, "y": [1]}, [],
     "search.space.'x'.when: no key of the space is called 'yy' (did you mean 'y'?)"),
    ({"x": {"uniform": [0, 1], "when": {"y": 2}}, "y": [1]}, [], "search.space.'x'.when: never holds: 'y' is never 2"),
    ({"x": {"uniform": [0, 1], "when": []}}, [], "search.space.'x'.when: expected an object of other keys"),
    ({"x": {"variants": [1], "when": {"y": 1}}, "y": {"variants": [1], "when": {"x": 1}}}, [],
     "search.space: conditions that wait for each other: 'x' needs 'y' needs 'x'"),
    ({"x": {"variants": [1], "when": {"x": 1}}}, [], "conditions that wait for each other: 'x' needs 'x'"),
    ({"rate": [1]}, [{"rat": 1}], "search.unless[0]: no key of the space is called 'rat' (did you mean 'rate'?)"),
    ({"x": [1]}, [{}], "search.unless[0]: expected keys of the space"),
    ({"x": [1]}, [{"x": {"a": 1}}], "search.unless[0]: never holds"),
    ({"x": [{"deep": {"int": [1, 0]}}]}, [], "search.space.'x'[0].deep.int: expected [low, high]"),
    ({"x": [[{"deep": {"log_unifrm": [1, 2]}}]]}, [], "search.space.'x'[0][0].deep: expected a list of variants or an object"),
])
def test_what_is_wrong_with_a_space_is_told_with_its_place(space, unless, message):
    assert message in told_of(space, unless)


def test_everything_wrong_is_told_at_once():
    text = told_of({"x": {"uniform": [1, 0]}, "y": [], "z": {"int": ["a", 2]}}, [{"w": 1}])
    assert len(text.splitlines()) == 4


def test_a_grid_needs_lists_all_the_way_down():
    space = {"x": [1, {"deep": {"uniform": [0, 1]}}, {"deep": {"variants": [1, 2]}}]}
    text = told_of(space, lists_only=True)
    assert "search.space.'x'[1].deep: method grid tries every value, and 'uniform' has no end of them" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("value, wanted, holds", [
    (1, 1, True), (1, 1.0, True), (1, True, False), (True, True, True), ("a", ["b", "a"], True), ("a", ["b"], False),
    ([], [], True), ([], [[], [1]], True), ([1], [[], [1]], True), (None, None, True), (None, [None, 1], True),
    ({"class_path": "ViT", "init_args": {"dims": 2}}, {"class_path": "ViT"}, True),
    ({"class_path": "ViT", "init_args": {"dims": 2}}, {"init_args": {"dims": 3}}, False),
    ({"a": 1}, [{"a": 2}, {"a": 1}], True),
])  # fmt: skip
def test_a_condition_holds_where_all_that_it_names_is_equal(value, wanted, holds):
    assert matches(value, wanted) == holds


def test_a_space_is_counted_through_with_nested_and_conditional_choices():
    problems = []
    space = read_space({
        "a": ["x", {"deep": {"variants": [1, 2]}, "other": {"variants": ["p", "q", "r"]}}],
        "b": {"variants": [0, 1], "when": {"a": "x"}},
        "c": {"variants": [7, 8], "when": {"b": 1}},
    }, [], True, problems)  # fmt: skip
    assert not problems
    points = [space.point(draw) for draw in space.every()]
    assert len(points) == len({json.dumps(point, sort_keys=True) for point in points}) == 1 + 2 + 6 <= space.most
    assert {"a": "x", "b": 1, "c": 8} in points and {"a": "x", "b": 0} in points
    made = {"deep": 2, "other": "q"}
    assert {"a": made, "a[1].deep": 2, "a[1].other": "q"} in points
    assert all(space.point(space.locate(point)) == point for point in points)
    assert space.locate({"a": "x", "b": 2}) is None and space.locate({"a": "z", "b": 1}) is None
    assert space.locate({"a": made, "b": 1}) is None and space.locate({"b": 1}) is None


def test_a_nested_choice_whose_condition_does_not_hold_is_left_out_of_its_variant():
    nested = {"class_path": "L2SP", "init_args": {"alpha": {"uniform": [0.5, 1], "when": {"b": 1}}}}
    space = read_space({"a": [nested], "b": [0, 1]}, [], False, [])
    draws = [space.point(space.draw(lambda c: b if c.key == "b" else (0 if c.kind == "variants" else 0.7))) for b in (0, 1)]
    assert [point["a"]["init_args"] for point in draws] == [{}, {"alpha": 0.7}]


@settings(max_examples=60, deadline=None)
@given(st.recursive(
    st.one_of(st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["a", "b"]), st.just({"variants": [1, {"u": {"int": [1, 4]}}]}),
              st.just({"uniform": [-1.5, 2.25]}), st.just({"log_int": [1, 50]})),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "q", "r"]), inner, max_size=3), max_leaves=8,
), st.integers(0, 10**6))  # fmt: skip
def test_any_point_drawn_comes_back_to_its_draw(variant, seed):
    problems = []
    space = read_space({"k": [variant, "z"], "w": {"variants": [1, 2], "when": {"k": "z"}}}, [], False, problems)
    if problems:
        return
    draws = sequence(space, "independent", seed)
    for _ in range(8):
        draw = next(draws)
        point = space.point(draw)
        found = space.locate(point)
        assert found is not None and all(same(space.point(found)[key], point[key]) for key in point if key in space.keys)
        assert ("w" in point) == (point["k"] == "z")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["uniform", "log_uniform", "int", "log_int"]), st.integers(1, 500), st.integers(1, 500), st.floats(0, 1, exclude_max=True))
def test_numbers_stay_within_their_ends_and_reach_them(kind, low, more, share):
    choice = Choice("x", "x", kind, (), low, low + more)
    number = at(choice, share)
    assert low <= number <= low + more and isinstance(number, int if "int" in kind else float)
    if "int" in kind:
        assert at(choice, 0.0) == low and at(choice, 1 - 1e-12) == low + more


def test_a_space_of_a_million_million_points_is_sampled_in_less_than_a_second():
    space = read_space({f"k{i:02d}": list(range(10)) for i in range(12)}, [], False, [])
    assert space.most == 10**12
    draws = sequence(space, "sobol", 0)
    next(draws)
    begin = time.perf_counter()
    points = [space.point(next(draws)) for _ in range(200)]
    assert len({json.dumps(point) for point in points}) == 200 and time.perf_counter() - begin < 1


def test_the_order_of_keys_changes_neither_a_grid_nor_a_sample(document):
    space = {LR: [1e-3, 1e-4], "stages.finetune": [{"strategy": "scratch"}, {"optimizer": {"init_args": {"lr": 1e-2}}}]}
    made = []
    for keys in (list(space), list(space)[::-1]):
        document["search"]["space"] = {key: space[key] for key in keys}
        made.append(grid(read_sweep(document)))
    assert made[0] == made[1]
    assert {spec["stages"][-1]["optimizer"]["init_args"]["lr"] for spec in made[0]} == {1e-3, 1e-4}


def test_the_last_stage_is_stage_minus_one(document):
    document["search"]["space"] = {"stages.-1.batch_size": [4, 8], "stages.-2.epochs": [2]}
    specs = grid(read_sweep(document))
    assert {spec["stages"][-1]["batch_size"] for spec in specs} == {4, 8}
    assert {spec["stages"][0]["epochs"] for spec in specs} == {2}
    document["search"]["space"] = {"stages.-3.epochs": [2]}
    assert "nothing is called '-3' there" in problems_of(document)


def test_nested_choices_and_ends_of_distributions_are_checked_where_they_stand(document):
    terms = [[{"class_path": "L2SP", "init_args": {"alpha": {"uniform": [-1, 1]}}}], [{"class_path": "L2SQ"}]]
    document["search"] |= {"method": "random", "points": 3}
    document["search"]["space"] = {
        "stages.finetune.objective.auxiliary": terms,
        "stages.finetune.epochs": {"uniform": [1, 5]},
        "stages.finetune.tuning.layer_decay": {"variants": [None, {"uniform": [0.5, 1.5]}]},
    }
    text = problems_of(document)
    assert "search.space.'stages.finetune.objective.auxiliary'[1]: stages[1]" in text and "did you mean 'L2SP'" in text
    assert "search.space.'stages.finetune.epochs': stages[1].epochs: expected a valid integer" in text
    assert "search.space.'stages.finetune.tuning.layer_decay'[1]: stages[1].tuning.layer_decay: expected less than or equal to 1" in text


def test_a_point_of_a_grid_that_unless_names_is_left_out(document):
    document["search"]["space"] = {"stages.finetune.strategy": ["scratch", "full"], LR: [1e-3, 1e-4]}
    document["search"]["unless"] = [{"stages.finetune.strategy": "scratch", LR: [1e-4, 1e-5]}]
    specs = grid(read_sweep(document))
    assert len(specs) == 2 * 3
    document["search"]["unless"] = [{"stages.finetune.strategy": "frozen"}]
    assert "search.unless[0]: never holds: 'stages.finetune.strategy' is never 'frozen'" in problems_of(document)


def test_a_space_that_varies_who_is_measured_is_told_with_its_key(document):
    document["search"]["space"] = {"stages.finetune.targets": [["diagnosis"], ["age"]], LR: [1e-3, 1e-4]}
    with pytest.raises(InputError) as caught:
        grid(read_sweep(document))
    assert "search.space.'stages.finetune.targets': stages[-1].targets: varies in the space" in str(caught.value)


def test_a_grid_that_nobody_could_run_is_refused_without_counting_it_through(document):
    document["search"]["space"] = {f"stages.finetune.optimizer.init_args.p{i}": list(range(10)) for i in range(12)}
    assert "a grid of 1,000,000,000,000 points; at most 100,000 are tried one by one" in problems_of(document)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_tried_in_the_last_stage_of_a_sweep(document, name):
    preset = json.loads((FOLDER / f"{name}.json").read_text())
    assert set(preset) <= {"about", "space", "unless"} and preset["about"].endswith(".")
    document["search"] = {"method": "random", "points": 8, "presets": [name]}
    candidates = Candidates(read_sweep(document))
    draws = sequence(candidates.space, "sobol", 0)
    points = [candidates.space.point(next(draws)) for _ in range(16)]
    assert all(candidates.specs(point) for point in points if candidates.space.left_out(point) is None)
    written = expanded(read_sweep(document))
    assert written.search.presets == [] and list(written.search.space) == candidates.space.keys
    assert all("-1" not in key for key in written.search.space)


@pytest.mark.parametrize("presets, space", [
    (["strategies", "fine-tuning"], {}),
    (["fine-tuning"], {"stages.-1.strategy": ["scratch", "frozen", "full"]}),
])
def test_fine_tuning_tunes_only_where_everything_is_trained_on(document, presets, space):
    document["search"] = {"method": "random", "points": 64, "presets": presets, "space": space}
    candidates = Candidates(read_sweep(document))
    draws = sequence(candidates.space, "sobol", 0)
    points = [candidates.space.point(next(draws)) for _ in range(64)]
    assert [candidates.problems(point) for point in points] == [[]] * 64
    last = [candidates.trial(point)["stages"][-1] for point in points]
    tuned = [stage for stage in last if stage["tuning"]["layer_decay"] or stage["tuning"]["head_first"]]
    assert len(tuned) > 10 and {stage["strategy"] for stage in tuned} == {"full"}
    assert {stage["strategy"] for stage in last} == {"scratch", "frozen", "full"}


def test_fine_tuning_alone_tunes_what_the_sweep_has(document):
    document["search"] = {"method": "random", "points": 8, "presets": ["fine-tuning"], "space": {"stages.finetune": [{"batch_size": 8}]}}
    choice = Candidates(read_sweep(document)).space.choices["stages.finetune.tuning"]
    assert not choice.when and len(choice.options) == 3


def test_a_presets_key_gives_way_to_the_sweeps_own_and_an_unknown_preset_is_told(document):
    own = {"stages.finetune.scheduler": [None]}
    document["search"] = {"presets": ["schedule", "strategies"], "space": own}
    candidates = Candidates(read_sweep(document))
    assert len(candidates.space.choices["stages.finetune.scheduler"].options) == 1
    assert "stages.finetune" in candidates.space.keys
    document["search"]["presets"] = ["shedule"]
    assert "search.presets[0]: no preset is called 'shedule' (did you mean 'schedule'?)" in problems_of(document)


def test_problems_of_the_space_are_told_beside_those_of_the_cohort(document):
    document["search"] |= {"method": "random", "points": 3, "space": {LR: {"unifrm": [0, 1]}}}
    assert "did you mean 'uniform'" in str(_space_problems(read_sweep(document), ()))
