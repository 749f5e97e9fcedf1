import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from contracts import check_json

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json, read_jsonl, write_json
from tlimb.search.jobs import packs, write_round
from tlimb.search.preprocessed import all_fine
from tlimb.search.split_rows import SplitRows
from tlimb.search.study import read_scores, tell, write_study
from tlimb.search.suggest import outlook, suggest


def scored(folder, trials, value):
    """Write what EVALUATE leaves of trials; value: of a trial's line, None where it failed."""
    for trial in trials:
        found = value(trial)
        metrics = {"status": "ok", "targets": {"diagnosis": {"metrics": {"balanced_accuracy": {"value": found}}}}}
        write_json(folder / trial["id"] / "scores-validation.json", metrics if found is not None else {"status": "failed"})


def told(proposal, folder, value=lambda trial: int(trial["candidate"], 16) / 16**12):
    scored(folder, proposal.trials, value)
    return tell(proposal.study, read_scores(folder, proposal.study))


@pytest.fixture
def recipes(table):
    return all_fine(table, ["default"])


RATE = "stages.finetune.optimizer.init_args.lr"


def test_a_rung_holds_the_survivors_trials_of_all_seeds_and_says_what_they_continue(document, table, labels, recipes, tmp_path):
    document["stages"][1]["epochs"] = 9
    document["search"] |= {"method": "halving", "points": 9}
    document["search"]["space"][RATE] = {"log_uniform": [1e-4, 1e-2]}
    sweep, study, rounds = read_sweep(document), None, []
    while study is None or not study.finished:
        proposal = suggest(sweep, table, labels, recipes, before=study)
        write_round(tmp_path / "round", proposal, table, {"labels": labels, "files": {}}, 4)
        study = told(proposal, tmp_path / "scores")
        rounds.append(proposal)
    assert [(len(p.trials), {t["budget"] for t in p.trials}, {t.get("continues") for t in p.trials}) for p in rounds] == [
        (18, {1}, {None}), (6, {3}, {1}), (2, {9}, {3})
    ]  # fmt: skip
    assert {t["id"] for t in rounds[2].trials} < {t["id"] for t in rounds[1].trials} < {t["id"] for t in rounds[0].trials}
    assert rounds[0].pretrainings and not rounds[1].pretrainings and not rounds[2].pretrainings
    for line in read_jsonl(tmp_path / "round" / "trials.jsonl"):
        check_json("trial", line)
    for path in (tmp_path / "round" / "jobs").glob("*/job.json"):
        check_json("job", read_json(path))
    assert outlook(sweep, rounds[0]) == {"rounds": 3, "trials": 2 * (9 + 3 + 1), "epochs": 2 * (9 * 1 + 3 * 2 + 1 * 6)}
    assert study.finished and "9 candidates in 3 rounds" in study.reason


def test_later_rounds_ask_for_new_pretrainings_alone(document, table, labels, recipes, tmp_path):
    document["search"] |= {"method": "bayes", "points": 12, "rounds": 3, "seeds": [0]}
    document["search"]["space"] = {"stages.pretrain.epochs": [1, 2, 3, 4], RATE: {"log_uniform": [1e-4, 1e-2]}}
    sweep, study, made, trials = read_sweep(document), None, [], []
    for _ in range(3):
        proposal = suggest(sweep, table, labels, recipes, before=study)
        made += [line["id"] for line in proposal.pretrainings]
        trials += proposal.trials
        study = told(proposal, tmp_path)
    assert len(made) == len(set(made)) == 4 == len(study.pretrainings) and len(trials) == 12
    assert {trial["init"] for trial in trials} == set(made)
    assert {asked.why for asked in study.rounds[0].points} == {"startup"}
    assert {asked.why for asked in study.rounds[2].points} == {"asked"}


def test_a_longer_study_repeats_the_one_before_round_by_round_and_adds_only_what_is_new(
    document, table, labels, recipes, tmp_path
):
    def run(search, earlier=None):
        document["search"] = {"seeds": [0]} | search
        sweep, study, trials = read_sweep(document), None, []
        while study is None or not study.finished:
            proposal = suggest(sweep, table, labels, recipes, before=study, earlier=earlier)
            trials.append([trial["id"] for trial in proposal.trials])
            study = told(proposal, tmp_path)
        return study, trials

    space = {RATE: {"log_uniform": [1e-4, 1e-2]}}
    first = {"method": "bayes", "points": 6, "rounds": 2, "space": space}
    study, trials = run(first)
    wider = {RATE: {"log_uniform": [1e-5, 1e-1]}, "stages.finetune.batch_size": [16, 8]}
    longer, more = run(first | {"points": 10, "rounds": 4, "space": wider}, study)
    assert more[:2] == trials and [len(one) for one in more] == [3, 3, 2, 2]
    assert longer.given == 6 and {a.why for one in longer.rounds[:2] for a in one.points} == {"repeated"}
    seeds, again = run(first | {"seeds": [0, 1]}, study)
    assert [set(a) > set(b) and len(a) == 2 * len(b) for a, b in zip(again, trials)] == [True, True]
    narrow = {RATE: {"log_uniform": [1e-4, 1e-3]}}
    left, fewer = run(first | {"space": narrow}, study)
    assert left.rounds[0].left_out and "does not lie in the space" in left.rounds[0].left_out[0].why
    other, anew = run(first | {"seed": 5}, study)
    assert other.given == 0 and "passed over: seed 0 against 5" in other.reason and anew != trials


def test_a_random_study_with_more_points_asks_for_the_ones_before_first(document, table, labels, recipes):
    document["search"] |= {"method": "random", "points": 5, "space": {RATE: {"log_uniform": [1e-4, 1e-2]}}}
    study = suggest(read_sweep(document), table, labels, recipes)
    document["search"]["points"] = 8
    more = suggest(read_sweep(document), table, labels, recipes, earlier=study.study)
    assert [t["id"] for t in more.trials][:10] == [t["id"] for t in study.trials] and len(more.trials) == 16


def test_what_cannot_be_trained_stops_the_first_round_and_is_left_out_of_later_ones(document, table, labels, recipes, tmp_path):
    document["search"] |= {"method": "bayes", "points": 8, "rounds": 2, "seeds": [0]}
    document["search"]["space"] = {
        "stages.finetune.strategy": ["scratch", "full"],
        "stages.finetune.objective.auxiliary": [[], [{"class_path": "L2SP"}]],
        RATE: {"log_uniform": [1e-4, 1e-2]},
    }
    with pytest.raises(InputError) as caught:
        suggest(read_sweep(document), table, labels, recipes)
    place = "search.space.'stages.finetune.strategy'[0] with search.space.'stages.finetune.objective.auxiliary'[1]: stages[1]"
    assert place in str(caught.value) and "leave such points out by search.unless" in str(caught.value)
    condition = {"stages.finetune.strategy": "scratch", "stages.finetune.objective.auxiliary": [[{"class_path": "L2SP"}]]}
    document["search"]["unless"] = [condition]
    first = suggest(read_sweep(document), table, labels, recipes)
    assert len(first.trials) == 4
    study = told(first, tmp_path)
    document["search"]["unless"] = []
    left = [suggest(read_sweep(document | {"search": document["search"] | {"seed": seed}}), table, labels, recipes, before=study)
            for seed in range(4)]  # fmt: skip
    whys = [one.why for proposal in left for one in proposal.study.rounds[1].left_out]
    assert all(len(proposal.trials) == 4 for proposal in left)
    assert whys and all("L2SP looks back at a pretrained encoder" in why for why in whys)


def test_permuted_test_labels_change_no_proposal_of_any_round(document, table, labels, recipes, tmp_path):
    document["split"]["stratify"] = []
    document["search"] |= {"method": "bayes", "points": 6, "rounds": 2, "space": {RATE: {"log_uniform": [1e-4, 1e-2]}}}
    sweep, seen = read_sweep(document), []
    for permuted in (False, True):
        rows = table.copy()
        if permuted:
            test = first.splits[first.splits["role"] == "test"]["scan_id"]
            chosen = rows["scan_id"].isin(test) & (rows["cohort"] == "clinic")
            rows.loc[chosen, "diagnosis"] = rows.loc[chosen, "diagnosis"].to_numpy()[::-1]
            assert not rows["diagnosis"].equals(table["diagnosis"])
        first = suggest(sweep, rows, labels, recipes)
        second = suggest(sweep, rows, labels, recipes, before=told(first, tmp_path))
        seen.append((first.trials, second.trials, second.study))
    assert seen[0] == seen[1]


def test_packs_hold_one_budget_and_probes_one_set_of_encoders(document, table, labels, tmp_path, recipes):
    document["split"] |= {"scheme": "kfold", "folds": 3, "test": 0.2}
    document["split"].pop("test")
    document["evaluate"] = {"probe": True, "harmonise": "sex", "keeping": ["age"]}
    table["sex"] = ["f", "m"] * 30
    labels["sex"] = {"kind": "classification", "classes": ["f", "m"], "n": 60}
    sweep = read_sweep(document)
    proposal = suggest(sweep, table, labels, recipes)
    write_round(tmp_path, proposal, table, {"labels": labels, "files": {}}, 4, evaluate=sweep.evaluate)
    jobs = [read_json(path) for path in (tmp_path / "jobs").glob("*/job.json")]
    for job in jobs:
        check_json("job", job)
    (probe,) = [job for job in jobs if job["kind"] == "probe"]
    rows = pd.read_parquet(tmp_path / "jobs" / probe["id"] / "table.parquet")
    assert list(rows.columns) == ["split", "scan_id", "person", "role", "times", "diagnosis", "sex", "age"]
    assert set(rows["role"]) == {"train", "validation"} and rows["split"].nunique() == 3
    assert rows["diagnosis"].notna().all() and len(probe["inits"]) == 2 and probe["target"] == "diagnosis"
    assert set(probe["columns"]) == {"sex", "age"}
    rows = SplitRows(proposal.splits, table, labels)
    trials = [trial | {"budget": 1 + i % 2} for i, trial in enumerate(proposal.trials)]
    assert all(len({trial["budget"] for trial in pack}) == 1 for pack in packs(replace(proposal, trials=trials), 8, rows))
    document["evaluate"] = {"groups": ["sexx"], "probe": True, "harmonise": "age", "keeping": ["diagnosis", "many"]}
    labels["many"] = {"kind": "multilabel", "classes": ["a", "b"], "n": 60}
    with pytest.raises(InputError) as caught:
        suggest(read_sweep(document), table, labels, recipes)
    assert "evaluate.groups[0]: no label column is called 'sexx' (did you mean 'sex'?)" in str(caught.value)
    assert "evaluate.harmonise: 'age' is of kind regression; features are harmonised over classes" in str(caught.value)
    assert "evaluate.keeping: 'diagnosis' is a target" in str(caught.value)
    assert "evaluate.keeping[1]: 'many' is of kind multilabel; effects of quantities and of classes are kept" in str(caught.value)


def test_harmonising_without_a_probe_and_keeping_without_harmonising_are_told(document):
    for evaluate, told in [({"harmonise": "sex"}, '"probe": true'), ({"probe": True, "keeping": ["age"]}, "`harmonise`")]:
        with pytest.raises(InputError, match=told):
            read_sweep(document | {"evaluate": evaluate})


def test_a_round_without_anything_new_is_finished_and_leaves_empty_files(document, table, labels, recipes, tmp_path):
    document["search"] |= {"method": "bayes", "points": 9, "rounds": 3, "seeds": [0]}
    document["search"]["space"] = {"stages.finetune.batch_size": [4, 8, 16]}
    sweep = read_sweep(document)
    study = told(suggest(sweep, table, labels, recipes), tmp_path)
    last = suggest(sweep, table, labels, recipes, before=study)
    write_round(tmp_path / "round", last, table, {"labels": labels, "files": {}}, 4)
    assert last.trials == [] and last.study.finished and not (tmp_path / "round" / "jobs").exists()
    assert read_jsonl(tmp_path / "round" / "trials.jsonl") == []
    assert list(pd.read_parquet(tmp_path / "round" / "splits.parquet").columns) == ["split", "scan_id", "role", "times"]


def test_later_rounds_find_the_scans_of_every_variant_prepared(document, table, labels):
    document["recipes"] = {"default": {}, "coarse": {"spacing": 4.0}}
    document["search"] |= {"method": "bayes", "points": 2, "rounds": 2}
    document["search"]["space"] = {"stages.*.data.recipe": ["default", "coarse"], RATE: {"log_uniform": [1e-4, 1e-2]}}
    proposal = suggest(read_sweep(document), table, labels, all_fine(table, ["default", "coarse"]))
    assert len(proposal.study.rounds[0].points) == 1
    assert {spec["stages"][-1]["data"]["recipe"] for spec in proposal.specs} == {"default", "coarse"}


def test_halving_of_stages_that_differ_in_length_is_refused(document, table, labels, recipes):
    document["search"] |= {"method": "halving", "points": 4}
    document["search"]["space"] = {"stages.finetune.epochs": [9, 12], RATE: {"log_uniform": [1e-4, 1e-2]}}
    with pytest.raises(InputError, match="the last stage's epochs vary"):
        suggest(read_sweep(document), table, labels, recipes)
    document["search"]["space"]["stages.finetune.epochs"] = [12]
    assert {trial["budget"] for trial in suggest(read_sweep(document), table, labels, recipes).trials} == {2}


def loaded(path):
    """A script as a module."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inputs(document, table, labels, tmp_path):
    """Files as COHORT and PREPROCESS write them, and the options of SUGGEST that name them."""
    document["search"] |= {"method": "halving", "points": 9, "seeds": [0], "space": {RATE: {"log_uniform": [1e-4, 1e-2]}}}
    document["stages"][1]["epochs"] = 9
    store = tmp_path / "store" / "default"
    store.mkdir(parents=True)
    rows = {"scan_id": table["scan_id"], "status": "ok", "reason": "", "digest": [f"{i:016x}" for i in range(len(table))]}
    pd.DataFrame(rows).to_parquet(store / "shard-all.parquet")
    write_json(store / "shard-all.json", {"chunk": "all", "fingerprint": "5f0c3d9ab812"})
    table.to_parquet(tmp_path / "cohort.parquet")
    write_json(tmp_path / "cohort.json", {"labels": labels, "split_file": None, "files": {}})
    write_json(tmp_path / "sweep.json", document)
    named = {"sweep": "sweep.json", "cohort": "cohort.parquet", "cohort-json": "cohort.json", "store": "store"}
    return [part for name, file in named.items() for part in (f"--{name}", str(tmp_path / file))]


def test_the_command_plays_a_study_round_by_round_from_files(inputs, tmp_path, pytestconfig):
    command = loaded(pytestconfig.rootpath / "bin" / "tlimb_suggest.py").main
    known, rounds = [], 0
    while rounds == 0 or not read_json(tmp_path / "search" / str(rounds) / "study.json")["finished"]:
        rounds += 1
        out = tmp_path / "search" / str(rounds)
        result = CliRunner().invoke(command, [*inputs, *known, "--round", str(rounds), "--out", str(out)])
        assert result.exit_code == 0, result.output
        check_json("study", read_json(out / "study.json"))
        scored(tmp_path / "scores", read_jsonl(out / "trials.jsonl"), lambda trial: int(trial["id"], 16) / 16**12)
        known = ["--before", str(out / "study.json"), "--validation", str(tmp_path / "scores")]
    assert rounds == 3 and len(read_jsonl(out / "trials.jsonl")) == 1
    best = max(asked["value"] for asked in read_json(out / "study.json")["rounds"][0]["points"])
    assert read_json(out / "study.json")["rounds"][1]["points"][0]["value"] == best
    study = ["--study", str(out / "study.json"), "--out", str(tmp_path / "again")]
    result = CliRunner().invoke(command, [*inputs, *study])
    assert result.exit_code == 0 and "passed over: rungs are made anew" in result.output
    write_json(tmp_path / "old.json", {"rounds": []})
    result = CliRunner().invoke(command, [*inputs, "--study", str(tmp_path / "old.json"), "--out", str(tmp_path / "again")])
    assert result.exit_code == 0 and "passed over" in result.output and "old.json: method: missing" in result.output
    assert CliRunner().invoke(command, [*inputs, *study, "--before", str(out / "study.json")]).exit_code == 2


def test_searches_are_replayed_on_the_training_curves_of_a_grid(document, table, labels, tmp_path, pytestconfig):
    replays = loaded(pytestconfig.rootpath / "benchmarks" / "search.py")
    document["stages"][1]["epochs"] = 9
    document["search"]["space"][RATE] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    proposal = suggest(read_sweep(document), table, labels, all_fine(table, ["default"]))
    results = tmp_path / "results"
    write_round(results / "search" / "round-1", proposal, table, {"labels": labels, "files": {}}, 8)
    write_study(results / "search" / "round-1" / "study.json", proposal.study)
    write_json(results / "cohort" / "sweep.json", document)
    for line in proposal.pretrainings:
        write_json(results / "encoders" / line["id"] / "encoder.json", {"n": {"train": 33}, "epochs_run": 3, "parent": ""})
    ranks = {asked.candidate: i for i, asked in enumerate(proposal.study.rounds[0].points)}
    for trial in proposal.trials:
        folder = results / "models" / trial["id"]
        write_json(folder / "model.json", {"status": "ok", "n": {"train": 20}})
        epochs = np.arange(1, 10)
        metric = (ranks[trial["candidate"]] + 0.1 * trial["spec"]["seed"]) / 100 + epochs / 100
        losses = np.where(epochs == 9, 5.0, 1 / epochs)  # the last epoch is not kept
        columns = {"epoch": epochs, "validation_loss": losses, "validation_balanced_accuracy": metric}
        pd.DataFrame(columns).to_csv(folder / "history.csv", index=False)
    run = CliRunner().invoke(replays.main, ["table", str(results), str(tmp_path / "curves.csv")])
    assert run.exit_code == 0 and run.output == "20 candidates, 40 trials, 360 epochs\n", run.output
    stored = replays.read_table(tmp_path / "curves.csv")
    best = max(ranks, key=ranks.get)
    assert stored.value(best) == pytest.approx((19 + 0.05) / 100 + 8 / 100)
    assert stored.error(best) == pytest.approx(0.001 / np.sqrt(2) / np.sqrt(2))
    run = CliRunner().invoke(replays.main, ["replay", str(tmp_path / "curves.csv"), "--replays", "2", "--share", "1"])
    assert run.exit_code == 0, run.output
    lines = [line.split(" | ") for line in run.output.splitlines() if line.startswith("| ")][1:]
    assert [line[0] for line in lines] == ["| random", "| bayes", "| halving", "| hyperband", "| bayes+halving"]
    assert lines[0][1:4] == ["20", "1", "100%"] and lines[0][5] == "100%"
    assert lines[2][1:3] == ["20", "3"] and lines[2][5:] == ["100%", "0.0000 (0.0000 to 0.0000) |"]
    assert lines[2][3] == f"{(20 * 1 + 7 * 2 + 3 * 6) / 180:.0%}"


def test_a_point_that_cannot_be_measured_as_others_are_is_left_out_and_so_are_those_like_it(
    document, table, labels, recipes, tmp_path
):
    table["site"] = [float(i // 2 % 3 + 1) for i in range(len(table))]
    table.loc[3, "site"] = None
    labels["site"] = {"kind": "classification", "classes": ["1", "2", "3"], "n": 59}
    balanced = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    document["stages"][1]["data"]["labelled"]["missing"] = "drop"
    document["search"] |= {"method": "bayes", "points": 8, "rounds": 2, "seeds": [0]}
    document["search"]["space"] = {"stages.finetune.data.sampler": [None, balanced], RATE: {"log_uniform": [1e-4, 1e-2]}}
    document["search"]["unless"] = [{"stages.finetune.data.sampler": balanced}]
    study = told(suggest(read_sweep(document), table, labels, recipes), tmp_path)
    document["search"]["unless"] = []
    last = suggest(read_sweep(document), table, labels, recipes, before=study)
    left = last.study.rounds[1].left_out
    assert len(left) > 1 and "candidates would not be measured on the same people" in left[0].why
    assert {trial["split"] for trial in last.trials} <= {trial["split"] for trial in suggest_first(document, table, labels, recipes)}


def suggest_first(document, table, labels, recipes):
    """The trials of the candidate that leaves the sampler as it is."""
    search = document["search"] | {"method": "grid", "points": None, "space": {"stages.finetune.data.sampler": [None]}}
    return suggest(read_sweep(document | {"search": search}), table, labels, recipes).trials


def test_a_key_of_the_sweep_stands_for_that_of_a_preset_whichever_way_it_is_written(document, table, labels, recipes):
    fixed = {"class_path": "SGD", "init_args": {"lr": 0.5}}
    document["search"] |= {"method": "random", "points": 4, "seeds": [0], "presets": ["optimizer"]}
    document["search"]["space"] = {"stages.-1.optimizer": [fixed], "stages.finetune.batch_size": [4, 8]}
    trials = suggest(read_sweep(document), table, labels, recipes).trials
    assert len(trials) == 2 and all(trial["spec"]["stages"][-1]["optimizer"] == fixed for trial in trials)


def test_encoders_are_scored_on_the_first_of_many_replicates(document, table, labels, recipes):
    document["split"] |= {"replicates": 3, "n": 8}
    document["evaluate"] = {"probe": True}
    proposal = suggest(read_sweep(document), table, labels, recipes)
    first = {trial["split"] for trial in proposal.trials if trial["spec"]["split"]["replicate"] == 0}
    assert set(proposal.probes) == first and len({trial["split"] for trial in proposal.trials}) == 3 * len(first)
