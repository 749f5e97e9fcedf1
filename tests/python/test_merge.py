"""results.json of a run, and several of them merged and ranked together."""

import copy

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from results_tree import rewrite_json, write_results_tree

from tlimb.cli import main
from tlimb.errors import InputError
from tlimb.files import digest, read_json, write_json
from tlimb.ranking.compare import Measure
from tlimb.ranking.friedman import mean_ranks
from tlimb.ranking.merge import merge, read_part
from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results
from tlimb.ranking.results_file import ResultsFile, results_document
from tlimb.ranking.write import write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a run with its results.json, and its ranking."""
    root = tmp_path_factory.mktemp("run")
    results = read_results(**write_results_tree(root, seeds=2, persons=60))
    ranking = rank(results)
    write_results(results, ranking, root / "ranking")
    return root, ranking


def document(datasets: dict[str, dict[str, float]], metric="balanced_accuracy", people="1" * 12) -> dict:
    """A results.json: dataset -> method -> mean."""
    direction = "min" if metric == "mae" else "max"
    protocol = {"metric": metric, "direction": direction, "kind": "classification", "classes": ["a", "b"]}
    protocol |= {"cohorts": ["clinic"], "people": people, "scans": "2" * 12, "split": {"scheme": "holdout", "seed": 0}}
    counts = {"n_persons": 50, "n_scans": 50}
    facts = {"candidate": "0" * 12, "name": "x", "strategy": "s", "architecture": "A", "spec": {}}
    facts |= {"parameters": 1, "seconds": 2.0}
    key = {"seed": 0, "repeat": 0, "fold": None, "inner_fold": None, "replicate": None}
    return {
        "format": 1,
        "made_with": {"tlimb": "0.1.0"},
        "datasets": [{"dataset": name, "digest": digest(protocol), "protocol": protocol} | counts for name in datasets],
        "methods": [{"method": name} | facts for name in {name: 0 for found in datasets.values() for name in found}],
        "scores": [
            {"dataset": name, "method": method, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "validation": 0.5}
            | {"trials": [key | {"value": mean}]}
            for name, found in datasets.items()
            for method, mean in found.items()
        ],
    }


@pytest.fixture
def file(tmp_path):
    def write(name: str, content: dict) -> str:
        write_json(tmp_path / name / "results.json", content)
        return str(tmp_path / name)

    return write


def test_a_run_leaves_a_results_file_that_stands_by_itself(written):
    root, ranking = written
    found = read_json(root / "ranking" / "results.json")
    ResultsFile.model_validate(found)
    assert [row["dataset"] for row in found["datasets"]] == ["clinic: diagnosis"]
    assert found["datasets"][0]["n_persons"] == 60 and found["datasets"][0]["protocol"]["metric"] == "balanced_accuracy"
    selected = {row["candidate"]: row for row in ranking.selected()}
    assert {row["candidate"] for row in found["methods"]} == set(selected)
    methods = {row["method"]: row["candidate"] for row in found["methods"]}
    assert methods.keys() == {"ResNet, full", "ResNet, full + L2SP", "ResNet, frozen", "ResNet, scratch"}
    for score in found["scores"]:
        row = selected[methods[score["method"]]]
        assert [score["mean"], score["low"], score["high"]] == [row["test_mean"], row["test_low"], row["test_high"]]
        tested = [one["test"] for one in row["trials"] if one["test"] is not None]
        assert [one["value"] for one in score["trials"]] == tested


def test_external_cohorts_are_data_sets_of_their_own(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, persons=30, failing=False)
    sweep = read_json(tree["sweep"])
    rewrite_json(tree["sweep"], evaluate=sweep["evaluate"] | {"external": [{"cohort": "a"}, {"cohort": "b"}]})
    for folder in tree["scores"].iterdir():
        for kind, end in (("scores", "json"), ("predictions", "parquet")):
            for cohort in "ab":
                (folder / f"{kind}-external-{cohort}.{end}").write_bytes((folder / f"{kind}-test.{end}").read_bytes())
    results = read_results(**tree)
    ranking = rank(results)
    measure = Measure("balanced_accuracy", "classification", 100, 0.95, 0)
    found = results_document(results, ranking.selected(), "diagnosis", measure)
    names = [row["dataset"] for row in found["datasets"]]
    assert names == ["clinic: diagnosis", "a: diagnosis, trained on clinic", "b: diagnosis, trained on clinic"]
    assert found["datasets"][1]["protocol"]["split"] is None
    assert ranking.friedman["datasets"] == ["test", "external-a", "external-b"] and len(ranking.friedman["ranks"]) == 4
    means = np.array([[row["test_mean"] for row in ranking.selected()]] * 3)
    expected = dict(zip((row["candidate"] for row in ranking.selected()), mean_ranks(means, "max")))
    assert {row["candidate"]: row["mean_rank"] for row in ranking.friedman["ranks"]} == pytest.approx(expected)


def test_nothing_selected_leaves_no_results_file(tmp_path):
    tree = write_results_tree(tmp_path, seeds=1, persons=12, failing=False)
    for path in tree["models"].glob("*/model.json"):
        rewrite_json(path, status="failed", reason="out of memory")
    results = read_results(**tree)
    write_results(results, rank(results), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_methods_are_ranked_over_the_data_sets_of_all_runs(file):
    x = {"full": 0.8, "frozen": 0.7, "scratch": 0.6}
    y = {"full": 0.7, "frozen": 0.7, "scratch": 0.9}
    z = {"full": 0.6, "frozen": 0.5, "scratch": 0.4, "new": 0.9}
    parts = [file("one", document({"x": x, "y": y})), file("two", document({"z": z}))]
    merged = merge([read_part(one) for one in parts])
    ranks = {row["method"]: row["mean_rank"] for row in merged["methods"]}
    whole = {"full": (1 + 1 + 2.5) / 3, "frozen": (2 + 2 + 2.5) / 3, "scratch": (3 + 3 + 1) / 3}
    assert ranks.pop("new") is None and ranks == pytest.approx(whole)
    assert [row["method"] for row in merged["methods"]] == ["full", "frozen", "scratch", "new"]
    assert merged["friedman"]["datasets"] == ["x", "y", "z"] and len(merged["friedman"]["ranks"]) == 3
    assert next(row for row in merged["scores"] if row["method"] == "new")["rank"] == 1
    assert merge([read_part(one) for one in reversed(parts)]) == merged


def test_a_loss_ranks_the_smallest_first(file):
    merged = merge([read_part(file("one", document({"x": {"a": 2.0, "b": 1.0}}, metric="mae")))])
    assert [row["method"] for row in merged["methods"]] == ["b", "a"] and merged["friedman"] is None
    assert "needs 3 data sets and 3 methods" in merged["notes"][0]


def test_runs_that_measured_otherwise_are_refused_with_what_differs(file):
    one, two = document({"x": {"a": 0.5}}), document({"x": {"b": 0.6}}, metric="auroc", people="3" * 12)
    with pytest.raises(InputError) as caught:
        merge([read_part(file("one", one)), read_part(file("two", two))])
    text = str(caught.value)
    assert "'x' was measured otherwise than in" in text and "metric is 'auroc', there 'balanced_accuracy'" in text
    assert "people is '333" in text


def test_a_method_with_two_scores_asks_for_labels_and_labels_keep_them_apart(file):
    places = [file(name, document({"x": {"a": mean, "b": 0.3}})) for name, mean in (("one", 0.5), ("two", 0.6))]
    with pytest.raises(InputError, match="'a' has another score on 'x' in .*one/results.json .give the files labels"):
        merge([read_part(place) for place in places])
    merged = merge([read_part(f"ours={places[0]}"), read_part(f"theirs={places[1]}")])
    assert [row["method"] for row in merged["methods"]][:2] == ["theirs: a", "ours: a"]
    same = merge([read_part(places[0]), read_part(file("three", document({"x": {"a": 0.5, "c": 0.3}})))])
    assert [row["method"] for row in same["methods"]] == ["a", "b", "c"]


def test_files_that_are_none_are_named_with_what_is_wrong(file, tmp_path):
    broken = document({"x": {"a": 0.5}})
    changed = copy.deepcopy(broken)
    changed["datasets"][0]["protocol"]["metric"] = "auroc"
    unlisted = copy.deepcopy(broken)
    unlisted["scores"][0]["method"] = "unheard of"
    wrong = broken | {"scores": [{"dataset": "x"}]}
    for content, message in [
        (changed, "datasets.0..digest: is not that of the protocol"),
        (unlisted, "'unheard of' is not listed under methods"),
        (wrong, "scores.0..method: missing"),
        ({"answer": ""}, "not a results file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_part(file("bad", content))
    with pytest.raises(InputError, match="no such file"):
        read_part(str(tmp_path / "nowhere"))


def test_the_command_merges_runs_and_reports_every_bad_file(written, file, tmp_path):
    root, _ = written
    other = file("other", document({"x": {"ResNet, full": 0.8, "ResNet, scratch": 0.7}}))
    done = CliRunner().invoke(main, ["merge", str(root), other, "--out", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    merged = read_json(tmp_path / "merged" / "merged.json")
    assert [row["dataset"] for row in merged["datasets"]] == ["clinic: diagnosis", "x"]
    assert len(pd.read_csv(tmp_path / "merged" / "merged.csv")) == 6
    assert "| ResNet, full |" in (tmp_path / "merged" / "merged.md").read_text() and "mean rank" in done.output
    failed = CliRunner().invoke(main, ["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    assert failed.exit_code == 1 and "2 problems" in failed.output


def test_a_method_with_a_failed_fold_is_left_out_of_a_data_set_that_others_have_whole(tmp_path):
    split = {"scheme": "kfold", "folds": 5, "test": 0.2}
    tree = write_results_tree(tmp_path, seeds=1, persons=60, split=split, failing=False)
    frozen = [row for row in rank(read_results(**tree)).candidates if row["strategy"] == "frozen"]
    for row in frozen:
        rewrite_json(tree["models"] / row["trials"][2]["id"] / "model.json", status="failed", reason="diverged")
    results = read_results(**tree)
    ranking = rank(results)
    (name,) = {row["name"] for row in ranking.selected() if row["strategy"] == "frozen"}
    measure = Measure(ranking.metric, "classification", 100, 0.95, 0)
    found = results_document(results, ranking.selected(), ranking.target, measure)
    assert [row["n_persons"] for row in found["datasets"]] == [60]
    assert name in {row["name"] for row in found["methods"]} and len(found["scores"]) == len(found["methods"]) - 1
    assert all(len(score["trials"]) == 5 for score in found["scores"])


def test_data_sets_of_the_same_people_are_said_to_go_together(file):
    one, other = document({"few": {"m": 0.5}}), document({"other": {"m": 0.6}}, people="3" * 12)
    alone = merge([read_part(file("one", one)), read_part(file("other", other))])
    assert not any("same people" in note for note in alone["notes"])
    both = merge([read_part(file("both", document({"n 20": {"m": 0.5}, "n 40": {"m": 0.6}})))])
    assert any(note.startswith("n 20, n 40 test the same people") for note in both["notes"])


def test_a_run_is_not_merged_with_itself_nor_with_a_copy(file, tmp_path):
    one, copied = file("one", document({"x": {"a": 0.5}})), file("copied", document({"x": {"a": 0.5}}))
    with pytest.raises(InputError, match="one/results.json: is given twice, which would count twice"):
        merge([read_part(one), read_part(f"{one}/results.json")])
    with pytest.raises(InputError, match="one/results.json: has the same results as .*copied/results.json"):
        merge([read_part(f"theirs={one}"), read_part(f"ours={copied}")])
    done = CliRunner().invoke(main, ["merge", one, one, "--out", str(tmp_path / "merged")])
    assert done.exit_code == 1 and not (tmp_path / "merged").exists()


def test_files_that_share_trials_are_named(file):
    first = file("first", document({"x": {"a": 0.5, "b": 0.3}}))
    more = file("more", document({"x": {"a": 0.5, "c": 0.4}}))
    (note,) = [one for one in merge([read_part(first), read_part(more)])["notes"] if "same trials" in one]
    assert note == f"a has the same trials on x in {first}/results.json and {more}/results.json: they count once."
    labelled = merge([read_part(f"before={first}"), read_part(f"after={more}")])["notes"]
    (note,) = [one for one in labelled if "same trials" in one]
    assert note.startswith("after: a and before: a are the same trials on x, in ") and "several ranks" in note
    other = file("other", document({"x": {"a": 0.6}}))
    assert not any("same trials" in one for one in merge([read_part(first), read_part(f"o={other}")])["notes"])


def test_where_a_data_set_was_measured_otherwise_its_scores_are_not_compared(file):
    one, two = document({"x": {"a": 0.5}}), document({"x": {"a": 0.6}}, people="3" * 12)
    with pytest.raises(InputError) as caught:
        merge([read_part(file("one", one)), read_part(file("two", two))])
    assert len(caught.value.problems) == 1
