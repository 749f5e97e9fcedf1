import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import canonical_json
from tlimb.search.space import assign, candidate_of, grid


def problems_of(document) -> str:
    with pytest.raises(InputError) as caught:
        grid(read_sweep(document))
    return str(caught.value)


def test_the_documented_example_is_36_trials_of_12_candidates(document):
    document["search"] = {
        "seeds": [0, 1, 2],
        "space": {
            "architecture": [{"class_path": "ResNet", "init_args": {"depth": depth, "dims": 2}} for depth in (10, 18)],
            "stages.*.optimizer.init_args.lr": [1e-4, 1e-3, 1e-2],
            "stages.finetune.objective.auxiliary": [[], [{"class_path": "L2SP", "init_args": {"alpha": 0.01}}]],
        },
    }
    specs = grid(read_sweep(document))
    assert len(specs) == 36 and len({candidate_of(spec) for spec in specs}) == 12
    assert {stage["optimizer"]["init_args"]["lr"] for spec in specs for stage in spec["stages"]} == {1e-4, 1e-3, 1e-2}


def test_scratch_does_not_multiply_with_what_only_the_pretraining_has(document):
    document["search"]["space"] = {
        "stages.pretrain.epochs": [1, 2, 3],
        "stages.finetune.strategy": ["scratch", "full"],
    }
    specs = grid(read_sweep(document))
    scratch = [spec for spec in specs if len(spec["stages"]) == 1]
    assert len(scratch) == 2 and len(specs) == 2 + 2 * 3


def test_an_object_is_merged_unless_it_names_a_class():
    base = {"architecture": {"class_path": "ResNet", "init_args": {"depth": 18}}, "stages": [{"name": "a", "x": {"y": 1, "z": 2}}]}
    merged, _ = assign(base, "stages.a", {"x": {"y": 5}})
    assert merged["stages"][0] == {"name": "a", "x": {"y": 5, "z": 2}}
    replaced, _ = assign(base, "architecture", {"class_path": "SFCN"})
    assert replaced["architecture"] == {"class_path": "SFCN"}
    assert base["stages"][0]["x"]["y"] == 1


def test_several_paths_share_one_value(document):
    document["search"]["space"] = {"stages.pretrain.batch_size, stages.finetune.batch_size": [4, 8]}
    for spec in grid(read_sweep(document)):
        assert len({stage["batch_size"] for stage in spec["stages"]}) == 1


def test_values_that_belong_together_are_one_variant_of_the_whole_trial(document):
    slices = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial"}}
    document["search"]["space"] = {
        "*": [
            {"architecture": {"class_path": "ResNet", "init_args": {"dims": 2}}, "stages.*.data.module": slices},
            {"architecture": {"class_path": "SFCN"}, "stages.*.data.module": {"class_path": "BaseDataModule"}},
        ],
        "stages.finetune.strategy": ["scratch", "full"],
    }
    pairs = {(s["architecture"]["class_path"], s["stages"][0]["data"]["module"]["class_path"]) for s in grid(read_sweep(document))}
    assert pairs == {("ResNet", "CropCenterDataModule"), ("SFCN", "BaseDataModule")}
    document["search"]["space"]["*"] = [{"architectur": {}}, "SFCN"]
    text = problems_of(document)
    assert "did you mean 'architecture'" in text


def test_paths_that_lead_nowhere_and_variants_that_do_not_fit_are_all_named(document):
    document["search"]["space"] = {
        "stages.fintune.strategy": ["full"],
        "stages.finetune.epoch": [1],
        "stages.finetune.epochs": [1, "x"],
        "stages.finetune.early_stopping.patienc": [3],
        "optimizer": ["AdamW"],
        "architecture": [{"class_path": "ResNot"}, {"class_path": "ResNet", "init_args": {"dept": 18}}],
        "stages.*.data.recipe": ["defualt"],
        "split.test": [],
    }
    text = problems_of(document)
    assert "did you mean 'finetune'" in text
    assert "nothing is called 'epoch' there (did you mean 'epochs'?)" in text
    assert "search.space.'stages.finetune.epochs'[1]: stages[1].epochs: expected a valid integer" in text
    assert "patienc: unknown key (did you mean 'patience'?)" in text
    assert "nothing is called 'optimizer' there" in text
    assert "unknown architecture 'ResNot' (did you mean 'ResNet'?)" in text
    assert "did you mean 'depth'?" in text
    assert "unknown recipe 'defualt' (did you mean 'default'?)" in text
    assert "found an empty list" in text


def test_keeping_weights_near_an_encoder_that_is_not_there_is_refused(document):
    document["search"]["space"] = {
        "stages.finetune.strategy": ["scratch", "full"],
        "stages.finetune.objective.auxiliary": [[], [{"class_path": "L2SP"}]],
    }
    assert "L2SP keeps weights near a pretrained encoder" in problems_of(document)


def test_nothing_to_freeze_in_the_first_stage(document):
    document["search"]["space"] = {"stages.pretrain.strategy": ["full", "frozen"]}
    assert "stages[0].strategy: the first stage has no pretrained encoder to freeze" in problems_of(document)


@pytest.mark.parametrize("path, variants", [
    ("stages.finetune.targets", [["diagnosis"], ["age"]]),
    ("stages.finetune.data.labelled.cohort", [["clinic"], ["lifespan"]]),
    ("split.seed", [0, 1]),
])
def test_candidates_that_would_be_measured_on_other_people_or_targets_are_refused(document, path, variants):
    document["search"]["space"] = {path: variants}
    assert "candidates would not be measured on the same people and target" in problems_of(document)
    document["search"]["space"] = {"split.n": [5, 10]}
    assert len(grid(read_sweep(document))) == 4


def test_a_network_for_volumes_is_refused_on_slices_and_the_other_way_round(document):
    document["search"]["space"] = {"architecture": [{"class_path": "SFCN"}]}
    assert "SFCN takes volumes, and this module gives slices" in problems_of(document)
    document["search"]["space"] = {"stages.*.data.module": [{"class_path": "BaseDataModule"}]}
    assert "ResNet takes slices, and this module gives volumes" in problems_of(document)


def test_seeds_make_trials_of_one_candidate(document):
    specs = grid(read_sweep(document))
    assert len(specs) == 8 and len({candidate_of(spec) for spec in specs}) == 4


@settings(max_examples=25, deadline=None)
@given(
    rates=st.lists(st.floats(1e-6, 1, allow_nan=False), min_size=1, max_size=4, unique=True),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_a_grid_has_every_combination_once(rates, sizes, seeds):
    document = {
        "input": "x.csv",
        "stages": [{"name": "only", "targets": "age", "epochs": 1, "data": {"labelled": {"cohort": "c"}}}],
        "search": {"seeds": seeds, "space": {"stages.only.optimizer.init_args.lr": rates, "stages.*.batch_size": sizes}},
    }
    specs = grid(read_sweep(copy.deepcopy(document)))
    found = {(s["stages"][0]["optimizer"]["init_args"]["lr"], s["stages"][0]["batch_size"], s["seed"]) for s in specs}
    assert found == {(rate, size, seed) for rate in rates for size in sizes for seed in seeds}
    assert len({canonical_json(spec) for spec in specs}) == len(specs)
