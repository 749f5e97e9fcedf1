"""Selection on labels of the target domain, shown apart."""

import json
import shutil

import pytest
from contracts import check_json
from results_tree import write_results_tree

from tlimb.ranking.rank import rank
from tlimb.ranking.results import read_results


@pytest.fixture
def tree(tmp_path):
    return write_results_tree(tmp_path, seeds=2, persons=20)


def kept_apart(tree, swap: dict) -> None:
    """Scores on people of the target: those on validation, those of `swap`'s candidates exchanged."""
    trials = [json.loads(line) for line in (tree["search"] / "round-1/trials.jsonl").read_text().splitlines()]
    by_key = {(trial["candidate"], trial["spec"]["seed"]): trial["id"] for trial in trials}
    for trial in trials:
        other = by_key[swap.get(trial["candidate"], trial["candidate"]), trial["spec"]["seed"]]
        source = tree["scores"] / other / "scores-validation.json"
        if source.exists():
            shutil.copy(source, tree["scores"] / trial["id"] / "scores-external-target-validation.json")


def test_a_choice_on_labels_of_the_target_is_told_and_decides_nothing(tree, tmp_path):
    plain = rank(read_results(**tree))
    assert plain.oracle is None
    fine = [row["candidate"] for row in plain.candidates if not row["failed"]]
    kept_apart(tree, {fine[0]: fine[2], fine[2]: fine[0]})
    found = rank(read_results(**tree))
    assert found.oracle["candidate"] == fine[2]
    assert found.oracle["target_validation"] == pytest.approx(plain.candidates[0]["validation_mean"])
    assert found.oracle["test_low"] <= found.oracle["test_mean"] <= found.oracle["test_high"]
    assert [row["candidate"] for row in found.candidates] == [row["candidate"] for row in plain.candidates]
    check_json("ranking", found.document())
