"""Every kind of label from the cells of a samplesheet to what a training task is given."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from contracts import check_json, check_table

from tlimb.cohort import read_cohort
from tlimb.config import LabelSpec, read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.search.jobs import write_round
from tlimb.search.preprocessed import all_fine
from tlimb.search.suggest import suggest

ORDERED = LabelSpec(kind="ordinal", classes=["none", "mild", "severe"])
SEVERAL = LabelSpec(kind="multilabel")
TIMES = LabelSpec(kind="survival", event="died")


@pytest.fixture
def sheet(tmp_path):
    """Writes a samplesheet of a column for each label, a row a scan, and returns its path."""

    def write(**columns):
        rows = range(len(next(iter(columns.values()))))
        for row in rows:
            volume = np.random.default_rng(row).integers(0, 99, (4, 4, 4)).astype("float32")
            nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{row}.nii.gz")
        subjects, images = zip(*((f"s{row}", f"{row}.nii.gz") for row in rows))
        frame = pd.DataFrame({"cohort": "x", "subject": subjects, "image": images})
        frame.assign(**columns).to_csv(tmp_path / "cohorts.csv", index=False)
        return tmp_path / "cohorts.csv"

    return write


def problems(path, kinds) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_cohort(path, kinds)
    return [str(problem) for problem in caught.value.problems]


def test_ordered_classes_keep_the_order_that_is_stated(sheet):
    cohort = read_cohort(sheet(grade=["mild", "none", "severe", ""]), {"grade": ORDERED})
    assert cohort.summary["labels"]["grade"] == {"kind": "ordinal", "classes": ["none", "mild", "severe"], "n": 3}
    check_json("cohort", cohort.summary)


def test_ordered_numbers_are_sorted_as_numbers(sheet):
    cohort = read_cohort(sheet(stage=["10", "9", "2.0"]), {"stage": LabelSpec(kind="ordinal")})
    assert cohort.summary["labels"]["stage"]["classes"] == ["2", "9", "10"]
    assert cohort.table["stage"].tolist() == [10, 9, 2]


def test_the_order_of_classes_that_are_text_must_be_stated(sheet):
    (problem,) = problems(sheet(grade=["mild", "none", "severe"]), {"grade": LabelSpec(kind="ordinal")})
    assert problem.startswith("labels.grade.classes: missing; nothing says the order of its classes (list them")


def test_a_cell_that_is_no_stated_class_is_told_by_row_with_the_nearest(sheet):
    (problem,) = problems(sheet(grade=["mild", "mid", "none"]), {"grade": ORDERED})
    assert problem == "cohorts.csv, row 2 (line 3), column grade: 'mid' is none of its classes (did you mean 'mild'?)"
    numbers = LabelSpec(kind="classification", classes=["1", "0"])
    assert "row 3" in problems(sheet(sex=["1.0", "0", "2"]), {"sex": numbers})[0]
    assert read_cohort(sheet(sex=["1.0", "0"]), {"sex": numbers}).summary["labels"]["sex"]["classes"] == ["1", "0"]


def test_cells_of_several_classes_are_put_in_one_order_and_an_empty_one_is_missing(sheet):
    cells = ["lesion; atrophy", "atrophy", ";", "n/a", "atrophy;atrophy;"]
    cohort = read_cohort(sheet(found=cells), {"found": SEVERAL})
    assert cohort.summary["labels"]["found"] == {"kind": "multilabel", "classes": ["atrophy", "lesion"], "n": 4}
    assert cohort.table["found"].fillna("?").tolist() == ["atrophy;lesion", "atrophy", ";", "?", "atrophy"]
    stated = LabelSpec(kind="multilabel", classes=["lesion", "atrophy"])
    assert read_cohort(sheet(found=["atrophy;lesion"]), {"found": stated}).table["found"].tolist() == ["lesion;atrophy"]
    (problem,) = problems(sheet(found=["lesion;atropy"]), {"found": stated})
    assert "row 1 (line 2), column found: 'atropy' is none of its classes (did you mean 'atrophy'?)" in problem


def test_several_classes_may_be_numbers(sheet):
    cohort = read_cohort(sheet(codes=["1", "2;1", "3"]), {"codes": SEVERAL})
    assert cohort.summary["labels"]["codes"]["classes"] == ["1", "2", "3"]
    assert cohort.table["codes"].tolist() == ["1", "1;2", "3"]


def test_a_time_until_an_event_keeps_its_two_columns(sheet):
    cohort = read_cohort(sheet(months=["12.5", "30", ""], died=["1", "0", ""]), {"months": TIMES})
    assert cohort.summary["labels"]["months"] == {"kind": "survival", "classes": [], "n": 2, "event": "died"}
    assert cohort.table["months"].tolist()[:2] == [12.5, 30] and cohort.table["died"].tolist()[:2] == [1, 0]
    check_json("cohort", cohort.summary)


def test_times_and_events_that_make_no_sense_are_all_told(sheet):
    path = sheet(months=["0", "5", "-1", "7", "", "nine"], died=["1", "2", "0", "", "1", "1"])
    found = problems(path, {"months": TIMES})
    assert [problem.split(": ", 1)[0] for problem in found] == [
        "cohorts.csv, row 6 (line 7), column months",
        "cohorts.csv, row 1 (line 2), column months",
        "cohorts.csv, row 3 (line 4), column months",
        "cohorts.csv, row 2 (line 3), column died",
        "cohorts.csv, row 4 (line 5), column died",
        "cohorts.csv, row 5 (line 6), column months",
    ]
    (problem,) = problems(sheet(months=["1"], dead=["1"]), {"months": TIMES})
    assert problem.startswith("labels.months.event: the samplesheet cohorts.csv has no column 'died'")


@pytest.fixture
def world(table):
    """The cohort's table with a label of every kind for each scan, and their facts."""
    number = np.arange(len(table))
    table = table.assign(
        grade=number % 3 / 1.0,
        found=[";".join(["a"] * (i % 2) + ["b"] * (i // 2 % 2)) or ";" for i in number],
        months=number + 1.0,
        died=(number % 3 > 0) * 1.0,
    )
    labels = {
        "grade": {"kind": "ordinal", "classes": ["0", "1", "2"], "n": 60},
        "found": {"kind": "multilabel", "classes": ["a", "b"], "n": 60},
        "months": {"kind": "survival", "classes": [], "event": "died", "n": 60},
        "died": {"kind": "classification", "classes": ["0", "1"], "n": 60},
        "age": {"kind": "regression", "classes": [], "n": 60},
    }
    return table, labels


def sweep(document: dict, targets: list[str], **changes) -> dict:
    last = document["stages"][1] | {"targets": targets} | changes
    return {"input": "cohorts.csv", "architecture": document["architecture"], "stages": [last],
            "split": {"validation": 0.3, "test": 0.3, "stratify": ["found", "grade"]}}  # fmt: skip


def propose(document, table, labels):
    return suggest(read_sweep(document), table, labels, all_fine(table, ["default"]))


def told(document, table, labels) -> str:
    with pytest.raises(InputError) as caught:
        propose(document, table, labels)
    return str(caught.value)


def test_a_task_is_given_each_label_in_one_column_and_no_held_out_one(document, world, tmp_path):
    table, labels = world
    proposal = propose(sweep(document, ["grade", "found", "months"]), table, labels)
    write_round(tmp_path, proposal, table, {"labels": labels, "files": {}}, trials_per_task=2)
    (job,) = (tmp_path / "jobs").iterdir()
    facts, rows = read_json(job / "job.json"), pd.read_parquet(job / "table.parquet")
    check_json("job", facts)
    check_table("job", rows)
    assert facts["labels"] == {
        "grade": {"kind": "ordinal", "classes": ["0", "1", "2"]},
        "found": {"kind": "multilabel", "classes": ["a", "b"]},
        "months": {"kind": "survival", "classes": []},
    }
    assert rows.loc[rows["role"] == "test", ["grade", "found", "months"]].isna().all(axis=None) and "died" not in rows
    known = rows[rows["role"] != "test"]
    cohort = table.set_index("scan_id").loc[known["scan_id"]]
    assert known["grade"].tolist() == [str(int(one)) for one in cohort["grade"]]
    assert known["found"].tolist() == cohort["found"].tolist()
    assert known["months"].tolist() == np.where(cohort["died"] == 1, cohort["months"], -cohort["months"]).tolist()
    assert pd.read_parquet(job / "table-test.parquet")["months"].notna().all()


def test_a_corrected_event_makes_another_pretraining(document, world):
    table, labels = world
    document = sweep(document, ["age"])
    document["stages"].insert(0, document["stages"][0] | {"name": "first", "targets": ["months"]})
    document["split"]["n"] = 6
    changed = table.assign(died=1.0)
    before, after = (propose(document, rows, labels).pretrainings[0]["id"] for rows in (table, changed))
    assert before != after


def test_another_kind_or_order_of_a_label_makes_another_pretraining(document, world):
    table, labels = world
    first = document["stages"][0] | {"targets": ["grade"], "split": {"validation": 0.2, "test": 0.2, "stratify": ["grade"]}}
    document = sweep(document, ["age"])
    document["stages"].insert(0, first)
    facts = [{"kind": "ordinal", "classes": ["0", "1", "2"]}, {"kind": "ordinal", "classes": ["2", "1", "0"]}]
    facts.append({"kind": "classification", "classes": ["0", "1", "2"]})
    made = {propose(document, table, labels | {"grade": one}).pretrainings[0]["id"] for one in facts}
    assert len(made) == 3


def test_a_network_that_is_fitted_learns_values_and_classes_alone(document, world):
    table, labels = world
    document = sweep(document | {"architecture": {"class_path": "LinearBaseline"}}, ["grade"])
    assert "LinearBaseline is fitted for regression and classification alone, and 'grade'" in told(document, table, labels)


def test_a_part_without_a_class_without_the_others_or_without_an_event_is_told(document, world):
    table, labels = world
    clinic = table["cohort"] == "clinic"
    everywhere = told(sweep(document, ["found"]), table.assign(found=table["found"].where(~clinic, "a;b")), labels)
    assert "nobody without class a, b of 'found' is left for test" in everywhere
    rare = table.assign(found=["b" if i == 0 else "a" if i % 2 else ";" for i in range(len(table))])
    assert "nobody of class b of 'found' is left for" in told(sweep(document, ["found"]), rare, labels)
    alive = told(sweep(document, ["months"]), table.assign(died=0.0), labels)
    assert "the event 'died' was seen in nobody who is left for train" in alive and "stratify by died" in alive
    assert "'found' has one class only: a" in told(sweep(document, ["found"]), table.assign(found="a"), labels)


def test_what_a_kind_rules_out_is_told_before_anything_runs(document, world):
    table, labels = world
    bins = {"age": {"bins": {"width": 2.0}}}
    assert "'grade' is of kind ordinal" in told(sweep(document, ["grade"], heads={"grade": bins["age"]}), table, labels)
    loss = {"primary": {"class_path": "torch.nn.modules.loss.L1Loss"}}
    found = told(sweep(document, ["grade", "months", "age"], heads=bins, objective=loss), table, labels)
    assert all(f"cannot be the loss of '{name}'" in found for name in ("grade", "months", "age"))
    mixup = document["stages"][1]["data"] | {"augment": [{"class_path": "MixUp"}]}
    assert "MixUp cannot be used with 'months'" in told(sweep(document, ["months"], data=mixup), table, labels)
    assert propose(sweep(document, ["grade", "found", "age"], data=mixup, heads=bins), table, labels).trials


def test_metrics_and_samplers_follow_the_kind(document, world):
    table, labels = world
    sampler = {"class_path": "BalancedSampler", "init_args": {"label": "grade"}}
    data = document["stages"][1]["data"] | {"sampler": sampler}
    document = sweep(document, ["grade"], data=data, monitor="validation_quadratic_kappa")
    assert propose(document | {"search": {"metric": "mae"}}, table, labels).trials
    assert "no metric is called 'r2'" in told(document | {"search": {"metric": "r2"}}, table, labels)


def test_a_split_may_be_stratified_by_time_and_event(document, world):
    table, labels = world
    document = sweep(document, ["months"])
    document["split"]["stratify"] = ["months", "died"]
    rows = propose(document, table, labels).splits.merge(table[["scan_id", "died", "months"]])
    shares = rows.groupby("role")["died"].mean()
    assert shares.max() - shares.min() < 0.2


def test_an_external_cohort_may_have_no_class_that_is_not_trained_on(document, world):
    table, labels = world
    elsewhere = table["cohort"] == "lifespan"
    table = table.assign(found=table["found"].where(~elsewhere, "a;c"))
    document = sweep(document, ["found"]) | {"evaluate": {"external": [{"cohort": "lifespan"}]}}
    assert "has classes of 'found' that are not trained on: c" in told(document, table, labels)
