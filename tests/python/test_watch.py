"""How far a run is: counted from files that are there, best on validation, time left, and a page of it."""

import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from training_jobs import stage, trial_line

from tlimb.cli import main
from tlimb.files import read_json, write_json, write_jsonl, write_text
from tlimb.watch.names import point_names
from tlimb.watch.page import progress_page, write_progress
from tlimb.watch.standing import Best, Count, Watcher

RATES = (0.001, 0.01)
HEADS = "name\tstatus\tsubmit\trealtime\n"
ENDED = "task_id\thash\tname\tstatus\texit\tsubmit\trealtime\n"
TASK = "SEARCH:ROUND_1:TRANSFER:FINETUNE ({})\tCOMPLETED\t2026-01-01 00:00:00.000\t1m\n"


def trials_of(seeds=(0, 1), epochs=6) -> list[dict]:
    """Two candidates, which differ in their rate, with two seeds each."""
    made = []
    for rate in RATES:
        optimizer = {"class_path": "AdamW", "init_args": {"lr": rate}}
        for seed in seeds:
            own = stage("finetune", "diagnosis", strategy="scratch", epochs=epochs, optimizer=optimizer)
            made.append(trial_line(own, seed=seed))
    return made


def trained(results: Path, trial: dict, score: float | None, budget: int = 6, seconds: float = 60.0) -> None:
    """What a trial leaves; score: on validation, None where it failed. The test set's scores are no JSON at all."""
    about = {"id": trial["id"], "budget": budget, "epochs_run": budget, "seconds": seconds, "device": "cpu"}
    about |= {"status": "ok", "reason": ""} if score is not None else {"status": "failed", "reason": "diverged"}
    write_json(results / "models" / trial["id"] / "model.json", about)
    targets = {"diagnosis": {"metrics": {"balanced_accuracy": {"value": score}}}} if score is not None else {}
    scores = {"status": about["status"], "budget": budget, "targets": targets}
    write_json(results / "scores" / trial["id"] / "scores-validation.json", scores)
    write_text(results / "scores" / trial["id"] / "scores-test.json", "never read")


@pytest.fixture
def results(tmp_path):
    """A run of four trials that has just begun."""
    write_jsonl(tmp_path / "search" / "round-1" / "trials.jsonl", trials_of())
    write_jsonl(tmp_path / "search" / "round-1" / "pretrainings.jsonl", [])
    write_json(tmp_path / "cohort" / "cohort.json", {"labels": {"diagnosis": {"kind": "classification"}}})
    return tmp_path


def told(results, *options) -> str:
    found = CliRunner().invoke(main, ["watch", str(results), *options])
    assert found.exit_code == 0, found.output
    return found.output


def test_what_is_done_failed_best_and_left_is_told(results):
    trials = trials_of()
    trained(results, trials[0], 0.6)
    trained(results, trials[2], 0.7)
    trained(results, trials[3], None)
    write_text(results / "pipeline_info" / "trace.txt", HEADS + TASK.format("a") + TASK.format("b"))
    standing = Watcher(results).look()
    assert standing.trials == Count(4, 3, 1) and standing.pretrainings == Count()
    assert standing.epochs == Count(24, 18)
    assert standing.best == Best("lr 0.01", "balanced_accuracy", 0.7, 1, 2, 6)
    assert standing.at_once == 2 and standing.left == pytest.approx(60 / 2)
    assert standing.failures == [(f"trial {trials[3]['id']}, seed 1", "diverged")]
    assert not standing.over
    text = told(results)
    assert "3 of 4, 1 failed" in text and "18 of 24" in text and "lr 0.01" in text and "0.700" in text
    assert "about 30 s" in text and "diverged" in text


def traced(results: Path, *rows: tuple, ended: bool = True, hours: float = 0) -> None:
    """What Nextflow leaves: a row a task (name, status, exit); its timeline, written last, where it came to an end."""
    lines = [
        f"{i}\taa/00000{i}\t{name}\t{status}\t{code}\t2026-01-01 00:00:0{i}.000\t1m\n"
        for i, (name, status, code) in enumerate(rows)
    ]
    write_text(results / "pipeline_info" / "trace.txt", ENDED + "".join(lines))
    write_text(results / "pipeline_info" / "timeline.html", "")
    trace, drawn = (results / "pipeline_info" / name for name in ("trace.txt", "timeline.html"))
    for path in results.rglob("*"):
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    os.utime(drawn, (trace.stat().st_mtime + (0.3 if ended else -60),) * 2)


FINETUNE = "SEARCH:ROUND_1:TRANSFER:FINETUNE (0123456789ab)"


def test_a_run_that_a_task_ended_is_told_with_the_task_and_its_status(results):
    others = ("PREPARE:COHORT", "COMPLETED", 0), ("SEARCH:ROUND_1:TRANSFER:PRETRAIN_1 (ab)", "ABORTED", "-")
    traced(results, others[0], (FINETUNE, "FAILED", 3), others[1])
    text = told(results)
    assert "the run stopped (task [aa/000001] FINETUNE (0123456789ab) failed with status 3)" in text
    assert "start it again with -resume" in text and "time left     none while nothing runs" in text
    traced(results, (FINETUNE, "FAILED", 3), ended=False)
    assert "the run will stop when its running tasks are done (task [aa/000000] FINETUNE" in told(results)


def test_a_task_that_comes_again_is_no_end_and_neither_is_a_run_that_was_resumed(results):
    traced(results, (FINETUNE, "FAILED", 137), ended=False)
    assert "-resume" not in told(results)
    traced(results, (FINETUNE, "FAILED", 137), (FINETUNE, "COMPLETED", 0), ended=False)
    assert "-resume" not in told(results)
    traced(results, *[(FINETUNE, "FAILED", 137)] * 3)
    assert "failed with status 137); start it again" in told(results)


def test_a_run_that_was_stopped_by_hand_or_before_its_search_is_told_too(results, tmp_path):
    traced(results, (FINETUNE, "ABORTED", "-"))
    assert "the run stopped; start it again with -resume" in told(results)
    traced(results, (FINETUNE, "COMPLETED", 0), ("RANK", "COMPLETED", 0))
    assert "-resume" not in told(results)
    traced(tmp_path / "early", ("PREPARE:COHORT", "FAILED", 1))
    text = told(tmp_path / "early")
    assert "no search has begun\n" in text and "COHORT failed with status 1" in text


def test_a_long_silence_is_told_where_nothing_says_that_the_run_has_ended(results):
    traced(results, (FINETUNE, "COMPLETED", 0), ended=False, hours=0.5)
    assert "nothing has been written" not in told(results)
    traced(results, (FINETUNE, "COMPLETED", 0), ended=False, hours=5)
    assert "nothing has been written for 5 h; a long task may still run, but if Nextflow runs no more" in told(results)
    trained(results, trials_of()[0], 0.6)
    assert "nothing has been written" not in told(results)


def test_the_terminal_is_given_back_when_a_run_that_was_watched_stops(results, monkeypatch):
    traced(results, (FINETUNE, "COMPLETED", 0), ended=False)
    looks = []

    def stop(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) == 1
        traced(results, (FINETUNE, "FAILED", 3))

    monkeypatch.setattr("tlimb.watch.command.time.sleep", stop)
    monkeypatch.setattr("tlimb.watch.command._is_terminal", lambda: True)
    assert "the run stopped" in told(results) and looks == [5.0]


def test_nothing_is_known_before_anything_has_ended(results, tmp_path):
    text = told(results)
    assert "0 of 4" in text and "nothing is scored yet" in text and "unknown until a training has ended" in text
    (tmp_path / "empty").mkdir()
    assert "no search has begun" in told(tmp_path / "empty")
    missing = CliRunner().invoke(main, ["watch", str(tmp_path / "nowhere")])
    assert missing.exit_code == 1 and "no such folder" in missing.output


def test_of_a_survivor_the_epochs_of_the_rung_before_count_and_those_trained_longest_come_first(results):
    first = [trial | {"budget": 2} for trial in trials_of(seeds=[0])]
    write_jsonl(results / "search" / "round-1" / "trials.jsonl", first)
    trained(results, first[0], 0.8, budget=2, seconds=20.0)
    trained(results, first[1], 0.9, budget=2, seconds=20.0)
    assert Watcher(results).look().best.name == "lr 0.01"
    write_jsonl(results / "search" / "round-2" / "trials.jsonl", [first[0] | {"budget": 6, "continues": 2}])
    write_json(results / "search" / "round-2" / "study.json", {"finished": False})
    standing = Watcher(results).look()
    assert standing.trials == Count(2, 1) and standing.epochs == Count(8, 4)
    assert standing.left == pytest.approx(4 * 10.0) and standing.more and standing.rounds == 2
    about = read_json(results / "models" / first[0]["id"] / "model.json")
    write_json(results / "models" / first[0]["id"] / "model.json", about | {"budget": 6})
    standing = Watcher(results).look()
    assert standing.trials.done == 2 and standing.best.name == "lr 0.01"  # the score that is there is of 2 epochs
    trained(results, first[0], 0.7, budget=6, seconds=60.0)
    standing = Watcher(results).look()
    assert standing.trials == Count(2, 2) and standing.best.value == 0.7 and standing.best.epochs == 6


def test_a_file_that_is_still_being_copied_is_looked_at_again_later(results):
    watcher, (trial, *_) = Watcher(results), trials_of()
    write_text(results / "models" / trial["id"] / "model.json", '{"id": "half')
    assert watcher.look().trials == Count(4, 0)
    trained(results, trial, 0.6)
    assert watcher.look().trials == Count(4, 1)


def test_a_run_is_over_with_a_ranking_of_its_own(results):
    write_json(results / "ranking" / "ranking.json", {})
    write_jsonl(results / "search" / "round-1" / "trials.jsonl", trials_of())
    for trial in trials_of():
        trained(results, trial, 0.6)
    assert not Watcher(results).look().over  # the ranking is that of the run before
    write_json(results / "ranking" / "ranking.json", {})
    assert Watcher(results).look().over and "ranking/report.html" in told(results)


def test_watching_imports_nothing_heavy(results):
    watch = f"main(['watch', {str(results)!r}], standalone_mode=False)"
    code = f"import sys; from tlimb.cli import main; {watch}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn", "scipy.stats", "matplotlib"} & set(done.stdout.split())


L2SP = {"class_path": "L2SP", "init_args": {"alpha": 0.01}}


def point(rate: float, depth: int, **tuned) -> dict:
    network = {"class_path": "ResNet", "init_args": {"depth": depth}}
    return {"stages.*.optimizer.init_args.lr": rate, "architecture": network, "architecture[0].depth": depth} | tuned


def asked(number: int, value: float | None, budget: int = 2, why: str = "startup", told=point(0.1, 10)) -> dict:
    known = [value, value] if value is not None else [None, None]
    return {
        "candidate": f"{number:012x}", "point": told, "budget": budget, "trials": ["a", "b"], "values": known,
        "value": value, "failed": 0 if value is not None else 2, "why": why,
    }  # fmt: skip


def study(**changes) -> dict:
    facts = [(1, 0.6, point(0.1, 10)), (2, 0.9, point(0.2, 18)), (3, None, point(0.3, 18))]
    first = [asked(number, value, told=told) for number, value, told in facts]
    rounds = [
        {"round": 1, "told": True, "points": first, "left_out": []},
        {"round": 2, "told": True, "points": [asked(1, 0.7, 6, "continued")], "left_out": []},
        {"round": 3, "told": False, "points": [asked(2, None, 6, "continued", point(0.2, 18))], "left_out": []},
    ]
    return {
        "method": "halving", "metric": "balanced_accuracy", "direction": "max", "epochs": 6, "rounds": rounds,
        "finished": False, "reason": "",
    } | changes  # fmt: skip


class Texts(HTMLParser):
    """The texts of a page, and whether all tags are closed."""

    def __init__(self):
        super().__init__()
        self.texts, self.open = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def read(page: str) -> list[str]:
    parser = Texts()
    parser.feed(page)
    assert not parser.open
    return parser.texts


SWEEP = SimpleNamespace(outdir="results")
ROUND = [{"budget": 6, "continues": 2}, {"budget": 6, "continues": 2}]


def test_names_of_points_say_what_differs_with_classes_and_their_arguments():
    tuned = [{"stages.finetune": {"strategy": "full", "objective": {"auxiliary": terms}}} for terms in ([], [L2SP])]
    assert point_names([point(0.1, 10, **tuned[0]), point(0.00123456, 10, **tuned[1])]) == [
        "lr 0.1, no auxiliary",
        "lr 0.00123, L2SP alpha 0.01",
    ]
    assert point_names([point(0.1, 10), point(0.1, 18)]) == ["ResNet depth 10", "ResNet depth 18"]
    assert point_names([point(0.1, 10)]) == ["the one candidate"]
    twice = [{"stages.finetune.objective.auxiliary": [L2SP | {"weight": weight}, L2SP]} for weight in (0.1, 0.5)]
    assert point_names(twice) == ["L2SP weight 0.1", "L2SP weight 0.5"]


def test_the_page_names_the_best_of_those_trained_longest_and_what_is_trained_now(tmp_path):
    write_progress(tmp_path / "progress.html", study(), ROUND, SWEEP)
    texts = read((tmp_path / "progress.html").read_text())
    together = " ".join(texts)
    assert "Best so far: lr 0.1, ResNet depth 10 , balanced accuracy 0.700" in together
    assert "after 6 of 6 epochs" in together and "Round 3 trains 2 trials for 8 epochs" in together
    place = texts.index("What each round asked for, and its best balanced_accuracy")
    assert texts[place + 1 : place + 19] == [
        "round", "candidates", "trials", "failed", "epochs", "best",
        "1", "3", "6", "2", "2", "0.900", "2", "1", "2", "0", "6", "0.700",
    ]  # fmt: skip
    assert "12 epochs of the last stage" not in together and "20 epochs of the last stage" in together


def test_the_page_stands_alone_refreshes_itself_and_knows_light_and_dark():
    page = progress_page(study(), ROUND, SWEEP)
    assert 'http-equiv="refresh"' in page and "prefers-color-scheme: dark" in page
    assert 'href="../ranking/report.html"' in page
    assert not any(word in page for word in ("http://", "https://", "<script", "<link", "test"))
    assert len(page) < 20_000
    over = progress_page(study(finished=True, reason="all points are known"), [], SWEEP)
    assert 'http-equiv="refresh"' not in over and "The search has ended: all points are known." in " ".join(read(over))


def test_a_round_of_candidates_that_are_trained_fully_already_trains_nothing_and_is_not_the_end():
    carried = study()
    carried["rounds"][1]["points"] = [asked(1, 0.7, 6, "carried")]
    carried["rounds"][2]["points"] = [asked(1, 0.7, 6, "carried")]
    page = progress_page(carried, [], SWEEP)
    texts = " ".join(read(page))
    assert "Round 3 has nothing to train" in texts and "Search in progress, round 3" in texts
    assert 'http-equiv="refresh"' in page and "has ended" not in texts
    assert "balanced accuracy 0.700 (mean of 2 trials, standard deviation 0.000) trained to its end" in texts
    assert "12 epochs of the last stage" in texts and "20 epochs" not in texts
    assert "<title>Search ended after 3 rounds" in progress_page(carried | {"finished": True}, [], SWEEP)
    assert " 2 1 0 0 6 0.700 3 1 0 0 6 0.700 " in texts


def test_what_a_sweep_writes_cannot_break_the_page():
    wild = study()
    wild["rounds"][0]["points"][1]["point"] = point(0.2, 10, name="<script>alert(1)</script>")
    page = progress_page(wild, ROUND, SimpleNamespace(outdir="a<b"))
    assert "<script" not in page and "a&lt;b" in page
    read(page)


def test_before_anything_is_scored_the_page_says_so():
    first = study()["rounds"][0] | {"told": False, "points": [asked(number, None) | {"failed": 0} for number in (1, 2)]}
    texts = " ".join(read(progress_page(study(rounds=[first]), ROUND[:1], SWEEP)))
    assert "Nothing is scored yet" in texts and "not known yet" in texts and "Round 1 trains 1 trial for" in texts


def test_the_best_is_the_lowest_where_lower_is_better():
    texts = " ".join(read(progress_page(study(direction="min", rounds=study()["rounds"][:1]), ROUND, SWEEP)))
    assert "Best so far: lr 0.1, ResNet depth 10 , balanced accuracy 0.600" in texts


def test_of_trials_of_different_length_the_best_whole_one_is_best(results):
    short, long = trials_of(seeds=[0], epochs=3)[0], trials_of(seeds=[0])[1]
    lines = [short | {"budget": 3}, long]
    write_jsonl(results / "search" / "round-1" / "trials.jsonl", lines)
    trained(results, short, 0.9, budget=3)
    trained(results, long, 0.7)
    assert Watcher(results).look().best.value == 0.9
    page = progress_page(study(method="random"), ROUND, SWEEP)
    assert "balanced accuracy 0.900" in " ".join(read(page))


def test_rounds_that_an_earlier_search_left_are_not_counted(results):
    def left(number: int, *rounds: list[str], finished: bool = False) -> None:
        folder = results / "search" / f"round-{number}"
        asked = [{"points": [{"trials": [trial]} for trial in trials]} for trials in rounds]
        write_json(folder / "study.json", {"finished": finished, "rounds": asked})
        write_jsonl(folder / "trials.jsonl", trials_of())

    left(1, ["a"])
    left(2, ["a"], ["b"])
    left(3, ["a"], ["c"], ["d"], finished=True)
    assert Watcher(results).look().rounds == 2
    left(2, ["a"], ["c"])
    assert Watcher(results).look().rounds == 3
    left(1, ["a"], finished=True)
    assert Watcher(results).look().rounds == 1


def test_of_a_run_of_stubs_what_is_done_is_told_and_that_nothing_is_trained(tmp_path):
    write_jsonl(tmp_path / "search" / "round-1" / "trials.jsonl", [{"id": "a", "init": ""}, {"id": "b", "init": "c"}])
    write_jsonl(tmp_path / "search" / "round-1" / "pretrainings.jsonl", [{"id": "c", "level": 1, "parent": ""}])
    write_json(tmp_path / "search" / "round-1" / "study.json", {"rounds": [], "finished": True, "reason": "stub"})
    write_json(tmp_path / "encoders" / "c" / "encoder.json", {"id": "c", "status": "ok", "reason": ""})
    write_json(tmp_path / "models" / "a" / "model.json", {"id": "a", "status": "ok", "reason": "", "budget": 1})
    standing = Watcher(tmp_path).look()
    assert standing.stub and standing.pretrainings == Count(1, 1) and standing.trials == Count(2, 1)
    assert standing.best is None and standing.left is None and not standing.over
    text = told(tmp_path)
    assert "1 of 2" in text and "nothing is trained or scored in this run" in text
    assert "best so far" not in text and "epochs" not in text and "time left" not in text
