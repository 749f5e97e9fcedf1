import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlimb.config import read_sweep
from tlimb.errors import InputError
from tlimb.files import canonical_json
from tlimb.search.classes import function_problems
from tlimb.search.space import assign, candidate_of, expand, grid


HISTOGRAM = {"class_path": "HistogramStandardisation"}


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
    resnet = {"class_path": "ResNet", "init_args": {"depth": 18}}
    base = {"architecture": resnet, "stages": [{"name": "a", "x": {"y": 1, "z": 2}}]}
    merged, _ = assign(base, "stages.a", {"x": {"y": 5}})
    assert merged["stages"][0] == {"name": "a", "x": {"y": 5, "z": 2}}
    replaced, _ = assign(base, "architecture", {"class_path": "SFCN"})
    assert replaced["architecture"] == {"class_path": "SFCN"}
    assert base["stages"][0]["x"]["y"] == 1


def test_an_argument_of_a_class_that_another_key_varies_is_set_where_the_variant_leaves_it_out(document):
    del document["architecture"]
    document["search"] = {
        "seeds": [0],
        "space": {
            "architecture": [{"class_path": "ResNet"}, {"class_path": "CNN3D"}],
            "architecture.init_args.depth": {"variants": [10, 18], "when": {"architecture": {"class_path": "ResNet"}}},
            "stages.*.data.module": [{"class_path": "BaseDataModule"}],
        },
    }
    networks = [spec["architecture"] for spec in grid(read_sweep(document))]
    assert [(one["class_path"], one["init_args"]) for one in networks] == [("ResNet", {"depth": 10}), ("ResNet", {"depth": 18}), ("CNN3D", {})]


def test_rates_that_no_training_can_have_are_told_before_it_with_their_path(document):
    stages = document["stages"]
    stages[0] |= {"optimizer": {"class_path": "SGD", "init_args": {"lr": float("nan"), "weight_decay": -1}}}
    stages[1] |= {"optimizer": {"class_path": "AdamW", "init_args": {"lr": -1}}, "scheduler": {"class_path": "StepLR"}}
    document["search"]["space"] = {"stages.pretrain.scheduler": [None, {"class_path": "WarmupCosine"}]}
    told = problems_of(document)
    assert "stages[0].optimizer.init_args.lr: expected finite numbers, found nan" in told
    assert "stages[1].optimizer.init_args.lr: AdamW: expected 0.0 <= lr, found lr -1" in told
    assert "stages[1].scheduler.init_args.step_size: missing; StepLR has no default for it" in told
    where = "search.space.'stages.pretrain.scheduler'[1]: stages[0].scheduler.init_args: WarmupCosine"
    assert where in told and "found warmup 5, epochs 3" in told


MONAI = "monai.networks.nets.densenet.DenseNet121"
WARMUP = {"class_path": "WarmupCosine"}
SGD, NESTEROV = ({"class_path": "SGD", "init_args": {"nesterov": one}} for one in (False, True))
OPTIMIZER, SCHEDULER = "stages.finetune.optimizer", "stages.finetune.scheduler"
MOMENTUM = f"{OPTIMIZER}.init_args.momentum"


@pytest.mark.parametrize("last, space, unless, points", [
    ({"scheduler": WARMUP, "epochs": 3}, {"stages.finetune.epochs": [10, 20]}, [], 2),
    ({"optimizer": SGD}, {MOMENTUM: [0.5, 0.9], f"{OPTIMIZER}.init_args.nesterov": [False, True]}, [], 4),
    ({"optimizer": NESTEROV}, {MOMENTUM: [0.5, 0.9]}, [], 2),
    ({"optimizer": NESTEROV}, {MOMENTUM: [0.5, 0.9], "stages.finetune.batch_size": [4, 8]}, [], 4),
    ({"optimizer": NESTEROV}, {OPTIMIZER: [{"class_path": "AdamW"}, SGD]}, [], 2),
    ({"scheduler": {"class_path": "StepLR"}}, {f"{SCHEDULER}.init_args.step_size": [2, 3]}, [], 2),
    ({"scheduler": WARMUP, "epochs": 3}, {"*": [{"stages.finetune.epochs": 10}, {SCHEDULER: None}]}, [], 2),
    ({}, {OPTIMIZER: [{"class_path": "SGD", "init_args": {
        "momentum": {"variants": [0.0, 0.9]}, "nesterov": {"variants": [False, True]}}}]},
     [{f"{OPTIMIZER}[0].init_args.momentum": 0.0, f"{OPTIMIZER}[0].init_args.nesterov": True}], 3),
    ({}, {SCHEDULER: [None, WARMUP], "stages.finetune.epochs": [3, 10]},
     [{SCHEDULER: WARMUP, "stages.finetune.epochs": 3}], 3),
])  # fmt: skip
def test_arguments_are_held_against_each_other_in_whole_points(document, last, space, unless, points):
    document["stages"][1] |= last
    document["search"] = {"seeds": [0], "space": space, "unless": unless}
    assert len(grid(read_sweep(document))) == points


@pytest.mark.parametrize("last, space, wheres", [
    ({"optimizer": NESTEROV}, {MOMENTUM: [0.5, 0.0]}, [f"search.space.'{MOMENTUM}'[1]: stages[1].optimizer.init_args"]),
    ({"scheduler": WARMUP}, {"stages.finetune.epochs": [10, 4]},
     ["search.space.'stages.finetune.epochs'[1]: stages[1].scheduler.init_args: WarmupCosine"]),
    ({"optimizer": {"class_path": "AdamW", "init_args": {"lr": -1}}}, {"stages.finetune.batch_size": [4, 8]},
     ["- stages[1].optimizer.init_args.lr: AdamW"]),
    ({"optimizer": {"class_path": "AdamW", "init_args": {"weight_decay": -1}}}, {f"{OPTIMIZER}.init_args.lr": [-2, 1]},
     ["- stages[1].optimizer.init_args.weight_decay: AdamW", f"search.space.'{OPTIMIZER}.init_args.lr'[0]: stages[1]"]),
    ({"optimizer": SGD}, {MOMENTUM: [0.0, 0.9], f"{OPTIMIZER}.init_args.nesterov": [False, True]},
     [f"search.space.'{MOMENTUM}'[0] with search.space.'{OPTIMIZER}.init_args.nesterov'[1]: stages[1].optimizer"]),
    ({"scheduler": {"class_path": "StepLR"}}, {
        f"{SCHEDULER}.init_args.step_size": {"variants": [2], "when": {"stages.finetune.batch_size": 4}},
        "stages.finetune.batch_size": [4, 8]},
     ["search.space.'stages.finetune.batch_size'[1]: stages[1].scheduler.init_args.step_size: missing"]),
])  # fmt: skip
def test_what_a_class_refuses_is_told_with_the_value_or_the_point_that_brings_it(document, last, space, wheres):
    document["stages"][1] |= {"epochs": 10} | last
    document["search"] = {"seeds": [0], "space": space}
    told = problems_of(document)
    assert all(where in told for where in wheres) and len(told.splitlines()) == 1 + len(wheres), told


def test_the_documented_network_of_monai_needs_nothing_that_the_data_say(document):
    words = (Path(__file__).parents[2] / "docs" / "own-networks.md").read_text()
    (line,) = [one for one in words.splitlines() if one.startswith("Networks of MONAI and timm need no trust")]
    document["architecture"] = json.loads("{" + line.split("`")[1] + "}")
    document["search"]["space"] = {}
    assert {spec["architecture"]["class_path"] for spec in grid(read_sweep(document))} == {
        MONAI
    }
    document["architecture"]["init_args"] = {}
    told = problems_of(document)
    assert told.splitlines()[1:] == [f"  - architecture.init_args.out_channels: missing; {MONAI} has no default for it"]


def test_a_rate_below_0_is_refused_of_a_class_that_does_not_say_so(document, tmp_path, monkeypatch):
    source = "class Own:\n    def __init__(self, params, lr, weight_decay=0.0): ...\n"
    (tmp_path / "lab_optimizer.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    own = {"class_path": "lab_optimizer.Own", "init_args": {"lr": 0.1, "weight_decay": -0.1}}
    document["stages"][1]["optimizer"] = own
    with pytest.raises(InputError, match=r"stages\[1\].optimizer.init_args.weight_decay: expected a number of at leas"):
        grid(read_sweep(document), trusted=["lab_optimizer"])


def test_an_argument_that_only_some_of_the_varied_classes_take_is_told_with_both_variants(document):
    networks = [{"class_path": name, "init_args": {"dims": 2}} for name in ("ResNet", "DenseNet")]
    document["search"] = {"seeds": [0], "space": {"architecture": networks, "architecture.init_args.depth": [18]}}
    told = problems_of(document)
    assert "search.space.'architecture'[1]: architecture.init_args.depth: expected 121, 169 or 201, found 18" in told


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
    chosen = [(spec["architecture"], spec["stages"][0]["data"]["module"]) for spec in grid(read_sweep(document))]
    pairs = {(architecture["class_path"], module["class_path"]) for architecture, module in chosen}
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
    assert "L2SP looks back at a pretrained encoder" in problems_of(document)


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


def test_folds_inner_folds_repeats_and_replicates_make_trials_of_one_candidate(document):
    document["split"] = {"scheme": "nested", "folds": 3, "inner_folds": 2, "repeats": 2, "replicates": 4}
    document["search"] = {"seeds": [0, 1], "space": {"split.n": [10, 20]}}
    trials = [trial for point in grid(read_sweep(document)) for trial in expand(point)]
    assert len(trials) == 2 * 2 * (3 * 2 * 2 * 4) == len({canonical_json(trial) for trial in trials})
    assert len({candidate_of(trial) for trial in trials}) == 2


@pytest.mark.parametrize("split, message", [
    ({"scheme": "kfold", "test": 0.3}, "test: scheme 'kfold' does not use it: each of the folds is the test part once"),
    ({"scheme": "nested", "validation": 0.3}, "validation: scheme 'nested' does not use it: each of the inner folds"),
    ({"scheme": "holdout", "folds": 3}, "split.folds: scheme 'holdout' does not use it (leave it out)"),
    ({"scheme": "site", "file": "a.csv"}, "split.file: scheme 'site' does not use it"),
    ({"scheme": "file"}, "split.file: missing; the scheme 'file' needs a table of persons and roles"),
    ({"scheme": "file", "file": "a.csv", "repeats": 2}, "split.repeats: scheme 'file' does not use it"),
    ({"scheme": "kfold", "folds": 3, "fold": 3}, "split.fold: found 3, expected a number below 3, counted from 0"),
    ({"repeats": 2, "repeat": 2}, "split.repeat: found 2, expected a number below 2"),
    ({"replicate": 0}, "split.replicate: picks one of `replicates`, which is not set"),
    ({"replicates": 2, "replicate": 5}, "split.replicate: found 5, expected a number below 2"),
    ({"validation": 0.5, "test": 0.5}, "validation and test together leave nobody to train on"),
    ({"scheme": "kfold", "folds": 2, "validation": 0.5}, "validation and a fold together leave nobody to train on"),
])
def test_settings_of_a_split_that_cannot_go_together_are_told(document, split, message):
    document["split"] = split
    assert message in problems_of(document)


def test_counts_of_persons_are_no_shares(document):
    document["split"] = {"validation": 5, "test": 9}
    assert len(grid(read_sweep(document))) == 8


def test_an_earlier_stage_is_divided_once(document):
    document["stages"][0]["split"] = {"scheme": "kfold", "repeats": 2}
    text = problems_of(document)
    assert "stages[0].split.scheme: expected 'holdout', found 'kfold'" in text
    assert "stages[0].split.repeats: only the sweep's own split has it" in text
    document["stages"][0]["split"] = {"folds": 3}
    assert "stages[0].split.folds: scheme 'holdout' does not use it" in problems_of(document)


def test_time_series_need_a_module_that_presents_them_and_images_another(document):
    document["recipes"] = {"default": {"kind": "series"}}
    text = problems_of(document)
    message = "CropCenterDataModule presents images, and recipe 'default' makes time series (expected SeriesDataModule)"
    assert message in text
    document["recipes"] = {"default": {}}
    document["stages"][1]["data"]["module"] = {"class_path": "SeriesDataModule"}
    assert "SeriesDataModule presents time series, and recipe 'default' makes images" in problems_of(document)


def test_the_classes_of_data_and_its_hooks_are_checked_with_their_paths(document):
    document["stages"][0]["data"] |= {
        "dataset": {"class_path": "ScanDatasett"},
        "sampler": {"class_path": "BalancedSamplr"},
        "normalise": {"class_path": "my_lab.Scaler"},
        "augment": [{"class_path": "RandomFlop"}],
        "hooks": {"on_before_batch_transfer": "tlimb.seeds.seed_four", "on_after_batch_transfer": "my_lab.jitter"},
    }
    text = problems_of(document)
    assert "stages[0].data.dataset.class_path: unknown dataset 'ScanDatasett' (did you mean 'ScanDataset'?)" in text
    assert "unknown sampler 'BalancedSamplr' (did you mean 'BalancedSampler'?)" in text
    assert "stages[0].data.normalise.class_path: module 'my_lab' is not trusted" in text
    assert "stages[0].data.augment[0].class_path: unknown augment 'RandomFlop' (did you mean 'RandomFlip'?)" in text
    assert "on_before_batch_transfer: no function tlimb.seeds.seed_four is defined (did you mean 'seed_for'?)" in text
    message = "module 'my_lab' is not trusted (name it in trusted_modules to allow my_lab.jitter)"
    assert f"on_after_batch_transfer: {message}" in text


def test_a_hook_is_found_in_its_module_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "lab_hooks.py").write_text("import does_not_exist\n\ndef jitter(batch):\n    return batch\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert function_problems("lab_hooks.jitter", "hooks", ["lab_hooks"]) == []
    paths = ("lab_hooks.jiter", "jitter", "lab_hooks.no.jitter")
    assert [function_problems(path, "hooks", ["lab_hooks"])[0].message for path in paths] == [
        "no function lab_hooks.jiter is defined",
        "expected the import path of a function, found 'jitter'",
        "no module lab_hooks.no is found",
    ]


def test_a_hook_may_be_a_name_that_its_package_imports_or_assigns(tmp_path, monkeypatch):
    (tmp_path / "lab_named").mkdir()
    source = "from .inner import jitter, shake as stir\n\nsame = jitter\n"
    (tmp_path / "lab_named" / "__init__.py").write_text(source)
    (tmp_path / "lab_named" / "open.py").write_text("from .inner import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("jitter", "stir", "same", "open.anything"):
        assert function_problems(f"lab_named.{name}", "hooks", ["lab_named"]) == []
    (problem,) = function_problems("lab_named.sti", "hooks", ["lab_named"])
    assert problem.hint == "did you mean 'stir'?"


def test_a_hook_in_a_source_that_is_no_python_is_told_with_its_file_and_line(tmp_path, monkeypatch):
    (tmp_path / "lab_torn.py").write_text("def jitter(batch):\n    return batch]\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = function_problems("lab_torn.jitter", "hooks", ["lab_torn"])
    assert str(problem).startswith(f"hooks: {tmp_path / 'lab_torn.py'}, line 2: ")


@pytest.mark.parametrize("earlier, own", [
    ({"class_path": "DatasetZScore"}, None),
    (None, {"class_path": "DatasetZScore"}),
    ({"class_path": "DatasetZScore"}, {"class_path": "HistogramStandardisation", "init_args": {"scale": [0, 2]}}),
    (HISTOGRAM, HISTOGRAM | {"init_args": {"scale": [0, 2]}}),
    (HISTOGRAM | {"init_args": {"scale": [0, 2], "refit": True}}, HISTOGRAM),
])
def test_a_stage_on_another_scale_of_intensities_than_its_encoder_is_refused(document, earlier, own):
    document["stages"][0]["data"]["normalise"] = earlier
    document["stages"][1]["data"]["normalise"] = own
    text = problems_of(document)
    assert "stages[1].data.normalise: expected that of stages[0], from whose encoder it starts" in text
    assert all((spec["class_path"] if spec else "none") in text for spec in (earlier, own))
    assert "(set stages.*.data.normalise)" in text
    document["search"]["space"] = {"stages.finetune.strategy": ["scratch"]}
    assert grid(read_sweep(document))


def test_a_stage_may_fit_its_normaliser_again_or_name_its_class_by_path(document):
    path = "tlimb.data.normalise.DatasetZScore"
    document["stages"][0]["data"]["normalise"] = {"class_path": "DatasetZScore"}
    document["stages"][1]["data"]["normalise"] = {"class_path": path, "init_args": {"refit": False}}
    assert grid(read_sweep(document))
    document["stages"][1]["data"]["normalise"] = HISTOGRAM | {"init_args": {"refit": True}}
    assert grid(read_sweep(document))


@settings(max_examples=25, deadline=None)
@given(
    rates=st.lists(st.floats(1e-6, 1, allow_nan=False), min_size=1, max_size=4, unique=True),
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_a_grid_has_every_combination_once(rates, sizes, seeds):
    space = {"stages.only.optimizer.init_args.lr": rates, "stages.*.batch_size": sizes}
    document = {
        "input": "x.csv",
        "stages": [{"name": "only", "targets": "age", "epochs": 1, "data": {"labelled": {"cohort": "c"}}}],
        "search": {"seeds": seeds, "space": space},
    }
    specs = grid(read_sweep(copy.deepcopy(document)))
    stages = [(spec["stages"][0], spec["seed"]) for spec in specs]
    found = {(stage["optimizer"]["init_args"]["lr"], stage["batch_size"], seed) for stage, seed in stages}
    assert found == {(rate, size, seed) for rate in rates for size in sizes for seed in seeds}
    assert len({canonical_json(spec) for spec in specs}) == len(specs)
