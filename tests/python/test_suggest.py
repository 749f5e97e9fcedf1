import json

import pandas as pd
import pytest
from contracts import check_json, check_table

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json, read_jsonl
from tlimb.search.jobs import packs, write_round
from tlimb.search.suggest import Recipes, all_fine, suggest


@pytest.fixture
def recipes(table):
    index = pd.DataFrame({"scan_id": table["scan_id"], "status": "ok", "digest": [f"{i:016x}" for i in range(len(table))], "chunk": [s[0] for s in table["cohort"]]})
    return Recipes({"default": "5f0c3d9ab812"}, {"default": index})


def propose(document, table, labels, recipes):
    return suggest(read_sweep(document), table, labels, recipes)


def problems_of(document, table, labels) -> str:
    with pytest.raises(InputError) as caught:
        propose(document, table, labels, all_fine(table, document.get("recipes", ["default"])))
    return str(caught.value)


def test_trials_share_each_distinct_pretraining(document, table, labels, recipes):
    proposal = propose(document, table, labels, recipes)
    assert len(proposal.trials) == 8
    assert len(proposal.pretrainings) == 2
    assert sum(trial["init"] == "" for trial in proposal.trials) == 2
    assert {trial["init"] for trial in proposal.trials} - {""} == {line["id"] for line in proposal.pretrainings}
    assert len({trial["split"] for trial in proposal.trials}) == 1


def test_the_same_arguments_give_the_same_proposal(document, table, labels, recipes):
    first, second = (propose(document, table, labels, recipes) for _ in range(2))
    assert first.trials == second.trials and first.pretrainings == second.pretrainings
    assert first.splits.equals(second.splits)


def test_round_files_keep_their_contracts(document, table, labels, recipes, tmp_path):
    write_round(tmp_path, propose(document, table, labels, recipes), table, labels, trials_per_task=2)
    for line in read_jsonl(tmp_path / "trials.jsonl"):
        check_json("trial", line)
    for line in read_jsonl(tmp_path / "pretrainings.jsonl"):
        check_json("pretraining", line)
    check_table("splits", pd.read_parquet(tmp_path / "splits.parquet"))
    jobs = sorted((tmp_path / "jobs").iterdir())
    assert len(jobs) == 2 + 2 + 4
    for job in jobs:
        document = read_json(job / "job.json")
        check_json("job", document)
        assert document["id"] == job.name
        for path in job.glob("table*.parquet"):
            check_table("job", pd.read_parquet(path))


def test_training_never_sees_a_test_label(document, table, labels, recipes, tmp_path):
    write_round(tmp_path, propose(document, table, labels, recipes), table, labels, trials_per_task=8)
    packs_written = [job for job in (tmp_path / "jobs").iterdir() if read_json(job / "job.json")["kind"] == "finetune"]
    assert packs_written
    for job in packs_written:
        rows = pd.read_parquet(job / "table.parquet")
        assert rows.loc[rows["role"] == "test", "diagnosis"].isna().all() and (rows["role"] == "test").any()
        assert rows.loc[rows["role"] != "test", "diagnosis"].notna().all()
        assert pd.read_parquet(job / "table-test.parquet")["diagnosis"].notna().all()


def test_permuted_test_labels_change_neither_trials_nor_what_training_is_given(document, table, labels, recipes, tmp_path):
    document["split"]["stratify"] = []
    before = propose(document, table, labels, recipes)
    test = before.splits[before.splits["split"] == before.trials[0]["split"]].query("role == 'test'")["scan_id"]
    permuted = table.copy()
    rows = permuted["scan_id"].isin(test)
    permuted.loc[rows, "diagnosis"] = permuted.loc[rows, "diagnosis"].to_numpy()[::-1]
    assert not permuted["diagnosis"].equals(table["diagnosis"])
    after = propose(document, permuted, labels, recipes)
    assert after.trials == before.trials and after.pretrainings == before.pretrainings
    write_round(tmp_path / "before", before, table, labels, trials_per_task=8)
    write_round(tmp_path / "after", after, permuted, labels, trials_per_task=8)
    for path in sorted((tmp_path / "before" / "jobs").glob("*/*")):
        twin = tmp_path / "after" / "jobs" / path.parent.name / path.name
        assert (path.read_bytes() == twin.read_bytes()) == (path.name != "table-test.parquet")


def test_people_held_out_in_the_target_never_pretrain(document, table, labels, recipes):
    document["stages"][0]["data"]["labelled"]["cohort"] = ["lifespan", "clinic"]
    proposal = propose(document, table, labels, recipes)
    target = proposal.splits[proposal.splits["split"] == proposal.trials[0]["split"]]
    earlier = proposal.splits[proposal.splits["split"] == proposal.pretrainings[0]["split"]]
    held_out = set(target.query("role != 'train'")["person"])
    assert not held_out & set(earlier["person"])
    assert set(target.query("role == 'train'")["person"]) & set(earlier["person"])


def test_disjoint_bars_the_targets_training_people_too(document, table, labels, recipes):
    document["stages"][0]["data"]["labelled"]["cohort"] = ["lifespan", "clinic"]
    document["stages"][0]["disjoint"] = True
    proposal = propose(document, table, labels, recipes)
    target = proposal.splits[proposal.splits["split"] == proposal.trials[0]["split"]]
    earlier = proposal.splits[proposal.splits["split"] == proposal.pretrainings[0]["split"]]
    assert not set(target["person"]) & set(earlier["person"])


def test_one_person_in_two_cohorts_is_barred_in_both(document, table, labels, recipes):
    table.loc[table["cohort"] == "lifespan", "person"] = [f"clinic/clinic-{i % 24:03d}" for i in range(36)]
    proposal = propose(document, table, labels, recipes)
    target = proposal.splits[proposal.splits["split"] == proposal.trials[0]["split"]]
    earlier = proposal.splits[proposal.splits["split"] == proposal.pretrainings[0]["split"]]
    assert not set(target.query("role != 'train'")["person"]) & set(earlier["person"])


def test_a_failed_scan_takes_no_part(document, table, labels, recipes):
    lost = table["scan_id"][40]
    recipes.index["default"].loc[40, "status"] = "failed"
    assert lost not in set(propose(document, table, labels, recipes).splits["scan_id"])


def test_another_image_or_label_is_another_pretraining(document, table, labels, recipes):
    before = {line["id"] for line in propose(document, table, labels, recipes).pretrainings}
    older = table.copy()
    older.loc[50, "age"] += 1
    assert before.isdisjoint(line["id"] for line in propose(document, older, labels, recipes).pretrainings)
    recipes.index["default"].loc[50, "digest"] = "f" * 16
    assert before.isdisjoint(line["id"] for line in propose(document, table, labels, recipes).pretrainings)


def test_an_external_cohort_is_only_tested_on(document, table, labels, recipes):
    table.loc[table["cohort"] == "lifespan", "diagnosis"] = "patient"
    document["stages"] = document["stages"][1:]
    document["search"]["space"] = {}
    document["evaluate"] = {"external": [{"cohort": "lifespan"}]}
    splits = propose(document, table, labels, recipes).splits
    assert set(splits.loc[splits["scan_id"].str.startswith("lifespan"), "role"]) == {"external:lifespan"}


def test_numbers_that_are_classes_become_text(document, table, labels, recipes, tmp_path):
    table["diagnosis"] = [float(i % 2) if c == "clinic" else None for i, c in enumerate(table["cohort"])]
    labels["diagnosis"]["classes"] = ["0", "1"]
    write_round(tmp_path, propose(document, table, labels, recipes), table, labels, trials_per_task=8)
    tables = [pd.read_parquet(path) for path in (tmp_path / "jobs").glob("*/table-validation.parquet")]
    assert tables and all(set(rows["diagnosis"]) == {"0", "1"} for rows in tables)


def test_what_the_data_make_wrong_in_a_sweep_is_told_at_once(document, table, labels):
    document["stages"][0]["data"]["labelled"]["cohort"] = "lifespam"
    document["stages"][1]["targets"] = "diagnose"
    document["split"]["stratify"] = ["sx"]
    document["evaluate"] = {"external": [{"cohort": "clinik"}]}
    text = problems_of(document, table, labels)
    assert "no cohort is called 'lifespam' (did you mean 'lifespan'?)" in text
    assert "no label column is called 'diagnose' (did you mean 'diagnosis'?)" in text
    assert "split.stratify: no label column is called 'sx'" in text
    assert "no cohort is called 'clinik' (did you mean 'clinic'?)" in text


def test_a_missing_label_names_its_scans_and_the_way_out(document, table, labels, recipes):
    table.loc[3, "diagnosis"] = None
    text = problems_of(document, table, labels)
    assert "column 'diagnosis' is empty for 1 of 24 scans: clinic/clinic-003/1/T1w" in text
    document["stages"][1]["data"]["labelled"]["missing"] = "drop"
    assert "clinic/clinic-003/1/T1w" not in set(propose(document, table, labels, recipes).splits["scan_id"])


def test_one_class_only_is_refused(document, table, labels):
    table.loc[table["cohort"] == "clinic", "diagnosis"] = "patient"
    assert "'diagnosis' has one class only: patient" in problems_of(document, table, labels)


def test_too_few_people_for_a_split_are_refused(document, table, labels):
    few = pd.concat([table[table["cohort"] == "clinic"].head(4), table[table["cohort"] == "lifespan"]])
    assert "too few" in problems_of(document, few, labels)


def test_an_unknown_metric_is_told_with_the_nearest(document, table, labels):
    document["search"]["metric"] = "balanced_acuracy"
    document["stages"][0]["monitor"] = "validation_mea"
    text = problems_of(document, table, labels)
    assert "search.metric" in text and "did you mean 'balanced_accuracy'?" in text
    assert "stages.pretrain.monitor" in text


def test_a_monitor_that_only_a_variant_names_is_checked_too(document, table, labels):
    document["search"]["space"]["stages.finetune.monitor"] = ["validation_loss", "validation_nonsense"]
    assert "no monitored value is called 'validation_nonsense'" in problems_of(document, table, labels)


def test_an_unknown_label_to_stratify_by_is_told_wherever_it_stands(document, table, labels):
    document["search"]["space"]["stages.pretrain.split"] = [{"stratify": ["agee"], "validation": 0.1, "test": 0.1}]
    assert "no label column is called 'agee' (did you mean 'age'?)" in problems_of(document, table, labels)
    document["search"]["space"] = {"split.stratify": [["diagnosiss"]]}
    assert "did you mean 'diagnosis'?" in problems_of(document, table, labels)


def test_one_image_under_two_names_is_no_two_persons(document, table, labels, recipes):
    recipes.index["default"].loc[3, "digest"] = recipes.index["default"].loc[30, "digest"]
    with pytest.raises(InputError, match="the same image stands for clinic/clinic-003 and lifespan/lifespan-006"):
        propose(document, table, labels, recipes)


def test_an_external_cohort_named_twice_or_without_labels_is_refused(document, table, labels):
    document["evaluate"] = {"external": [{"cohort": "lifespan"}, {"cohort": "lifespan"}]}
    document["stages"] = document["stages"][1:]
    document["stages"][0]["data"]["labelled"]["missing"] = "drop"
    document["search"]["space"] = {}
    text = problems_of(document, table, labels)
    assert "cohort lifespan is named twice" in text and "cohort lifespan has no scan with diagnosis" in text


def test_packs_hold_one_split_so_that_no_trial_depends_on_its_neighbours(document, table, labels, recipes):
    document["search"]["space"]["split.n"] = [4, 6]
    trials = propose(document, table, labels, recipes).trials
    assert all(len({trial["split"] for trial in group}) == 1 for group in packs(trials, 8))


def test_packs_keep_those_that_wait_for_nothing_apart(document, table, labels, recipes):
    trials = propose(document, table, labels, recipes).trials
    for size in (1, 2, 3, 8):
        groups = packs(trials, size)
        assert sorted(t["id"] for g in groups for t in g) == sorted(t["id"] for t in trials)
        assert all(len(group) <= size and len({t["init"] == "" for t in group}) == 1 for group in groups)


def test_canonical_spec_holds_only_what_changes_the_numbers(document, table, labels, recipes):
    before = propose(document, table, labels, recipes).trials
    document["outdir"] = "elsewhere"
    document["evaluate"] = {"bootstrap": 500}
    document["search"]["metric"] = "auroc"
    assert [t["id"] for t in propose(document, table, labels, recipes).trials] == [t["id"] for t in before]
    assert "elsewhere" not in json.dumps(before)
