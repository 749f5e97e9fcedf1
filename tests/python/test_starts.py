"""What stages start from, as the search lays it out: stages before, published weights, networks of their own."""

import json

import pytest

from tlimb.config import read_sweep
from tlimb.errors import InputError, Problem
from tlimb.persons import person_digest
from tlimb.search.named_files import content_digest, weights_paths
from tlimb.search.preprocessed import all_fine
from tlimb.search.published import weights_problems
from tlimb.search.space import candidate_of, grid
from tlimb.search.suggest import suggest

CAE = {"class_path": "CAE"}
UNLABELLED = {"cohort": ["lifespan"]}
FILES = {"w.pth": {"digest": "0" * 16, "file": "/data/w.pth"}, "m.json": {"digest": "1" * 16, "file": "/data/m.json"}}


@pytest.fixture
def document(document) -> dict:
    """The sweep of other tests with one trial: full fine-tuning after pretraining."""
    document["search"] = {"seeds": [0], "space": {}}
    return document


def specs_of(document, files=None) -> list[dict]:
    return grid(read_sweep(document), files=files)


def problems_of(document) -> str:
    with pytest.raises(InputError) as caught:
        specs_of(document)
    return str(caught.value)


def test_a_stage_that_starts_from_a_file_needs_no_stage_before_it_and_carries_the_files_digest(document):
    document["stages"][1]["weights"] = {"path": "w.pth", "map": "m.json"}
    (spec,) = specs_of(document, FILES)
    assert [stage["name"] for stage in spec["stages"]] == ["finetune"]
    assert spec["stages"][0]["strategy"] == "full"
    changed = FILES | {"m.json": {"digest": "2" * 16, "file": "/data/m.json"}}
    (other,) = specs_of(document, changed)
    assert spec["stages"][0]["weights"]["digest"] != other["stages"][0]["weights"]["digest"]
    assert candidate_of(spec) != candidate_of(other)


def test_from_scratch_a_file_of_weights_makes_no_difference(document):
    document["search"]["space"] = {"stages.finetune.strategy": ["scratch"]}
    (plain,) = specs_of(document)
    document["stages"][1]["weights"] = {"path": "w.pth"}
    assert specs_of(document, FILES) == [plain]


def test_the_first_stage_may_be_frozen_on_published_weights_but_not_on_nothing(document):
    document["stages"] = document["stages"][1:]
    document["stages"][0] |= {"strategy": "frozen"}
    document["search"]["space"] = {}
    assert "no pretrained encoder to freeze" in problems_of(document)
    document["stages"][0]["weights"] = {"path": "w.pth"}
    assert specs_of(document, FILES)[0]["stages"][0]["strategy"] == "frozen"


def test_direct_transfer_needs_the_same_target_before_it(document):
    document["stages"][1]["strategy"] = "direct"
    assert "stages[1].strategy: direct needs the heads of the stage before, which has age and not" in problems_of(
        document
    )
    document["stages"][1]["targets"] = document["stages"][0]["targets"]
    assert specs_of(document)


def test_another_network_before_needs_the_part_that_takes_its_weights(document):
    document["architecture"] = {"class_path": "SliceSet"}
    for stage in document["stages"]:
        stage["data"].pop("module", None)
    sliced = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
    document["stages"][0] |= {"architecture": {"class_path": "SliceCNN"}}
    document["stages"][0]["data"]["module"] = sliced
    assert "stages[1].weights.part: missing; the stage before trains a SliceCNN and this one a SliceSet" in problems_of(
        document
    )
    document["stages"][1]["weights"] = {"part": "slice_encoder"}
    (spec,) = specs_of(document)
    assert spec["stages"][0]["architecture"] == {"class_path": "SliceCNN", "init_args": {}}
    assert spec["stages"][1]["weights"]["part"] == "slice_encoder"


def test_a_stage_that_names_the_trials_own_network_names_nothing(document):
    (plain,) = specs_of(document)
    document["stages"][0]["architecture"] = document["architecture"]
    assert specs_of(document) == [plain]


def test_a_stage_without_targets_has_unlabelled_scans_and_learns_from_images(document):
    first = document["stages"][0]
    first["targets"] = []
    assert "a primary term that learns from images alone (such as Reconstruction)" in problems_of(document)
    first["objective"] = {"primary": {"class_path": "Reconstruction"}}
    first["data"]["unlabelled"] = UNLABELLED
    assert "stages[0].data.labelled: a stage without targets has one set of scans" in problems_of(document)
    first["data"].pop("labelled")
    assert specs_of(document)
    first["targets"] = ["age"]
    assert "stages[0].data.labelled: missing; age must be known to learn it" in problems_of(document)


def test_the_last_stage_has_a_target(document):
    document["stages"][1]["targets"] = []
    assert "the last stage is what is measured" in problems_of(document)


def test_a_head_of_no_target_is_refused_with_the_nearest(document):
    document["stages"][0]["heads"] = {"agee": {"class_path": "MLPHead"}}
    assert "stages[0].heads.agee: no target of this stage, and no head of a term, is called so (did you mean 'age'?)" in problems_of(document)


def test_a_network_that_is_fitted_stands_once_whatever_training_would_have_varied(document):
    document["search"]["space"] = {
        "architecture": [{"class_path": "LinearBaseline"}],
        "stages.finetune.optimizer.init_args.lr": [1e-3, 1e-4],
        "stages.finetune.strategy": ["scratch", "full"],
        "stages.pretrain.epochs": [1, 2],
    }
    for stage in document["stages"]:
        stage["data"].pop("module", None)
    (spec,) = specs_of(document)
    assert [stage["name"] for stage in spec["stages"]] == ["finetune"] and spec["stages"][0]["strategy"] == "scratch"


def test_paths_of_weights_are_found_wherever_a_sweep_may_name_them():
    document = {
        "stages": [{"weights": {"path": "a.pth", "map": "timm"}}, {"weights": None}],
        "search": {
            "space": {
                "stages.finetune.weights": [{"path": "b.pth", "map": "b.json"}, None, {"part": "x"}],
                "stages.finetune.weights.path": ["c", "a.pth"],
                "*": [{"stages.finetune.weights": {"path": "d"}}, {"stages.finetune": {"weights": {"path": "e"}}}],
            }
        },
    }
    assert weights_paths(document) == ["a.pth", "b.pth", "b.json", "c", "d", "e"]
    assert weights_paths(json.loads("[]")) == []


def test_a_folders_digest_is_that_of_its_content_wherever_it_lies(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "model.pt").write_bytes(b"weights")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")
    (tmp_path / "two" / "models" / "model.pt").write_bytes(b"others")
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "two")


def test_weights_for_a_part_leave_nothing_else_fixed_at_random_values(document):
    weights = {"weights": {"path": "w.pth", "part": "layer1"}}
    for fixing in ({"strategy": "frozen"}, {"tuning": {"only": "bias"}}, {"tuning": {"adapter": {"class_path": "LoRA"}}}):
        document["stages"][1] = document["stages"][1] | {"strategy": "full", "tuning": {}} | weights | fixing
        assert "stages[1].weights.part: only 'layer1' has weights to start from" in problems_of(document)


def test_l2sp_beside_weights_that_it_cannot_anchor_is_refused(document):
    document["stages"][1]["objective"] = {"auxiliary": [{"class_path": "L2SP"}]}
    assert specs_of(document)
    document["stages"][1]["tuning"] = {"reinitialise": 1}
    assert "L2SP keeps the whole encoder near where it starts, and tuning.reinitialise" in problems_of(document)


def test_tuning_a_network_that_starts_from_nothing_is_told_beforehand(document):
    document["stages"] = document["stages"][1:]
    document["stages"][0]["tuning"] = {"freeze_up_to": "layer4"}
    assert "stages[0].tuning.freeze_up_to: a training from scratch has no pretrained encoder" in problems_of(document)


def test_a_term_of_ones_own_may_ask_for_heads_of_any_name(document):
    document["stages"][0]["heads"] = {"projection": {"class_path": "ProjectionHead"}}
    assert "no target of this stage, and no head of a term, is called so" in problems_of(document)
    document["stages"][0]["objective"] = {"auxiliary": [{"class_path": "own_terms.Contrast"}]}
    with pytest.raises(InputError) as caught:
        specs_of(document)
    assert [problem.where for problem in caught.value.problems] == ["stages[0].objective.auxiliary[0].class_path"]


@pytest.fixture
def folder(tmp_path):
    """A folder of an encoder as tlimb writes it, in so far as the search looks at it."""
    path = tmp_path / "encoder"
    path.mkdir()
    facts = {"id": "0" * 12, "status": "ok", "persons": [person_digest("clinic/clinic-003")], "recipe": {"spacing": 2.0}}
    (path / "encoder.json").write_text(json.dumps(facts))
    (path / "encoder.safetensors").write_bytes(b"")
    return path


def told_of(document, table, labels, folder) -> list[Problem]:
    document["stages"][1]["weights"] = {"path": "encoder"}
    sweep = read_sweep(document)
    proposal = suggest(sweep, table, labels, all_fine(table, ["default"]), files={"encoder": {"digest": "0" * 16}})
    return weights_problems(proposal, sweep, {"encoder": (folder, str(folder))})


def test_weights_that_know_held_out_people_are_refused_before_anything_runs(document, table, labels, folder):
    held_out = []
    for seed in range(8):
        document["split"]["seed"] = seed
        problems = told_of(document, table, labels, folder)
        held_out.append(bool(problems))
        assert all("persons who are held out took part in its training, such as clinic/clinic-003" in str(p) for p in problems)
    assert any(held_out) and not all(held_out)


def test_weights_of_scans_prepared_otherwise_are_refused_before_anything_runs(document, table, labels, folder):
    document["recipes"] = {"default": {"spacing": 4.0}}
    (problem, *_) = told_of(document, table, labels, folder)
    assert "its scans were prepared otherwise: spacing 2.0 against 4.0 (set the recipe to theirs)" in str(problem)
