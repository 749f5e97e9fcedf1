"""Numbers behind the report's figures: axes, importances, paths through the settings, the search's progress."""

import numpy as np
import pytest
from explained_tree import add_study
from hypothesis import given
from hypothesis import strategies as st
from results_tree import write_results_tree
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold

from tlimb.ranking.effects import FOLDS, TREES, importances, parallel
from tlimb.ranking.figures import Series, axis, log_axis, plot
from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results
from tlimb.ranking.sections.search import best_so_far, progress, search_points
from tlimb.ranking.sections.sizes import fitted_curve
from tlimb.seeds import seed_for

NAMES = [f"{number:03d}" for number in range(40)]


def searched(seed=0):
    """Settings and scores of 40 candidates: the rate decides, the network matters a little, the third nothing."""
    rng = np.random.default_rng(seed)
    rate = dict(zip(NAMES, (10 ** rng.uniform(-4, -1, 40)).tolist()))
    network, idle = (dict(zip(NAMES, rng.choice(list("abc"), 40).tolist())) for _ in range(2))
    scores = {name: 0.7 - 0.1 * abs(np.log10(rate[name]) + 2) + 0.02 * (network[name] == "a") for name in NAMES}
    return {"rate": rate, "network": network, "idle": idle}, scores


def test_importances_are_those_of_scikit_learn_over_the_same_forests():
    settings, scores = searched()
    found = importances(settings, scores, seed=0)
    columns = [[settings["rate"][name] for name in NAMES]]
    columns += [["abc".index(settings[key][name]) for name in NAMES] for key in ("network", "idle")]
    x, y, expected = np.array(columns).T, np.array([scores[name] for name in NAMES]), np.zeros(3)
    start = seed_for(0, "importances") % 2**32
    for fitted, apart in KFold(FOLDS, shuffle=True, random_state=start).split(x):
        forest = RandomForestRegressor(TREES, random_state=start, min_samples_leaf=2).fit(x[fitted], y[fitted])
        options = {"n_repeats": 10, "random_state": 1, "scoring": "neg_mean_squared_error"}
        expected += permutation_importance(forest, x[apart], y[apart], **options).importances_mean * len(apart)
    expected = dict(zip(settings, expected / len(y) / y.var()))
    assert [row["name"] for row in found["settings"]] == ["rate", "network", "idle"] and found["explained"] > 0.7
    for row in found["settings"]:
        assert row["importance"] == pytest.approx(expected[row["name"]], rel=0.15, abs=0.03)


def test_too_few_candidates_have_no_importances():
    settings, scores = searched()
    few = {name: scores[name] for name in NAMES[:11]}
    assert importances(settings, few, 0) is None and importances({"rate": settings["rate"]}, scores, 0) is None


def test_paths_end_at_the_score_and_stand_at_the_bottom_where_a_setting_is_absent():
    settings, scores = searched()
    del settings["network"][NAMES[0]]
    order = sorted(NAMES, key=scores.get)
    rows = [{"candidate": name, "name": name, "validation_mean": scores[name]} for name in order]
    found = parallel(settings, rows[::-1], ["network"])
    assert [one["name"] for one in found["axes"]] == ["network", "rate", "idle", ""] and found["left_out"] == 0
    lines = {line["name"]: [float(pair.split(",")[1]) for pair in line["points"].split()] for line in found["lines"]}
    assert lines[NAMES[0]][0] == 100 and all(line[0] < 100 for name, line in lines.items() if name != NAMES[0])
    assert order == sorted(NAMES, key=lambda name: -lines[name][-1])
    assert found["lines"][-1]["score"] == max(scores.values()) and found["lines"][-1]["shade"] == 4


def test_settings_that_are_lists_or_of_mixed_kinds_have_a_place_for_each_value():
    settings, scores = searched()
    lists = [["age", "sex"], ["sex"], []]
    settings["targets"] = {name: lists[place % 3] for place, name in enumerate(NAMES)}
    settings["depth"] = {name: [2, "all", None, [2]][place % 4] for place, name in enumerate(NAMES)}
    rows = [{"candidate": name, "name": name, "validation_mean": scores[name]} for name in NAMES]
    axes = {one["name"]: one["ticks"] for one in parallel(settings, rows, ["targets", "depth"])["axes"]}
    assert [text for _, text, _ in axes["targets"]] == ["age+sex", "none", "sex"]
    assert [text for _, text, _ in axes["depth"]] == ["2", "all", "none"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(2, 8))
def test_every_axis_has_two_ticks_or_more_and_holds_its_values(values, count):
    made = axis(values, count)
    places = [at for at, _ in made.ticks]
    assert len(places) >= 2 and places == sorted(places) and -0.01 <= places[0] <= places[-1] <= 100.01
    assert all(-0.01 <= made.place(value) <= 100.01 for value in values)


def test_a_plot_places_points_upwards_and_leaves_out_what_is_not_known():
    scale = log_axis([10, 1000])
    found = plot("one", [Series("a", [10, 1000, None], [0.0, 1.0, 2.0])], titles=("n", "y"), label="", x=scale)
    low, high = found["series"][0]["dots"]
    assert low["x"] < high["x"] and low["y"] > high["y"] and low["x"] == pytest.approx(100 * 0.05 / 1.1, abs=0.1)


def test_the_drawn_power_law_is_the_formula():
    fit = {"status": "power law"} | {name: {"value": value} for name, value in zip("abc", (0.9, -1.5, 0.5))}
    n, scores = fitted_curve(fit, [20, 80])
    assert n[0] == pytest.approx(20) and scores[0] == pytest.approx(0.9 - 1.5 / np.sqrt(20))
    assert scores[-1] == pytest.approx(0.9 - 1.5 / np.sqrt(80))
    assert fitted_curve({"status": "plateau"}, [20, 80]) is None


def test_progress_counts_the_epochs_of_every_rung_once(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, persons=24, failing=False)
    add_study(tmp_path)
    results = read_results(**tree)
    found = progress(results, rank(results), "balanced accuracy")
    assert [(row["budget"], row["candidates"], row["epochs"]) for row in found["rungs"]] == [(5, 8, 40), (20, 4, 48)]
    values = [point["value"] for one in results.study["rounds"] for point in one["points"]]
    assert found["rungs"][0]["best"] == max(values[:8])
    steps = found["figure"]["live"]["series"][0]
    assert steps["name"] == "best so far, fully trained" and steps["y"] == sorted(steps["y"])
    assert [steps["x"][0], steps["x"][-1]] == [52, 88] and steps["y"][-1] == pytest.approx(max(values[8:]))


def test_the_best_so_far_is_of_equal_training():
    rows = [(5, 0.9), (5, 0.7), (10, 0.6), (5, 0.95), (10, 0.8), (20, 0.5), (20, 0.4)]
    points = [
        {"budget": budget, "value": value, "trained": place, "full": budget == 20}
        for place, (budget, value) in enumerate(rows)
    ]
    (line,) = best_so_far(points, "max")
    assert line == {"name": "best so far, fully trained", "budget": None, "x": [5, 6], "y": [0.5, 0.5]}
    one, two = best_so_far(points[:5], "max")
    assert one == {"name": "best so far, 5 epochs", "budget": 5, "x": [0, 1, 3], "y": [0.9, 0.9, 0.95]}
    assert two == {"name": "best so far, 10 epochs", "budget": 10, "x": [2, 4], "y": [0.6, 0.8]}
    assert best_so_far(points[:2], "min")[0] == {"name": "best so far", "budget": 5, "x": [0, 1], "y": [0.9, 0.7]}


def test_a_candidate_of_fewer_epochs_is_fully_trained_in_the_first_rung(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, persons=24, failing=False)
    add_study(tmp_path)
    results = read_results(**tree)
    candidates = rank(results).candidates
    last = results.study["rounds"][-1]["points"][0]
    row = next(row for row in candidates if row["candidate"] == last["candidate"])
    row |= {"budget": 1, "epochs": 1}
    last["value"] = None
    points = search_points(results, candidates)
    assert [point["full"] for point in points] == [point["name"] == row["name"] for point in points[:8]] + [True] * 4
    assert points[8]["value"] == row["validation_mean"]
    row["budget"] = 0
    assert len(search_points(results, candidates)) == len(points) - 1
