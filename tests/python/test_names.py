"""What candidates are called where they differ in how they are tuned, in what they start from, or are not trained."""

import pytest

from tlimb.config import Tuning, read_sweep
from tlimb.ranking.names import candidate_names, settings_of, strategy_of
from tlimb.ranking.starts import published_notes
from tlimb.ranking.tuning_words import tuning_words
from tlimb.ranking.varied import varied_paths
from tlimb.search.space import grid


def names_of(document, variants: list[dict]) -> list[tuple[str, str]]:
    """(name, strategy) of the candidate of each variant of the last stage."""
    document["search"] = {"seeds": [0], "space": {"stages.finetune": variants}}
    trials = {str(i): {"spec": spec, "init": "e"} for i, spec in enumerate(grid(read_sweep(document)))}
    names = candidate_names(trials)
    return [(names[key], strategy_of(trial)) for key, trial in trials.items()]


def test_a_way_to_tune_is_named_by_what_it_does(document):
    ways = [
        {"tuning": {}},
        {"tuning": {"average": {"kind": "ema"}}},
        {"tuning": {"adapter": {"class_path": "LoRA", "init_args": {"rank": 8}}}},
        {"tuning": {"freeze_up_to": "layer3", "layer_decay": 0.5}},
    ]
    assert names_of(document, ways) == [
        ("full", "full"),
        ("full, ema 0.999", "full + ema"),
        ("full, LoRA rank 8", "full + LoRA"),
        ("full, frozen up to layer3 + layer decay 0.5", "full + frozen up to layer3"),
    ]


def test_heads_are_named_by_their_form_and_their_bins(document):
    document["stages"][1]["targets"] = "age"
    heads = [{}, {"age": {"class_path": "MLPHead"}}, {"age": {"bins": {"low": 20.0, "high": 90.0, "width": 5.0}}}]
    names = [name for name, _ in names_of(document, [{"heads": one} for one in heads])]
    assert len(set(names)) == 3 and "MLPHead" in names[1] and "width 5" in names[2]


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"head_first": 2, "only": "bias"}, ["bias only", "head first for 2"]),
        ({"unfreeze": 3, "reinitialise": 1}, ["a block more every 3", "last 1 anew"]),
        ({"unfreeze": [{"epoch": 2, "block": "layer4"}]}, ["layer4 from epoch 2"]),
        ({"average": {"kind": "swa", "start": 5}}, ["swa from epoch 5"]),
        ({}, []),
    ],
)
def test_every_setting_of_tuning_has_its_words(tuning, words):
    assert tuning_words(Tuning.model_validate(tuning).model_dump()) == words


def test_a_network_that_is_fitted_has_no_settings_of_training(document):
    document["architecture"] = {"class_path": "LinearBaseline"}
    document["search"] = {"seeds": [0], "space": {}}
    (spec,) = grid(read_sweep(document))
    found = settings_of({"spec": spec, "init": ""})
    assert found["strategy",] == "fitted"
    assert not any(path[-1] in ("epochs", "batch_size", "lr", "tuning") for path in found)


def test_weights_of_which_nothing_is_known_are_told_once_and_tlimbs_own_not_at_all():
    start = {"origin": "file", "path": "r18.pth", "trained_on": "ResNet of torchvision or timm", "licence": None}
    own = {"origin": "file", "path": "encoder", "id": "0" * 12}
    (note,) = published_notes([{"start": start}, {"start": dict(start)}, {"start": own}, {"start": None}, {}])
    assert note.startswith("Some candidates start from the weights r18.pth (ResNet of torchvision or timm), licence not known")


def l2sp(alpha, **more) -> dict:
    return {"class_path": "L2SP", "init_args": {"alpha": alpha}} | more


def searched_names(document, space: dict, points: list[list[dict]]) -> list[str]:
    """The names of candidates with these auxiliary terms, which a search over `space` has drawn."""
    document["search"] = {"seeds": [0], "space": {"stages.finetune.objective.auxiliary": points}}
    trials = {str(i): {"spec": spec, "init": "e"} for i, spec in enumerate(grid(read_sweep(document)))}
    return list(candidate_names(trials, space).values())


AUXILIARY = "stages.finetune.objective.auxiliary"
DRAWN = {"log_uniform": [0.0001, 1]}


@pytest.mark.parametrize(
    ("space", "points", "names"),
    [
        ({AUXILIARY: [[], [l2sp(DRAWN)]]}, [[], [l2sp(0.0123)]], ["full", "full, L2SP alpha 0.0123"]),
        ({AUXILIARY: {"variants": [[], [l2sp(DRAWN)]]}}, [[], [l2sp(0.0123)]], ["full", "full, L2SP alpha 0.0123"]),
        ({AUXILIARY: [[], [l2sp(1, weight=DRAWN)]]}, [[], [l2sp(1, weight=0.5)]], ["full", "full, L2SP weight 0.5"]),
        ({AUXILIARY: [[], [l2sp(0.01)], [l2sp(0.1)]]}, [[], [l2sp(0.1)]], ["full", "full, L2SP alpha 0.1"]),
        (
            {"stages.finetune": [{}, {"objective": {"auxiliary": [l2sp(DRAWN)]}}]},
            [[], [l2sp(0.2)]],
            ["full", "full, L2SP alpha 0.2"],
        ),
        (
            {AUXILIARY: [[l2sp(0.01), {"class_path": "BSS"}], [{"class_path": "BSS", "weight": 0.1}], []]},
            [[l2sp(0.01), {"class_path": "BSS"}], [{"class_path": "BSS", "weight": 0.1}], []],
            ["full, L2SP, BSS", "full, BSS weight 0.1", "full"],
        ),
        ({AUXILIARY: [[], [l2sp(0.01)]]}, [[], [l2sp(0.01)]], ["full", "full, L2SP"]),
    ],
)
def test_a_drawn_argument_of_a_term_is_named_where_one_candidate_alone_has_the_term(document, space, points, names):
    assert searched_names(document, space, points) == names


def test_a_weight_that_moves_is_one_value_of_what_a_space_varies(document):
    ramp = {"ramp": "linear", "start": 0, "end": 1}
    space = {"stages.finetune.objective": [{"primary_weight": 1}, {"primary_weight": ramp}]}
    assert varied_paths(space, ["pretrain", "finetune"]) == {("finetune", "objective", "primary_weight")}


PATHS = [("optimizer",), ("optimizer", "momentum"), ("batch_size",)]


def test_equal_arguments_of_two_terms_are_both_named(document):
    terms = [[l2sp(0.01, weight=w), {"class_path": "BSS", "weight": w}] for w in (0.1, 0.2)]
    names = searched_names(document, {}, [*terms, []])
    assert names == ["full, L2SP weight 0.1, BSS weight 0.1", "full, L2SP weight 0.2, BSS weight 0.2", "full"]


def test_what_a_space_varies_is_told_by_paths():
    optimizers = [{"class_path": "SGD", "init_args": {"momentum": {"uniform": [0.5, 0.9]}}}, {"class_path": "AdamW"}]
    space = {
        "stages.*.optimizer": optimizers,
        "stages.finetune.batch_size, stages.pretrain.batch_size": {"int": [4, 8]},
        "architecture.init_args.depth": [10, 18],
        "stages.-1.objective.auxiliary.0.weight": [1.0],
    }
    both = [(stage, *path) for stage in ("pretrain", "finetune") for path in PATHS]
    assert varied_paths(space, ["pretrain", "finetune"]) == {*both, ("architecture", "depth")}
    together = {"*": [{"stages.-1.epochs": 1, "split.n": 4}, {"stages.-1.epochs": 2, "split.n": 4}]}
    assert varied_paths(together, ["pretrain", "finetune"]) == {("finetune", "epochs")}


BSS, NOISE = {"class_path": "BSS"}, {"class_path": "RandomNoise"}


def named(document, space: dict, drawn: dict) -> list[str]:
    """The names of the candidates of `drawn`, the points that a search over `space` has asked for."""
    document["search"] = {"seeds": [0], "space": drawn}
    trials = {str(i): {"spec": spec, "init": "e"} for i, spec in enumerate(grid(read_sweep(document)))}
    return list(candidate_names(trials, space).values())


@pytest.mark.parametrize(
    ("place", "form", "drawn", "terms"),
    [
        ("0.init_args.alpha", DRAWN, 0.3, "L2SP alpha 0.3, BSS"),
        ("-2.weight", DRAWN, 0.3, "L2SP weight 0.3, BSS"),
        ("*.weight", DRAWN, 0.3, "L2SP weight 0.3, BSS weight 0.3"),
        ("1", [BSS | {"weight": 0.3}, BSS], BSS | {"weight": 0.3}, "L2SP, BSS weight 0.3"),
        ("5.weight", DRAWN, None, "L2SP, BSS"),
    ],
)
def test_an_argument_varied_at_a_place_of_a_list_is_named_with_its_class(document, place, form, drawn, terms):
    document["stages"][-1]["objective"] = {"auxiliary": [l2sp(0.01), BSS]}
    networks = {"architecture": [{"class_path": "ResNet", "init_args": {"dims": 2}}, {"class_path": "LinearBaseline"}]}
    address = f"{AUXILIARY}.{place}"
    points = networks | ({address: [drawn]} if drawn is not None else {})
    trained, fitted = named(document, networks | {address: form}, points)
    assert trained == f"full, ResNet, CropCenterDataModule, {terms}"
    assert fitted == "fitted, LinearBaseline, BaseDataModule"


def test_two_terms_of_one_class_are_told_apart(document):
    document["stages"][-1]["objective"] = {"auxiliary": [l2sp(0.01), l2sp(0.01)]}
    space = {f"{AUXILIARY}.0.init_args.alpha": [0.1, 0.5]}
    assert named(document, space, space) == ["L2SP alpha 0.1", "L2SP alpha 0.5"]
    space = {f"{AUXILIARY}.1.init_args.alpha": [0.1, 0.5]}
    assert named(document, space, space) == ["L2SP 2 alpha 0.1", "L2SP 2 alpha 0.5"]


def test_augmentations_are_named_by_their_class(document):
    place = "stages.finetune.data.augment"
    steps = [[], [{"class_path": "RandomFlip"}, NOISE]]
    assert named(document, {}, {place: steps}) == ["full", "full, RandomFlip, RandomNoise"]
    document["stages"][-1]["data"]["augment"] = [{"class_path": "RandomBlur"}, NOISE]
    space = {f"{place}.{i}.init_args.probability": [0.1, 0.5] for i in (0, 1)}
    assert named(document, space, space)[1] == "RandomBlur probability 0.1, RandomNoise probability 0.5"


def test_what_is_varied_in_one_stage_is_not_told_of_another(document):
    space = {"stages.finetune": [{"strategy": "scratch"}, {"strategy": "full"}], "stages.finetune.epochs": [1, 2]}
    document["search"] = {"seeds": [0], "space": space}
    specs = enumerate(grid(read_sweep(document)))
    trials = {str(i): {"spec": spec, "init": "e" if len(spec["stages"]) > 1 else ""} for i, spec in specs}
    names = ["scratch, epochs 1", "scratch, epochs 2", "full, epochs 1", "full, epochs 2"]
    assert sorted(candidate_names(trials, space).values()) == sorted(names)


def test_what_only_a_training_has_is_not_told_of_a_model_that_is_applied_as_it_is(document):
    ways = [{"strategy": "direct"}, *({"strategy": "full", "optimizer": {"init_args": {"lr": lr}}} for lr in (0.01, 0.1))]
    document["stages"][-1]["targets"] = "age"
    assert [name for name, _ in names_of(document, ways)] == ["direct", "full, lr 0.01", "full, lr 0.1"]
