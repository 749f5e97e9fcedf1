import json
from collections import Counter

import pandas as pd
import pytest
from contracts import check_json, check_table

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json, read_jsonl
from tlimb.search.jobs import packs, write_round
from tlimb.search.leaks import require_no_leak
from tlimb.search.preprocessed import Recipes, all_fine
from tlimb.search.split_rows import SplitRows
from tlimb.search.suggest import suggest


@pytest.fixture
def recipes(table):
    rows = range(len(table))
    digests = {"digest": [f"{i:016x}" for i in rows], "content": [f"c{i:015x}" for i in rows]}
    chunks = [name[0] for name in table["cohort"]]
    index = pd.DataFrame({"scan_id": table["scan_id"], "status": "ok", "chunk": chunks} | digests)
    return Recipes({"default": "5f0c3d9ab812"}, {"default": index})


def propose(document, table, labels, recipes, split_file=None):
    return suggest(read_sweep(document), table, labels, recipes, split_file=split_file)


def problems_of(document, table, labels, split_file=None) -> str:
    with pytest.raises(InputError) as caught:
        propose(document, table, labels, all_fine(table, document.get("recipes", ["default"])), split_file)
    return str(caught.value)


def roles_in(proposal, split: str) -> pd.Series:
    """Person -> role in one split of a proposal."""
    rows = proposal.splits[proposal.splits["split"] == split]
    return rows.drop_duplicates("person").set_index("person")["role"]


@pytest.fixture
def sites(table, labels):
    """The label `site`: three values, each with controls and patients."""
    table["site"] = [float(i // 2 % 3 + 1) for i in range(len(table))]
    labels["site"] = {"kind": "classification", "classes": ["1", "2", "3"], "n": 60}
    return ["1", "2", "3"]


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
    write_round(tmp_path, propose(document, table, labels, recipes), table, {"labels": labels, "files": {}}, trials_per_task=2)
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


@pytest.mark.parametrize("split", [
    {"scheme": "nested", "folds": 2, "inner_folds": 2},
    {"scheme": "kfold", "folds": 2, "n": 5, "replicates": 2},
    {"scheme": "site"},
])
def test_files_of_folds_and_replicates_keep_their_contracts(document, table, labels, recipes, sites, split, tmp_path):
    document["split"] = split | {"stratify": ["diagnosis"]}
    write_round(tmp_path, propose(document, table, labels, recipes), table, {"labels": labels, "files": {}}, trials_per_task=8)
    for line in read_jsonl(tmp_path / "trials.jsonl"):
        check_json("trial", line)
    check_table("splits", pd.read_parquet(tmp_path / "splits.parquet"))
    for job in (tmp_path / "jobs").iterdir():
        check_json("job", read_json(job / "job.json"))
        for path in job.glob("table*.parquet"):
            rows = pd.read_parquet(path)
            check_table("job", rows)
            trained = rows["role"] == "train"
            assert (rows.loc[~trained, "times"] == 1).all()
            assert not set(rows.loc[trained, "scan_id"]) & set(rows.loc[~trained, "scan_id"])


def test_training_never_sees_a_test_label(document, table, labels, recipes, tmp_path):
    write_round(tmp_path, propose(document, table, labels, recipes), table, {"labels": labels, "files": {}}, trials_per_task=8)
    packs_written = [job for job in (tmp_path / "jobs").iterdir() if read_json(job / "job.json")["kind"] == "finetune"]
    assert packs_written
    for job in packs_written:
        rows = pd.read_parquet(job / "table.parquet")
        assert rows.loc[rows["role"] == "test", "diagnosis"].isna().all() and (rows["role"] == "test").any()
        assert rows.loc[rows["role"] != "test", "diagnosis"].notna().all()
        assert pd.read_parquet(job / "table-test.parquet")["diagnosis"].notna().all()


def test_permuted_test_labels_change_neither_trials_nor_what_training_is_given(
    document, table, labels, recipes, tmp_path
):
    document["split"]["stratify"] = []
    before = propose(document, table, labels, recipes)
    test = before.splits[before.splits["split"] == before.trials[0]["split"]].query("role == 'test'")["scan_id"]
    permuted = table.copy()
    rows = permuted["scan_id"].isin(test)
    permuted.loc[rows, "diagnosis"] = permuted.loc[rows, "diagnosis"].to_numpy()[::-1]
    assert not permuted["diagnosis"].equals(table["diagnosis"])
    after = propose(document, permuted, labels, recipes)
    assert after.trials == before.trials and after.pretrainings == before.pretrainings
    write_round(tmp_path / "before", before, table, {"labels": labels, "files": {}}, trials_per_task=8)
    write_round(tmp_path / "after", after, permuted, {"labels": labels, "files": {}}, trials_per_task=8)
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


def test_labels_that_a_pretraining_lacks_are_part_of_what_it_is(document, table, labels, recipes):
    table["site"] = [None if i % 5 == 0 else "ab"[i % 2] for i in range(len(table))]
    table["iq"] = [float("nan") if i % 7 == 0 else 90.0 + i for i in range(len(table))]
    labels["site"] = {"kind": "classification", "classes": ["a", "b"], "n": int(table["site"].notna().sum())}
    labels["iq"] = {"kind": "regression", "classes": [], "n": int(table["iq"].notna().sum())}
    document["stages"][0]["targets"] = ["age", "site", "iq"]
    document["stages"][0]["data"]["labelled"]["missing"] = "mask"
    before = propose(document, table, labels, recipes)
    assert len(before.pretrainings) == 2
    last = table.index[-3:]
    for name in ("site", "iq"):
        changed = table.assign(**{name: table[name].mask(table.index.isin(last))})
        assert changed[name].isna().sum() > table[name].isna().sum()
        after = propose(document, changed, labels, recipes)
        assert not {line["id"] for line in before.pretrainings} & {line["id"] for line in after.pretrainings}
    assert [line["id"] for line in propose(document, table, labels, recipes).pretrainings] == [
        line["id"] for line in before.pretrainings
    ]


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
    write_round(tmp_path, propose(document, table, labels, recipes), table, {"labels": labels, "files": {}}, trials_per_task=8)
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


@pytest.mark.parametrize("column", ["content", "digest"])
def test_one_image_under_two_names_is_no_two_persons(document, table, labels, recipes, column):
    index = recipes.index["default"]
    index.loc[3, column] = index.loc[30, column]
    if column == "digest":
        del index["content"]
    scans = "clinic/clinic-003/1/T1w and lifespan/lifespan-006/1/T1w"
    persons = "clinic/clinic-003 and lifespan/lifespan-006"
    message = f"scans {scans}: the same image stands for {persons}"
    with pytest.raises(InputError, match=message):
        propose(document, table, labels, recipes)


def test_one_image_under_two_names_is_found_across_recipes_and_is_fine_for_one_person(document, table, labels, recipes):
    document["recipes"] = {"default": {}, "coarse": {"spacing": 4.0}}
    coarse = recipes.index["default"].copy()
    coarse.loc[40, "content"] = recipes.index["default"].loc[2, "content"]
    both = Recipes({"default": "a", "coarse": "b"}, recipes.index | {"coarse": coarse})
    with pytest.raises(InputError, match="stands for clinic/clinic-002 and lifespan/lifespan-016"):
        propose(document, table, labels, both)
    table.loc[40, "person"] = "clinic/clinic-002"
    assert propose(document, table, labels, both).trials


def test_an_external_cohort_named_twice_or_without_labels_is_refused(document, table, labels):
    document["evaluate"] = {"external": [{"cohort": "lifespan"}, {"cohort": "lifespan"}]}
    document["stages"] = document["stages"][1:]
    document["stages"][0]["data"]["labelled"]["missing"] = "drop"
    document["search"]["space"] = {}
    text = problems_of(document, table, labels)
    assert "cohort lifespan is named twice" in text and "cohort lifespan has no scan with diagnosis" in text


def held_out(proposal, split):
    rows = proposal.splits[proposal.splits["split"] == split]
    return set(rows.loc[rows["role"] != "train", ["role", "scan_id"]].itertuples(index=False, name=None))


def test_packs_hold_out_the_same_people_for_all_their_trials(document, table, labels, recipes):
    document["search"]["space"]["split.n"] = [4, 6]
    document["split"]["repeats"] = 2
    proposal = propose(document, table, labels, recipes)
    groups = packs(proposal, 100, SplitRows(proposal.splits, table, labels))
    assert sorted(len({trial["split"] for trial in group}) for group in groups) == [2] * 8  # two seeds, two repeats, from scratch and not
    for group in groups:
        assert len({frozenset(held_out(proposal, trial["split"])) for trial in group}) == 1


def test_a_pack_of_several_splits_has_the_rows_of_each_and_their_classes_alone(document, table, labels, recipes, tmp_path):
    document["search"]["space"]["split.n"] = [4, 6]
    proposal = propose(document, table, labels, recipes)
    together, alone = tmp_path / "together", tmp_path / "alone"
    write_round(together, proposal, table, {"labels": labels, "files": {}}, trials_per_task=100)
    write_round(alone, proposal, table, {"labels": labels, "files": {}}, trials_per_task=1)
    whole = {trial["id"]: folder for folder in (together / "jobs").iterdir() for trial in pack_of(folder)}
    assert len(set(whole.values())) == 4  # two seeds, from scratch and not
    for folder in (alone / "jobs").iterdir():
        for trial in pack_of(folder):
            for name in ("table.parquet", "table-validation.parquet", "table-test.parquet"):
                mine = pd.read_parquet(folder / name)
                shared = pd.read_parquet(whole[trial["id"]] / name)
                shared = shared[shared["split"] == trial["split"]].reset_index(drop=True)
                pd.testing.assert_frame_equal(mine, shared)
            facts = [read_json(one / "job.json") for one in (folder, whole[trial["id"]])]
            assert facts[0]["labels"] == facts[1]["labels"]


def test_packs_stay_as_they_are_where_samples_are_added(document, table, labels, recipes):
    document["search"]["space"]["split.n"] = [4, 6]

    def packs_of(replicates: int) -> list[list[str]]:
        document["split"]["replicates"] = replicates
        proposal = propose(document, table, labels, recipes)
        rows = SplitRows(proposal.splits, table, labels)
        return [[trial["id"] for trial in pack] for pack in packs(proposal, 4, rows)]

    before, after = packs_of(4), packs_of(5)
    assert len(before) > 4 and all(pack in after for pack in before if len(pack) == 4)


def pack_of(folder) -> list[dict]:
    return read_json(folder / "job.json").get("trials", [])


def test_packs_keep_those_that_wait_for_nothing_apart(document, table, labels, recipes):
    proposal = propose(document, table, labels, recipes)
    trials = proposal.trials
    for size in (1, 2, 3, 8):
        groups = packs(proposal, size, SplitRows(proposal.splits, table, labels))
        assert sorted(t["id"] for g in groups for t in g) == sorted(t["id"] for t in trials)
        assert all(len(group) <= size and len({t["init"] == "" for t in group}) == 1 for group in groups)


def test_canonical_spec_holds_only_what_changes_the_numbers(document, table, labels, recipes):
    before = propose(document, table, labels, recipes).trials
    document["outdir"] = "elsewhere"
    document["evaluate"] = {"bootstrap": 500}
    document["search"]["metric"] = "auroc"
    assert [t["id"] for t in propose(document, table, labels, recipes).trials] == [t["id"] for t in before]
    assert "elsewhere" not in json.dumps(before)


def test_each_fold_is_a_trial_of_the_same_candidate_on_other_people(document, table, labels, recipes):
    document["split"] = {"scheme": "kfold", "folds": 3, "repeats": 2, "stratify": ["diagnosis"]}
    proposal = propose(document, table, labels, recipes)
    assert len(proposal.trials) == 4 * 2 * 6 and len({trial["candidate"] for trial in proposal.trials}) == 4
    tested = Counter()
    for split in {trial["split"] for trial in proposal.trials}:
        roles = roles_in(proposal, split)
        tested.update(roles.index[roles == "test"])
    assert set(tested.values()) == {2} and len(tested) == 24


def test_nested_trials_are_outer_times_inner_folds_and_say_which(document, table, labels, recipes):
    document["split"] = {"scheme": "nested", "folds": 3, "inner_folds": 2, "stratify": ["diagnosis"]}
    trials = propose(document, table, labels, recipes).trials
    keys = Counter((t["spec"]["seed"], t["spec"]["split"]["fold"], t["spec"]["split"]["inner_fold"]) for t in trials)
    assert set(keys) == {(seed, fold, inner) for seed in (0, 1) for fold in range(3) for inner in range(2)}
    assert set(keys.values()) == {4}


def test_replicates_of_several_sizes_make_learning_curves_with_validation_and_test_fixed(document, table, labels):
    table = pd.concat([table[table["cohort"] == "lifespan"], *(copy_of(table, i) for i in range(5))], ignore_index=True)
    recipes = all_fine(table, ["default"])
    document["split"] |= {"replicates": 3}
    document["search"] |= {"seeds": [0]}
    document["search"]["space"]["split.n"] = [20, 40]
    proposal = propose(document, table, labels, recipes)
    assert len(proposal.trials) == 4 * 2 * 3 and len({trial["candidate"] for trial in proposal.trials}) == 8
    assert len({trial["split"] for trial in proposal.trials}) == 6
    roles = [roles_in(proposal, trial["split"]) for trial in proposal.trials]
    held_out = [one[one != "train"].to_dict() for one in roles]
    assert all(one == held_out[0] for one in held_out)
    for trial in proposal.trials:
        rows = proposal.splits[(proposal.splits["split"] == trial["split"]) & (proposal.splits["role"] == "train")]
        assert rows["times"].sum() == trial["spec"]["split"]["n"]
    assert proposal.splits["times"].max() > 1
    assert len(proposal.pretrainings) == 1


def copy_of(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """The clinic's rows as those of other persons."""
    rows = table[table["cohort"] == "clinic"]
    names = ("scan_id", "person", "subject")
    return rows.assign(**{key: rows[key].str.replace("clinic-", f"clinic-{number}-") for key in names})


def test_replicates_never_multiply_a_pretraining_even_where_it_must_be_disjoint(document, table, labels, recipes):
    document["stages"][0]["data"]["labelled"]["cohort"] = ["lifespan", "clinic"]
    document["stages"][0]["disjoint"] = True
    document["split"] |= {"replicates": 3, "n": 6}
    document["search"] |= {"seeds": [0]}
    proposal = propose(document, table, labels, recipes)
    assert len(proposal.pretrainings) == 1
    earlier = roles_in(proposal, proposal.pretrainings[0]["split"])
    assert not any(person.startswith("clinic") for person in earlier.index)


@pytest.mark.parametrize("cohorts, distinct", [(["lifespan"], 1), (["lifespan", "clinic"], 3)])
def test_folds_share_a_pretraining_exactly_where_they_hold_nobody_of_its_cohorts_out(
    document, table, labels, recipes, cohorts, distinct
):
    document["stages"][0]["data"]["labelled"]["cohort"] = cohorts
    document["split"] = {"scheme": "kfold", "folds": 3, "stratify": ["diagnosis"]}
    document["search"] |= {"seeds": [0]}
    proposal = propose(document, table, labels, recipes)
    assert len(proposal.pretrainings) == distinct
    splits = {line["id"]: line["split"] for line in proposal.pretrainings}
    for trial in [trial for trial in proposal.trials if trial["init"]]:
        target = roles_in(proposal, trial["split"])
        assert not set(target.index[target != "train"]) & set(roles_in(proposal, splits[trial["init"]]).index)


def test_every_site_is_tested_on_once_and_is_named_in_the_trial(document, table, labels, recipes, sites):
    document["split"] = {"scheme": "site", "stratify": ["diagnosis"]}
    proposal = propose(document, table, labels, recipes)
    held_out = {tuple(trial["spec"]["split"]["held_out"]): trial["split"] for trial in proposal.trials}
    assert sorted(held_out) == [("1",), ("2",), ("3",)]
    values = table.set_index("person")["site"]
    for (site,), split in held_out.items():
        roles = roles_in(proposal, split)
        assert set(values[roles.index[roles == "test"]]) == {float(site)}
        assert float(site) not in set(values[roles.index[roles != "test"]])
    document["split"]["held_out"] = ["1", "3"]
    trials = propose(document, table, labels, recipes).trials
    assert {tuple(trial["spec"]["split"]["held_out"]) for trial in trials} == {("1", "3")}


def test_what_cannot_be_held_out_is_told(document, table, labels, sites):
    document["split"] = {"scheme": "site", "held_out": ["4"]}
    assert "split.held_out: no site is called '4' (valid: 1, 2, 3)" in problems_of(document, table, labels)
    document["split"] = {"scheme": "site", "held_out": ["1", "2", "3"]}
    assert "holds every site out" in problems_of(document, table, labels)
    document["split"] = {"scheme": "site", "column": "sitee"}
    text = problems_of(document, table, labels)
    assert "split.column: no label column is called 'sitee' (did you mean 'site'?)" in text
    document["split"] = {"scheme": "site", "column": "age"}
    assert "'age' is of kind regression" in problems_of(document, table, labels)
    document["split"] = {"scheme": "site", "fold": 3}
    assert "fold is 3, but there are only 3, counted from 0" in problems_of(document, table, labels)
    table.loc[2, "site"] = None
    document["split"] = {"scheme": "site"}
    assert "column 'site' is empty for 1 of 24 scans" in problems_of(document, table, labels)
    table["site"] = 1.0
    assert "expected two values of 'site' or more, found 1" in problems_of(document, table, labels)


def test_a_person_scanned_at_two_sites_is_named(document, table, labels, sites):
    again = table.head(1).assign(scan_id="clinic/clinic-000/2/T1w", session="2", site=2.0)
    both = pd.concat([table, again], ignore_index=True)
    document["split"] = {"scheme": "site"}
    assert "clinic/clinic-000 stand on both sides when 1 is held out" in problems_of(document, both, labels)
    document["split"]["held_out"] = ["1", "2"]
    assert propose(document, both, labels, all_fine(both, ["default"])).trials


def test_a_site_without_patients_cannot_be_tested_on_and_is_named(document, table, labels, sites):
    table.loc[(table["cohort"] == "clinic") & (table["site"] == 2), "diagnosis"] = "control"
    document["split"] = {"scheme": "site"}
    text = problems_of(document, table, labels)
    message = "too few people: nobody of class patient of 'diagnosis' is left for test"
    assert f"stages.finetune (test on 2): {message}" in text


def test_a_split_file_gives_every_fold(document, table, labels, recipes):
    persons = table.loc[table["cohort"] == "clinic", "person"].tolist()
    rest = {"validation": persons[12:16], "train": persons[16:24]}
    folds = {str(k): {"test": persons[4 * k : 4 * k + 4]} | rest for k in range(3)}
    document["split"] = {"scheme": "file", "file": "splits.csv"}
    proposal = propose(document, table, labels, recipes, folds)
    for trial in proposal.trials:
        roles = roles_in(proposal, trial["split"])
        for role, listed in folds[str(trial["spec"]["split"]["fold"])].items():
            assert sorted(roles.index[roles == role]) == sorted(listed)
    assert len(proposal.trials) == 4 * 2 * 3
    assert "the cohort was read without a split file" in problems_of(document, table, labels)
    document["split"]["fold"] = 3
    assert "fold is 3, but there are only 3" in problems_of(document, table, labels, folds)


@pytest.fixture
def modalities(document, table):
    """The clinic's persons with a T2w scan each; a sweep that transfers from their T1w to their T2w scans."""
    clinic = table[table["cohort"] == "clinic"]
    second = clinic.assign(modality="T2w", scan_id=clinic["scan_id"].str.replace("T1w", "T2w"))
    for stage, modality in zip(document["stages"], ("T1w", "T2w")):
        stage["data"]["labelled"] = {"cohort": "clinic", "modality": modality}
    return pd.concat([table, second], ignore_index=True)


def test_nobody_held_out_in_one_modality_pretrains_in_another(document, modalities, labels):
    proposal = propose(document, modalities, labels, all_fine(modalities, ["default"]))
    target = proposal.splits[proposal.splits["split"] == proposal.trials[0]["split"]]
    earlier = proposal.splits[proposal.splits["split"] == proposal.pretrainings[0]["split"]]
    assert target["scan_id"].str.endswith("T2w").all() and len(target) == 24
    assert earlier["scan_id"].str.endswith("T1w").all()
    assert set(earlier["person"]) == set(target.loc[target["role"] == "train", "person"])


def test_all_modalities_of_a_person_have_one_role_where_none_is_named(document, modalities, labels):
    document["stages"] = document["stages"][1:]
    document["stages"][0]["data"]["labelled"] = {"cohort": "clinic"}
    document["search"]["space"] = {}
    proposal = propose(document, modalities, labels, all_fine(modalities, ["default"]))
    rows = proposal.splits[proposal.splits["split"] == proposal.trials[0]["split"]]
    assert len(rows) == 48 and (rows.groupby("person")["role"].nunique() == 1).all()


def test_a_modality_that_a_cohort_lacks_or_a_recipe_cannot_take_is_told(document, modalities, labels):
    document["stages"][0]["data"]["labelled"]["modality"] = ["T1"]
    text = problems_of(document, modalities, labels)
    assert "pretrain.data.labelled.modality: no modality of clinic is called 'T1' (did you mean 'T1w'?)" in text
    bold = modalities.assign(modality=modalities["modality"].replace("T2w", "bold"))
    document["stages"][0]["data"]["labelled"]["modality"] = ["T1w"]
    document["stages"][1]["data"]["labelled"]["modality"] = ["bold"]
    assert "bold scans are time series, and recipe 'default' takes images" in problems_of(document, bold, labels)
    document["stages"][1]["data"]["labelled"] = {"cohort": "clinic"}
    bold["modality"] = "bold"
    assert "cohort clinic has no images, which recipe 'default' takes" in problems_of(document, bold, labels)


def test_a_leak_stops_the_run_whatever_made_the_splits(document, table, labels, recipes):
    document["stages"][0]["data"]["labelled"]["cohort"] = ["lifespan", "clinic"]
    proposal = propose(document, table, labels, recipes)
    target = roles_in(proposal, proposal.trials[0]["split"])
    leak = target.index[target == "test"][0]
    leaked = {"split": proposal.pretrainings[0]["split"], "person": leak, "role": "train"}
    rows = pd.concat([proposal.splits, pd.DataFrame([leaked])])
    with pytest.raises(InputError, match=f"person '{leak}' is held out there and takes part in pretraining"):
        require_no_leak(proposal.trials, proposal.pretrainings, rows)


def test_replicates_that_draw_the_same_people_differently_often_are_different_splits(document, table, labels, recipes):
    document["stages"] = [document["stages"][1] | {"targets": "age"}]
    document["split"] = {"validation": 10, "test": 10, "replicates": 40}
    document["search"] = {"seeds": [0], "space": {}}
    proposal = propose(document, table, labels, recipes)
    training = proposal.splits[proposal.splits["role"] == "train"]
    drawn = {split: tuple(zip(rows["scan_id"], rows["times"])) for split, rows in training.groupby("split")}
    people = {tuple(scan for scan, _ in rows) for rows in drawn.values()}
    assert len(set(drawn.values())) == len(drawn) == len({trial["split"] for trial in proposal.trials}) > len(people)
    assert not proposal.splits.duplicated(["split", "scan_id"]).any()


def test_more_replicates_leave_the_trials_of_the_first_as_they_are(document, table, labels, recipes):
    document["split"] |= {"replicates": 2}
    before = [trial["id"] for trial in propose(document, table, labels, recipes).trials]
    document["split"] |= {"replicates": 4}
    assert set(before) < {trial["id"] for trial in propose(document, table, labels, recipes).trials}


def test_permuted_test_labels_move_nobody_in_nested_folds(document, table, labels, recipes):
    document["split"] = {"scheme": "nested", "folds": 2, "inner_folds": 2}
    before = propose(document, table, labels, recipes)
    permuted = table.copy()
    clinic = permuted["cohort"] == "clinic"
    permuted.loc[clinic, "diagnosis"] = permuted.loc[clinic, "diagnosis"].to_numpy()[::-1]
    after = propose(document, permuted, labels, recipes)
    assert after.trials == before.trials and after.splits.equals(before.splits)


def test_the_label_by_which_a_sampler_draws_is_handed_to_training_and_no_other(
    document, table, labels, recipes, tmp_path
):
    table = table.assign(site=["north", "south", "east"] * 20)
    labels |= {"site": {"kind": "classification", "classes": ["east", "north", "south"], "n": 60}}
    by_site = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    document["search"]["space"] = {"stages.finetune.data": [{"sampler": None}, {"sampler": by_site}]}
    write_round(tmp_path, propose(document, table, labels, recipes), table, {"labels": labels, "files": {}}, trials_per_task=8)
    for job in (tmp_path / "jobs").iterdir():
        facts, rows = read_json(job / "job.json"), pd.read_parquet(job / "table.parquet")
        draws = {bool(trial["spec"]["stages"][-1]["data"]["sampler"]) for trial in facts.get("trials", [])}
        assert ("site" in rows) == (draws == {True}) and "site" not in facts["labels"]
        if "site" in rows:
            assert rows.groupby("role")["site"].count().to_dict() == {"test": 0, "train": 9, "validation": 5}
    by_site["init_args"]["label"] = "sight"
    text = problems_of(document, table, labels)
    place = "stages.finetune.data.sampler.init_args.label"
    assert f"{place}: no label column is called 'sight' (did you mean 'site'?)" in text


@pytest.mark.parametrize("number, scan", [(0, "lifespan/lifespan-006/1/T1w"), (1, "clinic/clinic-003/1/T1w")])
def test_a_scan_without_the_label_by_which_a_sampler_draws_is_told_or_dropped(
    document, table, labels, recipes, sites, number, scan
):
    stage, name = document["stages"][number]["data"], document["stages"][number]["name"]
    stage["sampler"] = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    table.loc[table["scan_id"] == scan, "site"] = None
    text = problems_of(document, table, labels)
    assert f"stages.{name}.data.sampler.init_args.label: column 'site' is empty for 1 of" in text and scan in text
    stage["labelled"]["missing"] = "drop"
    kept = set(propose(document, table, labels, recipes).splits["scan_id"])
    assert kept == set(table["scan_id"]) - {scan}


def test_pretrainings_that_draw_by_other_labels_drop_their_own_scans_alone(document, table, labels, recipes, sites):
    by_site = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    table.loc[40, "site"] = None
    document["stages"][0]["data"]["labelled"]["missing"] = "drop"
    document["search"] = {"seeds": [0], "space": {"stages.pretrain.data.sampler": [None, by_site]}}
    proposal = propose(document, table, labels, recipes)
    lost, rows = table["scan_id"][40], proposal.splits
    for line in proposal.pretrainings:
        scans = set(rows.loc[rows["split"] == line["split"], "scan_id"])
        assert (lost in scans) == (line["spec"]["stage"]["data"]["sampler"] is None)
    assert len(proposal.pretrainings) == 2


def test_candidates_whose_samplers_drop_other_scans_are_refused(document, table, labels, recipes, sites):
    by_site = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    document["stages"][1]["data"]["labelled"]["missing"] = "drop"
    document["search"]["space"] = {"stages.finetune.data.sampler": [None, by_site]}
    assert len({trial["split"] for trial in propose(document, table, labels, recipes).trials}) == 1
    table.loc[3, "site"] = None
    assert "candidates would not be measured on the same people" in problems_of(document, table, labels)


@pytest.mark.parametrize("label", ["age", "years"])
def test_classes_are_not_balanced_by_a_quantity(document, table, labels, label):
    table["years"] = table["age"]
    labels["years"] = labels["age"]
    sampler = {"class_path": "BalancedSampler", "init_args": {"label": label}}
    document["stages"][0]["data"]["sampler"] = sampler
    place = "stages.pretrain.data.sampler.init_args.label"
    message = f"{place}: '{label}' is of kind regression; BalancedSampler draws classes equally often"
    assert message in problems_of(document, table, labels)
    weighted = {"class_path": "WeightedSampler", "init_args": {"label": label}}
    document["stages"][0]["data"]["sampler"] = weighted
    assert propose(document, table, labels, all_fine(table, ["default"])).trials
