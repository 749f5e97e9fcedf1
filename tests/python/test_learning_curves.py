"""Learning curves: simulated ones whose law, kind and crossing are known, and a search's results read as one."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tlimb.config import Objective, Split, Stage
from tlimb.evaluation.metrics import metric
from tlimb.files import digest, write_json, write_parquet
from tlimb.parse import parse
from tlimb.ranking.compare import Measure
from tlimb.ranking.crossings import crossing, last_change
from tlimb.ranking.learning_curves import _crossings, _ends, _told, by_replicate, choose, learning_curves
from tlimb.ranking.next_runs import next_runs
from tlimb.ranking.power_law import describe_curve, fit_power_law, lack_of_fit, power_law
from tlimb.ranking.report import brief_text, number
from tlimb.ranking.results import Results
from tlimb.ranking.sections import sizes
from tlimb.ranking.sections.live import packed_plotly
from tlimb.ranking.selection import ranked_candidates
from tlimb.search.space import assign, candidate_of
from tlimb.splits import resolved

SIZES = np.array([20.0, 40, 80, 160, 320])
LAW = (0.9, -2.0, 0.6)


def replicates(curve: np.ndarray, count: int, sd: float, seed: int) -> np.ndarray:
    """Scores (count, sizes) about a curve; those of one replicate go up and down together, small samples vary more."""
    random = np.random.default_rng(seed)
    chance = np.sqrt(0.3) * random.normal(size=(count, 1)) + np.sqrt(0.7) * random.normal(size=(count, len(curve)))
    return curve + sd * chance * np.linspace(1.5, 0.7, len(curve))


def share(curve: np.ndarray, status: str, runs: int, count: int = 20) -> float:
    """How many of so many simulated curves are found to be of that kind."""
    kinds = [describe_curve(SIZES, replicates(curve, count, 0.04, seed), "max")["status"] for seed in range(runs)]
    return kinds.count(status) / runs


@pytest.mark.parametrize("direction, law", [("max", LAW), ("min", (3.0, 40.0, 0.5))])
def test_a_power_law_without_chance_is_found_exactly(direction, law):
    found = fit_power_law(SIZES, power_law(SIZES, *law), np.full(5, 0.01), direction)
    np.testing.assert_allclose(found, law, rtol=1e-3)


def test_the_fit_is_the_weighted_least_squares_one():
    from scipy.optimize import curve_fit

    values = replicates(power_law(SIZES, *LAW), 20, 0.04, 1)
    mean, errors = values.mean(0), values.std(0, ddof=1) / np.sqrt(20)
    peer, _ = curve_fit(power_law, SIZES, mean, (0.9, -2, 0.6), errors, bounds=([-9, -99, 0.02], [1, 0, 5]))
    own = fit_power_law(SIZES, mean, errors, "max")
    loss = [(((power_law(SIZES, *one) - mean) / errors) ** 2).sum() for one in (own, peer)]
    assert loss[0] <= loss[1] + 1e-6
    np.testing.assert_allclose(power_law(SIZES, *own), power_law(SIZES, *peer), atol=1e-3)


def test_a_curve_of_a_power_law_is_described_with_intervals_that_hold_it():
    found = describe_curve(SIZES, replicates(power_law(SIZES, *LAW), 40, 0.04, 2), "max")
    assert found["status"] == "power law"
    assert all(found[name]["low"] < value < found[name]["high"] for name, value in zip("abc", LAW))


@pytest.mark.parametrize(
    "curve, status",
    [
        (power_law(SIZES, *LAW) - 0.12 * (SIZES == 80), "not monotone"),
        (np.full(5, 0.7), "plateau"),
        (0.5 + 0.35 / (1 + np.exp(-4 * (np.log(SIZES) - np.log(80)))), "no power law"),
    ],
)
def test_curves_of_other_kinds_are_told(curve, status):
    found = describe_curve(SIZES, replicates(curve, 30, 0.04, 0), "max")
    assert found["status"] == status and found["text"] and found["a"] is None


def test_too_few_points_are_said():
    values = replicates(power_law(SIZES, *LAW), 20, 0.04, 0)
    assert "4 sizes (3 are there)" in describe_curve(SIZES[:3], values[:, :3], "max")["text"]
    assert describe_curve(SIZES, values[:4], "max")["status"] == "too few points"


def test_equal_scores_are_a_plateau():
    assert describe_curve(SIZES, np.full((12, 5), 0.7), "max")["status"] == "plateau"


def test_a_curve_of_errors_is_that_of_scores_turned_round():
    values = replicates(power_law(SIZES, *LAW), 20, 0.04, 3)
    one, two = describe_curve(SIZES, values, "max"), describe_curve(SIZES, 1 - values, "min")
    assert one["status"] == two["status"] == "power law"
    assert two["c"]["value"] == pytest.approx(one["c"]["value"], rel=1e-3)
    assert two["p_fit"] == pytest.approx(one["p_fit"], rel=1e-3)


def lack_rate(runs: int) -> float:
    """How often the lack-of-fit test speaks against a power law that holds."""
    found = []
    for seed in range(runs):
        values = replicates(power_law(SIZES, *LAW), 12, 0.02, seed)
        parameters = fit_power_law(SIZES, values.mean(0), values.std(0, ddof=1) / np.sqrt(12), "max")
        found.append(lack_of_fit(SIZES, values, parameters, "max") < 0.05)
    return float(np.mean(found))


def test_a_power_law_that_holds_is_seldom_refused():
    assert lack_rate(200) < 0.1


@pytest.mark.long
def test_the_lack_of_fit_test_keeps_its_level():
    assert 0.03 < lack_rate(2000) < 0.065


def test_curves_that_are_not_monotone_are_seldom_taken_for_power_laws():
    assert share(power_law(SIZES, *LAW) - 0.1 * (SIZES == 80), "power law", 20) == 0


@pytest.mark.long
def test_false_acceptance_of_curves_that_fall_is_rare():
    dip, end = 0.08 * (SIZES == 80), 0.08 * (SIZES == 320)
    assert share(power_law(SIZES, *LAW) - dip, "power law", 200) < 0.02
    assert share(power_law(SIZES, *LAW) - end, "power law", 200) < 0.05
    assert share(power_law(SIZES, *LAW), "power law", 200) > 0.88


def test_a_crossing_lies_where_straight_lines_meet():
    """On a logarithmic axis the middle of 40 and 160 is 80."""
    assert last_change(np.array([40.0, 160]), np.array([-0.1, 0.1])) == pytest.approx(80)
    found = crossing([40, 160], [-0.1, 0.1], np.tile([-0.1, 0.1], (50, 1)), 0.95)
    assert found["n"] == pytest.approx(80) and found["low"] == pytest.approx(80) and found["share"] == 1
    assert found["first_ahead"] == "above"


def test_curves_of_which_one_is_always_ahead_do_not_cross():
    assert crossing([20, 40], [0.1, 0.2], np.ones((9, 2)), 0.95) is None
    assert crossing([20, 40], [-0.1, 0.0], np.ones((9, 2)), 0.95) is None


def test_draws_that_do_not_cross_lie_beyond_the_sizes():
    draws = np.concatenate([np.tile([-1.0, 1.0], (90, 1)), np.tile([-1.0, -1.0], (10, 1))])
    found = crossing([20, 80], [-1.0, 1.0], draws, 0.95)
    assert found["high"] is None and found["low"] == pytest.approx(40) and found["share"] == 0.9


def covered(runs: int) -> float:
    """How often the interval of a simulated crossing holds the true one; two laws that cross at 80."""
    one, two = power_law(SIZES, 0.9, -4.0, 0.8), power_law(SIZES, 0.82, -0.04 * 80**0.8, 0.8)
    two += power_law(80.0, 0.9, -4.0, 0.8) - power_law(80.0, 0.82, -0.04 * 80**0.8, 0.8)
    hits = []
    for seed in range(runs):
        difference = replicates(one, 20, 0.03, 2 * seed) - replicates(two, 20, 0.03, 2 * seed + 1)
        rows = np.random.default_rng(seed).integers(0, 20, (400, 20))
        found = crossing(SIZES, difference.mean(0), difference[rows].mean(1), 0.95)
        hits.append(found is not None and (found["low"] or 0) <= 80 <= (found["high"] or np.inf))
    return float(np.mean(hits))


def test_the_interval_of_a_crossing_holds_the_true_one():
    assert covered(60) > 0.85


@pytest.mark.long
def test_the_interval_of_a_crossing_keeps_its_coverage():
    assert 0.9 < covered(1000) < 0.98


SKILL = {"scratch": {20: 0.2, 40: 0.5, 80: 4.0}, "frozen": {20: 1.4, 40: 1.5, 80: 1.5}}
"""Distance of two groups in standard deviations, by strategy and n."""

PEOPLE = 120
CLASSES = ["control", "patient"]


def table(spec: dict, part: str) -> pd.DataFrame:
    """Predictions of a trial, better with n; a learning rate of 0.1 is bad, and best on test in replicate 0."""
    last, split = spec["stages"][-1], spec["split"]
    rate = last["optimizer"]["init_args"]["lr"]
    random = np.random.default_rng([split["n"], split["replicate"], len(last["strategy"]), len(part), int(rate * 1000)])
    truth = np.arange(PEOPLE) % 2
    distance = SKILL[last["strategy"]][split["n"]] - (0.6 if rate == 0.1 else 0)
    distance = 9.0 if rate == 0.1 and part == "test" and split["replicate"] == 0 else distance
    share = 1 / (1 + np.exp(-(distance * (truth - 0.5) + random.normal(size=PEOPLE))))
    names = [f"clinic/sub-{number:03d}" for number in range(PEOPLE)]
    return pd.DataFrame({
        "scan_id": names, "person": names, "target": "diagnosis", "truth": truth.astype(float),
        "prediction": (share > 0.5).astype(float), "probabilities": [[1 - one, one] for one in share],
        "event": np.nan, "called": (share > 0.5).astype(float),
    })  # fmt: skip


def write_trial(folder, spec: dict) -> dict:
    trial = {"id": digest(spec), "candidate": candidate_of(spec), "round": 1, "split": "s", "init": "e", "budget": 4}
    trial["init"] = "" if spec["stages"][-1]["strategy"] == "scratch" else "e"
    for part in ("validation", "test"):
        rows = table(spec, part)
        value = metric("balanced_accuracy", rows["truth"], rows["prediction"])
        targets = {"diagnosis": {"metrics": {"balanced_accuracy": {"value": value}}}}
        write_json(folder / trial["id"] / f"scores-{part}.json", {"status": "ok", "reason": "", "targets": targets})
        write_parquet(folder / trial["id"] / f"predictions-{part}.parquet", rows)
    return trial | {"spec": spec}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """Two strategies, two learning rates, three sizes and five replicates, of which one trial failed."""
    folder, trials = tmp_path_factory.mktemp("curves"), []
    data = {"labelled": {"cohort": ["clinic"]}}
    for strategy, rate, n in product(SKILL, (0.001, 0.1), (20, 40, 80)):
        stage = {"name": "finetune", "targets": ["diagnosis"], "epochs": 4, "strategy": strategy, "data": data}
        stage["optimizer"] = {"class_path": "AdamW", "init_args": {"lr": rate}}
        stage["objective"] = Objective().model_dump()
        stages = [Stage.model_validate(stage).model_dump()]
        for split in resolved(Split(n=n, replicates=5).model_dump()):
            spec = {"architecture": {"class_path": "ResNet", "init_args": {}}, "seed": 0}
            spec |= {"split": split, "stages": stages}
            trials.append(write_trial(folder, spec))
    models = {trial["id"]: {"status": "ok", "reason": "", "parameters": None, "seconds": 1.0} for trial in trials}
    models[trials[0]["id"]] = {"status": "failed", "reason": "diverged"}
    classes = {"diagnosis": CLASSES, "site": ["a", "b"]}
    labels = {name: {"kind": "classification", "classes": known} for name, known in classes.items()}
    people = pd.DataFrame({"cohort": "clinic", "site": ["a", "b", "b"]})
    where = {"encoders_folder": folder, "models_folder": folder, "scores_folder": folder}
    shared = {"pretrainings": [], "scans": pd.DataFrame(), "stores": {}, "encoders": {}}
    return Results(sweep={}, cohort={"labels": labels}, trials=trials, models=models, table=people, **where, **shared)


MEASURE = Measure("balanced_accuracy", "classification", 200, 0.95, 0)


@pytest.fixture(scope="module")
def curves(results) -> dict:
    return learning_curves(results, ranked_candidates(results, "diagnosis", MEASURE), "diagnosis", MEASURE)


def outcomes(results: Results, strategy: str, n: int, replicate: int) -> list[tuple[float, str, float]]:
    """(minus the validation score, candidate, test score) of the finished trials of one strategy, n and replicate."""
    found = []
    for trial in results.trials:
        spec = trial["spec"]
        here = spec["stages"][-1]["strategy"], spec["split"]["n"], spec["split"]["replicate"]
        if here == (strategy, n, replicate) and results.models[trial["id"]]["status"] == "ok":
            rows = [table(spec, part) for part in ("validation", "test")]
            one, two = (metric("balanced_accuracy", part["truth"], part["prediction"]) for part in rows)
            found.append((-one, trial["candidate"], two))
    return found


def test_each_point_is_the_mean_of_test_scores_of_the_models_best_on_validation(results, curves):
    for curve in curves["curves"]:
        for point in curve["points"]:
            best = [min(outcomes(results, curve["strategy"], point["n"], replicate)) for replicate in range(5)]
            expected = [one[2] for one in best]
            assert point["mean"] == pytest.approx(np.mean(expected))
            assert point["sd"] == pytest.approx(np.std(expected, ddof=1))
            assert point["validation"] == pytest.approx(np.mean([-one[0] for one in best]))
            assert point["low"] <= point["mean"] <= point["high"] and sum(point["chosen"].values()) == 5


def test_a_model_that_shines_on_test_alone_is_not_chosen(results):
    chosen = choose(ranked_candidates(results, "diagnosis", MEASURE), "max")
    rates = {place: found[0]["spec"]["stages"][-1]["optimizer"]["init_args"]["lr"] for place, found in chosen.items()}
    assert rates["scratch", 80, (0, None, None, 0)] == rates["frozen", 80, (0, None, None, 0)] == 0.001


def test_the_crossing_of_two_strategies_is_placed(curves):
    (row,) = curves["crossings"]
    assert {row["first"], row["second"]} == {"frozen", "scratch"}
    assert 40 < row["n"] < 80 and row["low"] < row["n"] < row["high"]
    assert row["text"].startswith("scratch stays ahead of frozen from n =")


@pytest.mark.parametrize(("ends", "said"), [
    ([(0.01, 0.09), (0.12, 0.28)], "b is ahead of a at every n from 20 to 80, told apart at each of these (lead with its 95 % "
     "interval at n = 20: 0.05 (0.01 to 0.09), 80: 0.20 (0.12 to 0.28))"),
    ([(-0.01, 0.09), (0.12, 0.28)], "told apart at n = 80 alone (lead with"),
    ([(-0.01, 0.09), (-0.02, 0.28)], "told apart at none of these (lead with"),
    ([(None, None), (None, None)], "b is ahead of a at every n from 20 to 80, how surely is not known"),
])  # fmt: skip
def test_who_is_ahead_at_every_size_is_said_with_how_surely(ends, said):
    row = {"first": "a", "second": "b", "n": None}
    turned = [(None, None) if low is None else (-high, -low) for low, high in ends]
    assert said in _told(row, [20, 80], np.array([-0.05, -0.2]), turned, 0.95, 10)
    assert said.replace("b is ahead of a", "a is ahead of b") in _told(row, [20, 80], np.array([0.05, 0.2]), ends, 0.95, 10)
    assert _told(row, [20, 80], np.array([0.0, 0.2]), ends, 0.95, 10) == "a and b do not cross"


def test_of_few_samples_it_is_not_said_how_surely_one_is_ahead():
    row, ends = {"first": "a", "second": "b", "n": None}, [(0.1, 0.2), (0.1, 0.2)]
    said = "a is ahead of b at every n from 20 to 80; 4 samples of each size are too few to say how surely"
    assert _told(row, [20, 80], np.array([0.15, 0.15]), ends, 0.95, 4) == said


@pytest.mark.parametrize(
    ("samples", "said"), [(4, "4 samples of each size are too few to say how surely"), (10, "how surely is not known")]
)
def test_a_crossing_without_an_interval_says_the_true_reason(samples, said):
    row = {"first": "a", "second": "b", "n": 30.0, "first_ahead": "above", "low": None, "high": None, "share": None}
    told = _told(row, [20, 80], np.array([-0.1, 0.1]), [(None, None)] * 2, 0.95, samples)
    assert told == f"a stays ahead of b from n = 30 on; {said}"


FEW, MANY = (150, 0.90, 0.99), (2000, 0.93, 0.97)
"""Runs, and how often intervals may hold the truth: of few runs chance alone gives less or more."""


@pytest.mark.parametrize("of_persons", [0.02, pytest.param(0.3, marks=pytest.mark.long)])
@pytest.mark.parametrize("samples", [5, 10, pytest.param(11, marks=pytest.mark.long), pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize(("runs", "least", "most"), [FEW, pytest.param(*MANY, marks=pytest.mark.long)])
def test_intervals_hold_the_truth_whether_samples_or_persons_matter_more(samples, of_persons, runs, least, most):
    """Means of scores of 60 persons after trainings on so many samples; 95 % intervals of the mean of both."""
    held = 0
    for run in range(runs):
        random = np.random.default_rng([3, run])
        person, sample = of_persons * random.normal(size=60), random.normal(0, 0.05, (samples, 1))
        each = person + sample + of_persons * random.normal(size=(samples, 60))
        weights = np.concatenate([np.ones((1, 60)), random.multinomial(60, np.full(60, 1 / 60), size=300)])
        own = each @ weights.T / 60
        low, high = _ends(own, replace(MEASURE, seed=run), 60)
        held += low <= 0 <= high
    assert least <= held / runs <= most


def test_the_intervals_say_what_they_are_of_and_how_often_people_were_drawn(curves):
    text = f"other training samples and other test persons, drawn {MEASURE.resamples} times"
    assert curves["interval"] == {"kind": "samples and persons", "draws": MEASURE.resamples, "text": text}


def section(found: dict) -> str:
    """The report's section of these curves."""
    loader = FileSystemLoader(Path(__file__).parents[2] / "assets" / "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"num": number, "brief": brief_text}
    shown = sizes.learning_curves(SimpleNamespace(learning_curves=found), "score")
    context = {"learning": shown, "word": "score", "percent": 95, "digits": 2, "live": [], "packed_plotly": packed_plotly}
    return environment.get_template("learning.j2").render(context)


@pytest.mark.parametrize(
    ("samples", "metric", "kind"),
    [(1, "balanced_accuracy", "persons"), (2, "balanced_accuracy", "none"), (3, "calibration_error", "none")],
)
def test_points_have_the_intervals_that_the_key_says(results, samples, metric, kind):
    rows = ranked_candidates(results, "diagnosis", MEASURE)
    few = [row | {"trials": [one for one in row["trials"] if one["replicate"] < samples]} for row in rows]
    found = learning_curves(results, few, "diagnosis", replace(MEASURE, metric=metric))
    points = [point for curve in found["curves"] for point in curve["points"] if point["mean"] is not None]
    assert found["interval"]["kind"] == kind and points
    assert all(point["low"] is None for point in points) == (kind == "none")
    assert (found["interval"]["draws"] is None) == (kind == "none") and found["interval"]["text"]
    page = section(found)
    assert ("There are no intervals: " in page) == (kind == "none")
    assert found["interval"]["text"] in page


def test_what_would_tell_more_can_be_merged_into_a_sweep(results, curves):
    rows = ranked_candidates(results, "diagnosis", MEASURE)
    for status in ("too few points", "plateau", "not monotone", "no power law", "no limit"):
        runs = next_runs(status, rows[0], [20, 40, 80], results)
        assert runs
        for run in runs:
            assert run["title"] and run["why"] and json.dumps(run["sweep"])
            for key, variants in run["sweep"]["search"]["space"].items():
                trial = {part: rows[0]["spec"][part] for part in ("architecture", "stages")}
                trial["split"] = Split().model_dump()
                for variant in variants:
                    changed, lost = assign(trial, key, variant)
                    assert not lost
                    parse(Stage, changed["stages"][-1])
    titles = [run["title"] for run in next_runs("not monotone", rows[0], [20, 40, 80], results)]
    assert titles == ["twice the width", "twice the epochs", "b alone"]
    assert next_runs("power law", rows[0], [20, 40, 80], results) == []


def test_a_search_of_one_size_has_no_curve(results):
    rows = [row for row in ranked_candidates(results, "diagnosis", MEASURE) if row["spec"]["split"]["n"] == 80]
    assert learning_curves(results, rows, "diagnosis", MEASURE) is None


def test_curves_are_the_same_whatever_the_order_of_candidates(results, curves):
    rows = ranked_candidates(results, "diagnosis", MEASURE)
    shuffled = [row | {"trials": row["trials"][::-1]} for row in rows[::-1]]
    assert json.dumps(learning_curves(results, shuffled, "diagnosis", MEASURE)) == json.dumps(curves)


@pytest.mark.parametrize("name, candidates", [("learning-curves", 28), ("standard", 9)])
def test_the_ready_sweeps_hold_the_trials_that_their_pages_say(name, candidates):
    from tlimb.config import read_sweep
    from tlimb.search.space import grid

    folder = Path(__file__).parents[2] / "assets" / "sweeps"
    specs = grid(read_sweep(json.loads((folder / f"{name}.json").read_text())))
    assert len({candidate_of(spec) for spec in specs}) == candidates


def test_folds_and_repeats_are_no_replicates():
    """Units (repeat, fold, inner fold, replicate): three folds of two replicates, one of them lost."""
    units = [(0, fold, None, replicate) for fold in range(3) for replicate in range(2)]
    values = np.random.default_rng(0).normal(size=(4, 6))
    values[1, 5] = np.nan
    found = by_replicate(values, units)
    np.testing.assert_allclose(found[0], values[:, [0, 2, 4]].mean(axis=1))
    assert np.isnan(found[1]).tolist() == [False, True, False, False]
    assert by_replicate(values, [(0, fold, None, None) for fold in range(6)]).shape == (1, 4)


def test_a_lead_is_of_the_samples_that_both_ways_finished():
    random = np.random.default_rng(2)
    easy = np.linspace(0, 0.2, 10)[:, None] + random.normal(0, 0.002, (10, 201))
    other = easy - 0.02 + random.normal(0, 0.001, easy.shape)
    scores = np.stack([np.stack([easy] * 2), np.stack([other] * 2)])
    scores[1, :, 5:] = np.nan  # the easier samples of the second way failed
    (row,) = _crossings(["a", "b"], [10, 40], scores, replace(MEASURE, metric="auroc"), 60)
    assert row["text"].startswith("a is ahead of b at every n from 10 to 40")
    assert "n = 10: 0.019" in row["text"]


def test_a_point_of_fewer_finished_samples_than_an_interval_needs_has_none():
    scores = np.random.default_rng(0).normal(0.7, 0.01, (10, 201))
    scores[4:] = np.nan
    assert _ends(scores, MEASURE, 60) == (None, None)
    assert None not in _ends(scores[:1], MEASURE, 60)
