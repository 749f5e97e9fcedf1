"""What the page says of figures that were fitted on validation, and where there is nothing to show."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from explained_tree import add_explanations
from results_tree import rewrite_json, write_results_tree

from tlimb.files import read_json, write_json
from tlimb.ranking.rank import rank
from tlimb.ranking.report import render
from tlimb.ranking.results import read_results
from tlimb.ranking.sections.cost import time_unit
from tlimb.ranking.sections.looks import looks
from tlimb.ranking.sections.people import groups
from tlimb.ranking.sections.sizes import transferability

TEMPLATE = Path(__file__).parents[2] / "assets" / "report"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree of two seeds, its results and its ranking."""
    tree = write_results_tree(tmp_path_factory.mktemp("fitted"), seeds=2, persons=24, failing=False)
    results = read_results(**tree)
    return tree, results, rank(results)


def page_of(results, ranking):
    return render(results, ranking, template=TEMPLATE, command="")


def change_fitted(tree, trial, **changes):
    path = tree["scores"] / trial["id"] / "fitted.json"
    targets = read_json(path)["targets"]
    rewrite_json(path, targets={"diagnosis": targets["diagnosis"] | changes})


def test_the_page_tells_the_operating_point_and_warns_of_thresholds_that_tell_nobody_apart(made):
    tree, results, ranking = made
    page = page_of(results, ranking)
    assert "patient is called where its probability is above a threshold of 0.5, which was set and not fitted" in page
    best, other = ranking.selected()[:2]
    for trial, threshold in zip(best["trials"], (0.0, 0.25), strict=True):
        change_fitted(tree, trial, threshold=threshold)
    for trial, threshold in zip(other["trials"], (0.125, 0.375), strict=True):
        change_fitted(tree, trial, threshold=threshold)
    sweep = read_json(tree["sweep"])
    rewrite_json(tree["sweep"], evaluate=sweep["evaluate"] | {"operating_point": {"sensitivity": 0.9}})
    page = page_of(read_results(**tree), ranking)
    part = page[page.index('<h3 id="operating">') : page.index('<h3 id="calibration">')]
    assert "Asked for was a sensitivity of 0.9 or more" in part
    assert "0 in 1 of 2 trials: every scan is called patient" in part and part.count('class="worse"') == 1
    n = read_json(tree["scores"] / best["trials"][0]["id"] / "fitted.json")["n"]["scans"]
    for text in ("0 to 0.25", "0.125 to 0.375", f'<td class="num">{n}</td><td class="num">2</td>'):
        assert text in part
    assert '<a href="#operating">operating point</a>: a sensitivity of 0.9 or more' in page


def test_the_page_tells_temperatures_at_their_limit(made):
    tree, results, ranking = made
    for trial in ranking.candidates[0]["trials"]:
        change_fitted(tree, trial, temperature=1.3)
    assert "at its limit" not in page_of(results, ranking)
    change_fitted(tree, ranking.candidates[0]["trials"][1], temperature=19.99)
    page = page_of(results, ranking)
    assert "at its limit (20) in 1 of 2 trials" in page and "too few or too plain validation scans to fit one" in page


def test_constant_predictions_are_named_where_the_interval_would_stand(made):
    tree, results, ranking = made
    assert "no interval" not in page_of(results, ranking)
    best = ranking.candidates[0]
    for trial in best["trials"]:
        path = tree["scores"] / trial["id"] / "predictions-test.parquet"
        pd.read_parquet(path).assign(prediction=1.0).to_parquet(path)
    results = read_results(**tree)
    page = page_of(results, rank(results))
    said = "no interval: its predictions are the same for everybody"
    assert page.count(said) == 4  # the answer's figure, the ranking's dots, its table and a line below it
    assert f"{best['name']}: {said}. That is no certainty." in page


def test_agreement_that_is_nowhere_known_is_one_sentence(made):
    ranking = made[2]
    silent = [{"score": name, "n": 1, "text": "1 encoder; an order needs 4 or more"} for name in ("logme", "knn")]
    spoken = {"score": "leep", "n": 5, "text": ""}
    for agreement, rows, said in ((silent, 0, silent[0]["text"]), ([*silent, spoken], 3, ""), ([], 0, "")):
        known = {"encoders": [], "scores": [], "agreement": agreement, "harmonise": None, "notes": []}
        probed = replace(ranking, transferability=known)
        found = transferability(probed)
        assert len(found["agreement"]) == rows and found["silent"] == said
    silent_page = page_of(made[1], replace(ranking, transferability=known | {"agreement": silent}))
    assert silent_page.count("an order needs 4 or more") == 1


def test_groups_that_are_all_too_small_have_no_axes(made):
    ranking = made[2]
    few = {"group": "east", "n_persons": 4, "value": None, "low": None, "high": None, "why": "fewer than 10 persons"}
    facts = {"candidate": ranking.best, "name": "best", "set": "test", "column": "site", "n_persons": 4, "value": 0.7}
    ranking = replace(ranking, groups=[facts | {"groups": [few], "worst": None, "spread": None}])
    found = groups(ranking)
    assert found["panels"] == [] and len(found["small"]) == 1
    page = page_of(made[1], ranking)
    part = page[page.index('<h3 id="groups">') : page.index('<h3 id="operating">')]
    assert "east (n = 4): fewer than 10 persons" in part and "<svg" not in part and "panels" not in part


def test_times_are_in_a_unit_that_fits_the_longest():
    found = [time_unit(seconds) for seconds in ([9.0, 41.0], [41.0, 600.0], [60.0, 9000.0], [])]
    assert [name for _, name in found] == ["seconds", "minutes", "hours", "seconds"]
    assert [size for size, _ in found] == [1, 60, 3600, 1]


def test_the_page_tells_what_harmonising_changed_on_test_people_or_why_it_was_left_out(made, tmp_path):
    tree, results, ranking = made
    trial = next(one for one in results.trials if one["candidate"] == ranking.best)
    folder = add_explanations(tmp_path, trial, ranking.candidates[0]["name"], results.scans["scan_id"][:12].tolist())
    path, said = folder / trial["id"] / "explain.json", {}
    known = read_json(path)
    older = {key: value for key, value in known.items() if key != "harmonised"}
    reason = "training moved the encoder (strategy full)"
    left = known | {"harmonised": known["harmonised"] | {"status": "left out", "reason": reason, "test": None}}
    for name, facts in (("measured", known), ("left out", left), ("older", older)):
        write_json(path, facts)
        results = read_results(**tree, explanations=folder)
        page = page_of(results, rank(results))
        said[name] = page[page.index('<section id="looks">') :]
        assert ('id="harmonised"' in page) == (name != "older")
    counts = "80 training scans, 40 test scans of 38 persons; 1 scan stays"
    for text in ("−0.042<", "−0.100 to 0.013", counts, "0.80 → 0.40"):
        assert text in said["measured"]
    assert f"left out: {reason}" in said["left out"]


def test_what_was_not_reconstructed_goes_by_the_name_of_its_stage(made, tmp_path):
    tree, results, ranking = made
    trial = next(one for one in results.trials if one["candidate"] == ranking.best)
    folder = add_explanations(tmp_path, trial, ranking.candidates[0]["name"], results.scans["scan_id"][:12].tolist())
    path = folder / trial["id"] / "explain.json"
    reason = "; ".join(f"{key}: it has no decoder" for key in (results.pretrainings[0]["id"], trial["id"]))
    rewrite_json(path, reconstructions={"status": "left out", "reason": reason, "networks": []})
    (row,) = looks(read_results(**tree, explanations=folder), ranking)
    assert row["codes"]["reason"] == "pretrain: it has no decoder; this network: it has no decoder"
