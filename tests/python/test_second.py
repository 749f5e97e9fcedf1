"""Second sets of scans: unlabelled ones beside labelled, a domain to adapt to, chains with their own held-out people."""

import pandas as pd
import pytest
from contracts import check_json, check_table
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import read_json
from tlimb.search.jobs import write_round
from tlimb.search.preprocessed import all_fine
from tlimb.search.suggest import suggest

SLICES = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
SSL = {"primary": {"class_path": "Reconstruction"}}
SITE = {"class_path": "AdversarialRemoval", "init_args": {"column": "site"}}


@pytest.fixture
def sites(table, labels) -> pd.DataFrame:
    """The table with a site: two in the clinic, each with controls and patients."""
    labels["site"] = {"kind": "classification", "classes": ["east", "west"], "n": 60}
    return table.assign(site=[["east", "west"][i // 2 % 2] for i in range(len(table))])


def sweep(data: dict, split: dict | None = None, stages=(), **last) -> dict:
    """A sweep whose last stage learns the diagnosis from `data`."""
    stage = {"name": "finetune", "targets": "diagnosis", "epochs": 1, "data": data | {"module": SLICES}} | last
    usual = {"validation": 0.25, "test": 0.25, "stratify": ["diagnosis"]}
    architecture = {"class_path": "ResNet", "init_args": {"dims": 2}}
    return {"input": "c.csv", "architecture": architecture, "stages": [*stages, stage], "split": usual | (split or {})}


def propose(document: dict, table, labels):
    return suggest(read_sweep(document), table, labels, all_fine(table, ["default"]))


def problems_of(document: dict, table, labels) -> str:
    with pytest.raises(InputError) as caught:
        propose(document, table, labels)
    return str(caught.value)


def roles_of(proposal, split: str) -> dict[str, set]:
    rows = proposal.splits[proposal.splits["split"] == split]
    return {role: set(part["person"]) for role, part in rows.groupby("role")}


CLINIC = {"cohort": "clinic"}


def test_whoever_is_left_of_the_cohort_trains_without_a_label(table, labels):
    (trial,) = propose(sweep({"labelled": CLINIC, "unlabelled": CLINIC}, {"n": 4}), table, labels).trials
    proposal = propose(sweep({"labelled": CLINIC, "unlabelled": CLINIC}, {"n": 4}), table, labels)
    roles = roles_of(proposal, trial["split"])
    assert {role: len(people) for role, people in roles.items()} == {
        "train": 4, "validation": 6, "test": 6, "unlabelled": 8,
    }  # fmt: skip
    assert not roles["unlabelled"] & (roles["train"] | roles["validation"] | roles["test"])


def test_a_second_set_moves_nobody_who_is_measured(table, labels):
    document = sweep({"labelled": CLINIC}, {"n": 4})
    more = {"stages.finetune.data.unlabelled": [None, {"cohort": ["lifespan"], "n": 10}, {"cohort": ["clinic", "lifespan"]}]}
    proposal = propose(document | {"search": {"space": more}}, table, labels)
    found = [roles_of(proposal, trial["split"]) for trial in proposal.trials]
    assert [len(roles.get("unlabelled", ())) for roles in found] == [0, 10, 44]
    for role in ("train", "validation", "test"):
        assert found[0][role] == found[1][role] == found[2][role]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), n=st.none() | st.integers(2, 6), scheme=st.sampled_from(["holdout", "kfold"]))
def test_nobody_stands_on_two_sides_whatever_the_split(seed, n, scheme):
    rows = [(f"p{i}", ["east", "west"][i % 2], ["control", "patient"][i // 2 % 2]) for i in range(40)]
    table = pd.DataFrame(rows, columns=["person", "site", "diagnosis"]).assign(
        cohort="clinic", modality="T1w", scan_id=lambda t: t["person"] + "/1/T1w", mask=None, subject=lambda t: t["person"]
    )
    labels = {
        "site": {"kind": "classification", "classes": ["east", "west"]},
        "diagnosis": {"kind": "classification", "classes": ["control", "patient"]},
    }
    data = {role: CLINIC | {"where": {"site": name}} for role, name in (("source", "east"), ("target", "west"))}
    split = {"scheme": scheme, "seed": seed, "n": n} | ({"folds": 4, "validation": 0.25} if scheme == "kfold" else {})
    document = sweep(data, split)
    if scheme == "kfold":
        del document["split"]["test"]
    proposal = propose(document, table, labels)
    side = table.set_index("person")["site"]
    for name, part in proposal.splits.groupby("split"):
        assert part.groupby("person")["role"].nunique().max() == 1
        on_west = {"target", "test", "external:target-validation"}
        assert all((side[person] == "west") == (role in on_west) for person, role in zip(part["person"], part["role"]))
        assert set(part["role"]) == on_west | {"train", "validation", "external:source"}


def test_a_domain_is_tested_and_its_labels_are_hidden_from_training(tmp_path, sites, labels):
    data = {role: CLINIC | {"where": {"site": name}} for role, name in (("source", "east"), ("target", "west"))}
    document = sweep(data, objective={"auxiliary": [SITE]})
    proposal = propose(document, sites, labels)
    write_round(tmp_path, proposal, sites, {"labels": labels, "files": {}}, 8)
    (job,) = (tmp_path / "jobs").iterdir()
    facts, rows = read_json(job / "job.json"), pd.read_parquet(job / "table.parquet")
    check_json("job", facts)
    check_table("job", rows)
    assert facts["columns"] == {"site": {"kind": "classification", "classes": ["east", "west"]}}
    assert rows.loc[rows["role"].isin(["target", "test", "external:source"]), "diagnosis"].isna().all()
    assert rows.loc[rows["role"].isin(["train", "validation"]), "diagnosis"].notna().all()
    assert set(rows.loc[rows["role"] == "target", "site"]) == {"west"}
    tested = pd.read_parquet(job / "table-test.parquet")
    assert set(tested["role"]) == {"test", "external:source", "external:target-validation"}
    assert tested["diagnosis"].notna().all()


def test_hidden_labels_of_a_second_set_reach_no_training_task(tmp_path, table, labels):
    document = sweep({"labelled": CLINIC, "unlabelled": CLINIC}, {"n": 4})
    proposal = propose(document, table, labels)
    hidden = proposal.splits.loc[proposal.splits["role"] == "unlabelled", "scan_id"]
    other = {"control": "patient", "patient": "control"}
    turned = table.assign(diagnosis=table["diagnosis"].where(~table["scan_id"].isin(hidden), table["diagnosis"].map(other)))
    for name, people in (("a", table), ("b", turned)):
        write_round(tmp_path / name, proposal, people, {"labels": labels, "files": {}}, 8)
    tables = [next((tmp_path / name / "jobs").iterdir()) / "table.parquet" for name in "ab"]
    pd.testing.assert_frame_equal(*map(pd.read_parquet, tables))


def test_a_stage_before_holds_out_nobody_whom_an_earlier_one_has_seen(table, labels):
    stages = [
        {"name": "look", "epochs": 1, "data": {"unlabelled": {"cohort": ["lifespan", "clinic"]}, "module": SLICES}, "objective": SSL},
        {"name": "pretrain", "targets": "age", "epochs": 1, "data": {"labelled": {"cohort": "lifespan"}, "module": SLICES},
         "split": {"seed": 7, "validation": 0.3, "test": 0.3}},
    ]  # fmt: skip
    proposal = propose(sweep({"labelled": CLINIC}, stages=stages), table, labels)
    look, pretrain = (roles_of(proposal, line["split"]) for line in proposal.pretrainings)
    finetune = roles_of(proposal, proposal.trials[0]["split"])
    seen = set().union(*look.values())
    for later in (pretrain, finetune):
        assert not seen & (later["validation"] | later["test"])
    assert seen & pretrain["train"] and seen & finetune["train"]


def test_a_scan_that_has_one_of_several_targets_stays_where_the_rest_is_masked(table, labels):
    data = {"labelled": {"cohort": ["clinic", "lifespan"], "missing": "mask"}}
    document = sweep(data, {"stratify": ["diagnosis"]}, targets=["diagnosis", "age"])
    proposal = propose(document, table, labels)
    assert len(proposal.splits) == 60
    document["stages"][0]["data"]["labelled"]["missing"] = "drop"
    assert len(propose(document, table, labels).splits) == 24


@pytest.mark.parametrize(
    ("data", "last", "told"),
    [
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "FixMatch"}]}}, "FixMatch needs a second set of scans"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "DANN"}]}}, "DANN needs a second set of scans"),
        ({"labelled": CLINIC}, {"scenario": {"class_path": "Simultaneous"}}, "Simultaneous needs a second set of scans"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "AdversarialRemoval"}]}}, "init_args.column: missing; AdversarialRemoval has no default for it"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [SITE]}}, "no label column is called 'site'"),
        ({"labelled": CLINIC}, {"objective": {"combine": {"class_path": "PCGrad"}}}, "makes one loss of several targets'"),
        ({"labelled": CLINIC}, {"objective": {"primary": {"class_path": "Huber"}}}, "it is for the kind regression"),
        ({"labelled": CLINIC}, {"objective": {"primary": {"age": {"class_path": "Huber"}}}}, "no target of this stage is called so"),
        ({"labelled": CLINIC}, {"objective": {"primary": {"class_path": "SimCLR"}}}, "learns from images alone"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "Focal"}]}}, "is the loss of a target"),
        ({"labelled": CLINIC}, {"objective": {"primary": {"class_path": "L2SP"}}}, "L2SP stands beside the loss of a target"),
        ({"labelled": CLINIC, "unlabelled": CLINIC}, {"objective": {"primary": {"diagnosis": {"class_path": "FixMatch"}}}},
         "FixMatch stands beside the loss of a target"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "EWC"}]}}, "starts from scratch"),
        ({"labelled": CLINIC}, {"fisher": True}, "is for the stage after this one"),
        ({"labelled": CLINIC, "unlabelled": {"cohort": "clinik"}}, {}, "no cohort is called 'clinik' (did you mean 'clinic'?)"),
        ({"labelled": CLINIC | {"where": {"age": "30"}}}, {}, "'age' is of kind regression; scans are chosen by classes"),
        ({"labelled": CLINIC | {"where": {"diagnosis": "contrl"}}}, {}, "is called 'contrl' (did you mean 'control'?)"),
        ({"source": CLINIC, "target": CLINIC}, {}, "nobody is left who has no part in the first set of scans"),
        ({"labelled": CLINIC, "unlabelled": {"cohort": "lifespan"}}, {"data_augment": True}, "MixUp cannot be used beside a second"),
        ({"labelled": CLINIC}, {"objective": {"auxiliary": [{"class_path": "AdversarialRemoval", "init_args": {"column": "cohort"}}]}},
         "the scans that train have clinic of 'cohort'"),
    ],
)  # fmt: skip
def test_what_a_method_lacks_is_told_before_anything_runs(data, last, told, table, labels):
    if last.pop("data_augment", False):
        data = data | {"augment": [{"class_path": "MixUp"}]}
    assert told in problems_of(sweep(data, **last), table, labels)


@pytest.mark.parametrize("weight", [-1, float("nan"), {"ramp": "linear", "end": -1}, {"ramp": "steep"}, "much"])
def test_a_weight_that_is_none_is_told_with_its_path(weight):
    document = sweep({"labelled": CLINIC}, objective={"auxiliary": [{"class_path": "DANN", "weight": weight}]})
    with pytest.raises(InputError) as caught:
        read_sweep(document)
    assert "stages[0].objective.auxiliary[0].weight" in str(caught.value)


def test_a_domain_of_which_a_class_could_not_be_tested_is_told(sites, labels):
    data = {role: CLINIC | {"where": {"site": name}} for role, name in (("source", "east"), ("target", "west"))}
    told = problems_of(sweep(data, {"stratify": [], "seed": 4, "test": 2, "validation": 2}), sites, labels)
    assert "too few people: nobody of class" in told


def test_people_of_both_domains_are_tested_alike_whatever_the_number_that_trains():
    rows = [(f"p{i:02d}", site, ["control", "patient"][i % 2]) for i in range(24) for site in ("east", "west")]
    table = pd.DataFrame(rows, columns=["person", "site", "diagnosis"]).assign(
        cohort="clinic", modality="T1w", mask=None, subject=lambda t: t["person"], scan_id=lambda t: t["person"] + "/" + t["site"]
    )
    extra = [(f"w{i:02d}", "west", ["control", "patient"][i % 2]) for i in range(16)]
    more = pd.DataFrame(extra, columns=["person", "site", "diagnosis"]).assign(
        cohort="clinic", modality="T1w", mask=None, subject=lambda t: t["person"], scan_id=lambda t: t["person"] + "/west"
    )
    labels = {
        "site": {"kind": "classification", "classes": ["east", "west"]},
        "diagnosis": {"kind": "classification", "classes": ["control", "patient"]},
    }
    data = {role: CLINIC | {"where": {"site": name}} for role, name in (("source", "east"), ("target", "west"))}
    found = []
    for n in (4, 6):
        proposal = propose(sweep(data, {"n": n}), pd.concat([table, more], ignore_index=True), labels)
        found.append(roles_of(proposal, proposal.trials[0]["split"]))
    assert found[0]["test"] == found[1]["test"] and found[0]["validation"] == found[1]["validation"]


def test_hidden_targets_are_in_no_identity_and_the_meaning_of_columns_is(sites, labels):
    ages = {"labelled": {"cohort": "lifespan", "n": 12}, "unlabelled": {"cohort": "lifespan"}, "module": SLICES}
    first = {"name": "pretrain", "targets": "age", "epochs": 1, "data": ages, "split": {"validation": 3, "test": 3}}
    first["objective"] = {"auxiliary": [SITE]}
    document = sweep({"labelled": CLINIC}, stages=[first])
    proposal = propose(document, sites, labels)
    hidden = proposal.splits.loc[proposal.splits["role"] == "unlabelled", "scan_id"]
    other = sites.assign(age=sites["age"].mask(sites["scan_id"].isin(hidden), 50.0))
    assert propose(document, other, labels).pretrainings[0]["id"] == proposal.pretrainings[0]["id"]
    ordered = labels | {"site": {"kind": "ordinal", "classes": ["west", "east"]}}
    assert propose(document, sites, ordered).pretrainings[0]["id"] != proposal.pretrainings[0]["id"]


def test_variants_of_earlier_stages_are_checked_like_the_first(sites, labels):
    first = {"name": "pretrain", "targets": "age", "epochs": 1, "data": {"labelled": {"cohort": "lifespan"}, "module": SLICES}}
    document = sweep({"labelled": CLINIC}, stages=[first])
    for key, variant, told in [
        ("auxiliary", [{"class_path": "AdversarialRemoval", "init_args": {"column": "sitee"}}], "no label column is called 'sitee'"),
        ("primary", {"class_path": "CrossEntropy"}, "it is for the kind classification"),
    ]:
        plain = [] if key == "auxiliary" else None
        document["search"] = {"space": {f"stages.pretrain.objective.{key}": [plain, variant]}}
        assert told in problems_of(document, sites, labels)
    sites["site"] = "east"
    document["search"] = {"space": {"stages.finetune.objective.auxiliary": [[], [SITE]]}}
    assert "the scans that train have east of 'site'" in problems_of(document, sites, labels)


def test_trials_that_look_at_other_columns_are_packed_apart(tmp_path, sites, labels):
    balanced = {"class_path": "BalancedSampler", "init_args": {"label": "site"}}
    document = sweep({"labelled": CLINIC})
    document["search"] = {"space": {"*": [{"stages.finetune.data.sampler": balanced}, {"stages.finetune.objective.auxiliary": [SITE]}]}}
    proposal = propose(document, sites, labels)
    write_round(tmp_path, proposal, sites, {"labels": labels, "files": {}}, 8)
    jobs = [read_json(job / "job.json") for job in (tmp_path / "jobs").iterdir()]
    assert sorted(list(job["columns"]) for job in jobs) == [[], ["site"]]


def test_parts_of_a_domain_and_external_cohorts_are_never_one(table, labels):
    renamed = table.assign(cohort=table["cohort"].replace("lifespan", "source"), site=["east", "west"] * 30)
    labels["site"] = {"kind": "classification", "classes": ["east", "west"], "n": 60}
    data = {role: CLINIC | {"where": {"site": name}} for role, name in (("source", "east"), ("target", "west"))}
    document = sweep(data) | {"evaluate": {"external": [{"cohort": "source"}]}}
    assert "is what a part of the stage's own domains is called" in problems_of(document, renamed, labels)
